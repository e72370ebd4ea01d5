"""Tests of vitbench/render."""
