"""The embedded benchmark's data: long synthetic videos with sparse events, and questions about them.

Light on purpose (numpy, PyAV and the standard library): tasks, training and scorers all read it.
"""

VERSION = 2
"""Raised with every change of the scripts, the drawings, the questions or the encoder's settings."""
