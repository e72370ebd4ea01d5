"""From a plan to outcomes: worker processes, rounds, A/B comparisons, budgets."""
