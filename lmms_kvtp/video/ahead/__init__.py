"""Decodes the frames of the next videos in other processes."""
