"""Training: the recipe, the objective, and one loop that reads from top to bottom."""
