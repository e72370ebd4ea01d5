"""Tests of vitbench/analysis."""
