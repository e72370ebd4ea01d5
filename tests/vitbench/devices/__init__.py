"""Tests of vitbench/devices."""
