"""How many tokens each frame may keep: relevance in, integer budgets out."""
