"""Tests of vitbench/results."""
