"""Answers many questions on many videos; no harness in here."""
