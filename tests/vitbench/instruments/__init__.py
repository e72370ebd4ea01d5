"""Tests of vitbench/instruments."""
