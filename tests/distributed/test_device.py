"""Which processor, at what precision."""

import pytest
import torch

from coreface.distributed.device import choose_device, choose_precision, matmul_precision
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
    assert choose_precision("float16", cpu) is torch.float16


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


def tf32_flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_only_where_it_is_asked_for(monkeypatch):
    before, cpu = tf32_flags(), torch.device("cpu")
    with matmul_precision("float32", cpu):
        assert tf32_flags() == (False, False)
    assert tf32_flags() == before
    # A stand-in: the flags are torch's, whatever device there is.
    monkeypatch.setattr("coreface.distributed.device.has_tf32_units", lambda device: True)
    with matmul_precision("tf32", cpu):
        assert tf32_flags() == (True, True)
    assert tf32_flags() == before


def test_tf32_is_refused_where_it_would_do_nothing():
    with pytest.raises(RecipeError, match="matmul is 'tf32', expected 'float32': this cpu device"):
        matmul_precision("tf32", torch.device("cpu")).__enter__()
