"""Everything that lmms-eval loads of this package, and all that touches its private parts."""
