"""The norm of a training's gradients, and clipping by it."""

import torch
from torch import nn

from coreface.distributed.gradient_norm import clip_gradients, gradient_norm
from coreface.training.recipe_sections import OptimizerRecipe


def clip_by_recipe(
    encoder: nn.Module, objective: nn.Module, recipe: OptimizerRecipe
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Clip the gradients as the recipe says.

    Returns:
        The norm of all gradients before clipping, which is not finite if a gradient is not; and the norm used for
        clipping, None if the recipe does not clip.
    """
    everything = [*encoder.parameters(), *objective.parameters()]
    if recipe.clip_norm is None:
        return gradient_norm(everything), None
    if recipe.clip == "backbone":
        backbone = clip_gradients(encoder.parameters(), recipe.clip_norm)
        return torch.hypot(backbone, gradient_norm(objective.parameters())), backbone
    norm = clip_gradients(everything, recipe.clip_norm)
    return norm, norm
