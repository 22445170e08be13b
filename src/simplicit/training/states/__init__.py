"""Every state a row: problem (7) with its structures and its ball."""
