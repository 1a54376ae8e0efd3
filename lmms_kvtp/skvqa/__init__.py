"""SparseKV-QA: long-video questions whose evidence lies in few clips; one file per step of the construction.

Source: KVTP (arXiv 2503.10742), section 3. See docs/skvqa.md.
"""
