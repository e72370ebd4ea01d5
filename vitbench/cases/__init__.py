"""What is measured: the axes, cases, sweeps, suites and plans. Pure data, no torch."""
