"""Tests of vitbench/runtimes."""
