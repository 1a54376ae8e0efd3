"""Which tokens of a frame stay: tokens and budgets in, packed tokens out."""
