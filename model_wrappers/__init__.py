"""Models that are registered with the harness, and nothing else."""
