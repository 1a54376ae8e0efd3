"""The embedded benchmark: long synthetic videos with sparse events, and questions about them.

It imports numpy, PyAV and the standard library alone, as tasks, training and scorers all read it.
"""

VERSION = 2
"""Version of the data, raised with every change of scripts, drawings, questions or the encoder's settings."""
