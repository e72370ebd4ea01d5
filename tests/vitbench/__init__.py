"""Tests of vitbench/."""
