"""Tests of vitbench/render/views."""
