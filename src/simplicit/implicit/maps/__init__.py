"""Linear maps: the blocks of A, B, C and D."""
