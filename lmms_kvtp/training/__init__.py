"""Recipes: the tiny model that ships with the package, and the relevance predictor."""
