"""SparseKV-QA: Video-MME, EgoSchema and NExT-QA, restricted to long videos with sparse evidence."""
