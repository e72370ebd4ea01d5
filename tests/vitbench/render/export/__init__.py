"""Tests of vitbench/render/export."""
