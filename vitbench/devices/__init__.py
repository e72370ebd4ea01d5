"""Where a case runs: one file for each kind of device."""
