"""How relevant each frame is to the question."""
