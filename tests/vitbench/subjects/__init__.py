"""Tests of vitbench/subjects."""
