"""Shared by pruners; no component is in here."""
