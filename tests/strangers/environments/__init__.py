"""Environments that a user may have, with what a command makes of each."""
