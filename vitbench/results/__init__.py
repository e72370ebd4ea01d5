"""Outcomes, their columns, the journal and the CSV files. No torch."""
