"""Reads and writes checkpoints in their layouts."""
