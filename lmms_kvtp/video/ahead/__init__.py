"""Decoding of the next videos in other processes."""
