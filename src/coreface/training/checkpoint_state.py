"""The tensors of a training by name (weights, buffers, the optimizer's state), to and from a checkpoint."""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from coreface.errors import CheckpointError
from coreface.numerics.finite import first_not_finite
from coreface.training.checkpoint import Checkpoint
from coreface.training.recipe import Recipe

_OPTIMIZER = "optimizer."


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers, not copied, by the names of module and tensor.

    Raises:
        CheckpointError: a state_dict holds something that is not a tensor.
    """
    found: dict[str, torch.Tensor] = {}
    for prefix, module in modules.items():
        for name, value in module.state_dict().items():
            if not isinstance(value, torch.Tensor):
                raise CheckpointError(
                    f"{prefix}.{name} is a {type(value).__name__}, only tensors go into a checkpoint: make it a buffer"
                )
            found[f"{prefix}.{name}"] = value.detach()
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return the optimizer's state, not copied, by the names of the parameters.

    Raises:
        CheckpointError: it holds something that is not a tensor.
    """
    found: dict[str, torch.Tensor] = {}
    for name, parameter in _parameters(modules):
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None:
                continue
            if not isinstance(value, torch.Tensor):
                raise CheckpointError(
                    f"the optimizer's {key} of {name} is a {type(value).__name__}, only tensors go into a checkpoint"
                )
            found[f"{_OPTIMIZER}{name}.{key}"] = value.detach()
    return found


def load_modules(checkpoint: Checkpoint, modules: Mapping[str, nn.Module]) -> None:
    """Fill all parameters and buffers, in place.

    Raises:
        CheckpointError: names or shapes differ, or a number is not finite.
    """
    tensors = module_tensors(modules)
    known = [name for name in checkpoint.layout if name.split(".")[0] in modules]
    for name in known:
        if name not in tensors:
            raise CheckpointError(f"{checkpoint.folder}: holds {name}, which this recipe does not have")
    _read_finite(checkpoint, tensors)


def optimizer_changed(checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Return whether the recipe's optimizer differs from the checkpoint's, whose state it cannot use."""
    return bool(checkpoint.facts.recipe["optimizer"]["name"] != recipe.optimizer.name)


def load_optimizer(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module]) -> None:
    """Fill the optimizer's state.

    Raises:
        CheckpointError: it belongs to unknown parameters, or a number is not finite.
    """
    parameters = dict(_parameters(modules))
    by_parameter: dict[str, dict[str, torch.Tensor]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, (dtype, shape) in checkpoint.layout.items():
        if not name.startswith(_OPTIMIZER):
            continue
        owner, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
        if owner not in parameters:
            raise CheckpointError(f"{checkpoint.folder}: holds {name}, which this recipe does not have")
        parameter = parameters[owner].detach()
        # A tensor of the shape of its parameter also has the layout and the shards of the parameter.
        alike = shape == parameter.shape
        tensor = torch.empty_like(parameter, dtype=dtype) if alike else torch.empty(shape, dtype=dtype)
        tensors[name] = by_parameter.setdefault(owner, {})[key] = tensor
    _read_finite(checkpoint, tensors)
    state = optimizer.state_dict()
    numbers = {id(parameter): number for number, parameter in enumerate(_in_order(optimizer))}
    state["state"] = {
        numbers[id(parameters[owner])]: entry
        for owner, entry in by_parameter.items()
        if id(parameters[owner]) in numbers
    }
    optimizer.load_state_dict(state)


def _read_finite(checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor]) -> None:
    checkpoint.read_into(tensors)
    if bad := first_not_finite(tensors):
        raise CheckpointError(f"{checkpoint.folder}: {bad}: training had diverged by then; resume from an earlier one")


def _parameters(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            yield f"{prefix}.{name}", parameter


def _in_order(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
