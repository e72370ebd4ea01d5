"""Tests of vitbench/cases."""
