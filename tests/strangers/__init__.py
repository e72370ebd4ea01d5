"""Strangers: modules of other people, and what people and spreadsheets do to files of runs."""
