"""Tests of vitbench/cli."""
