"""Search for good settings: proposals, budgets and pruning, with the runs as the only storage."""
