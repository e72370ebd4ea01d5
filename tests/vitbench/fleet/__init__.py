"""The fleet: many machines for one run."""
