"""Shared by scorers; no component is in here."""
