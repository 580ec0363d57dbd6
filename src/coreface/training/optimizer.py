"""Builds the optimizer of a recipe."""

import torch
from torch import nn

from coreface.training.recipe_sections import OptimizerRecipe


def build_optimizer(recipe: OptimizerRecipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimizer of a recipe, over the parameters that require a gradient."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    fused = learning[0].device.type in ("cpu", "cuda")  # one pass over the weights instead of three
    if recipe.name == "adamw":
        betas = (recipe.momentum, 0.999)
        return torch.optim.AdamW(learning, lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay, fused=fused)
    optimizer = torch.optim.SGD(
        learning, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=fused
    )
    if recipe.momentum:
        # torch creates this state at the first step and leaves it unset if that step is skipped; starting from zeros
        # gives the same result.
        for parameter in learning:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
