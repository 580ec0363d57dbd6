"""Which processor, at what precision."""

import pytest
import torch

from coreface.distributed.device import choose_device, choose_precision
from coreface.errors import RecipeError


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta", "cpu:x", "hpu", "xla"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(RecipeError, match="expected auto, cpu, cuda or mps") as raised:
        choose_device(name)
    assert "\n" not in str(raised.value)


def test_the_processor_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


def test_precision_by_name():
    cpu = torch.device("cpu")
    assert choose_precision("bf16", cpu) is torch.bfloat16
    assert choose_precision("float32", cpu) is torch.float32


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_takes_bf16_where_the_processor_has_units_for_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", torch.device("cpu")) is expected
