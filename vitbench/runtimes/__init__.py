"""How a module is run: one file for each runtime."""
