"""Sampling of identities for a step, and an optimizer that updates only the sampled ones."""

from typing import Any

import torch
from torch import nn

from coreface.distributed.collectives import local
from coreface.numerics.random_bits import random_bits, shifted


def sampled(seed: int, call: torch.Tensor, start: int, count: int, rate: float, device: torch.device) -> torch.Tensor:
    """Sample from rows start .. start + count - 1, each with probability ``rate``.

    The random bits of a row are a hash of (seed, call, row), the same however the rows are split over processes.

    Args:
        seed: any integer.
        call: scalar int64 on ``device``.
        start: first row.
        count: rows.
        rate: probability.
        device: device of the result.

    Returns:
        (count,), bool, True for a sampled row.
    """
    bits = random_bits(seed, call, torch.arange(start, start + count, device=device))
    return shifted(bits, 11) < int(rate * 2**53)


def update_own_rows(
    optimizer: torch.optim.Optimizer, weight: nn.Parameter, touched: torch.Tensor | None = None
) -> None:
    """Register hooks that make an optimizer update only this process's rows of a matrix, and only the touched ones.

    During a step a plain tensor replaces a sharded one, so that every implementation (fused, foreach) can handle both
    in one group. Between steps parameter and state are sharded as before. Rows that are not touched keep their value
    and their optimizer state: neither weight decay nor momentum changes them.

    Args:
        optimizer: an optimizer of torch that already contains ``weight``.
        weight: (identities, size), whole or a DTensor.
        touched: (rows of this process,), bool, cleared after every step; None updates all of them.
    """
    rows = _OwnRows(weight, touched)
    optimizer.register_step_pre_hook(rows.before)
    optimizer.register_step_post_hook(rows.after)


class _OwnRows:
    def __init__(self, weight: nn.Parameter, touched: torch.Tensor | None) -> None:
        self._weight = weight
        self._touched = touched
        self._stand_in = weight
        self._chosen: torch.Tensor | None = None
        self._state: dict[str, Any] = {}

    def before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weight = self._weight
        self._chosen = None if self._touched is None else self._touched.nonzero().squeeze(1)
        self._stand_in = nn.Parameter(self._selected(weight.detach()))
        if weight.grad is not None:
            self._stand_in.grad = self._selected(weight.grad)
        self._state = dict(optimizer.state.pop(weight, {}))
        if self._state:
            optimizer.state[self._stand_in] = {
                name: self._selected(value) if self._is_by_row(value) else value for name, value in self._state.items()
            }
        _exchange(optimizer, weight, self._stand_in)

    def after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weight, stand_in = self._weight, self._stand_in
        _exchange(optimizer, stand_in, weight)
        if self._chosen is not None:
            local(weight.detach()).index_copy_(0, self._chosen, stand_in.detach())
        state = optimizer.state.pop(stand_in, {})
        if state:
            optimizer.state[weight] = {name: self._written_back(name, value) for name, value in state.items()}
        if self._touched is not None:
            self._touched.zero_()

    def _is_by_row(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.shape == self._weight.shape

    def _selected(self, whole: torch.Tensor) -> torch.Tensor:
        own = local(whole)
        return own if self._chosen is None else own[self._chosen]

    def _written_back(self, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape != self._stand_in.shape:
            return value
        known = self._state.get(name)
        if known is None:
            known = torch.zeros_like(self._weight.detach(), dtype=value.dtype)
        own = local(known)
        if self._chosen is not None:
            own.index_copy_(0, self._chosen, value)
        elif own.data_ptr() != value.data_ptr():
            own.copy_(value)
        return known


def _exchange(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
