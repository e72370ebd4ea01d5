"""Tests of attentions/."""
