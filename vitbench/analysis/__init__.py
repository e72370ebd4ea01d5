"""What results mean: statistics, comparisons, gates, trends, trust. Pure, no torch."""
