"""The scale on which tasks and indexes write how relevant a part of a video is to a question."""

MOST_RELEVANT = 5.0
"""Scores go from 0, irrelevant, to this: the labels of KVTP (arXiv 2503.10742) and of SparseKV-QA."""
