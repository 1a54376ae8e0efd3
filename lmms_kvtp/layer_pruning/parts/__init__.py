"""Shared by layer pruners; no component is in here."""
