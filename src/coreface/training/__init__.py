"""Training: the recipe, the objective, and the training loop."""
