"""Recipes, the main path that runs one, and grids of them."""
