"""Builds SparseKV-QA: captions, refined questions, scores."""
