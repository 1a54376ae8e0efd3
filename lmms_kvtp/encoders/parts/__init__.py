"""Shared by encoders; no component is in here."""
