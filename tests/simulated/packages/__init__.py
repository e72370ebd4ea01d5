"""Packages that a machine with a GPU has, simulated."""
