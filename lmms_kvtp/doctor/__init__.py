"""The gates that a method must pass before its scores count."""
