"""The harness wrappers: registered model ids and what answers their requests."""
