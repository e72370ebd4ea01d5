"""Tests of vitbench/engine."""
