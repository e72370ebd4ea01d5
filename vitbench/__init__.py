"""vitbench measures vision attention on the machine in front of it."""

__version__ = "0.1.0"
