"""The paper's tables and figures: what to run, what was reported, and what finished runs say beside it."""
