"""Damaged ONNX files: an error of one line, or a working other model; the parent neither crashes nor allocates."""

import json
import resource
from collections import Counter

import numpy as np
import pytest
import torch

from coreface.errors import ModelError
from coreface.images.preprocessing import Preprocessing
from coreface.models.onnx import OnnxEncoder
from coreface.models.onnx_properties import PREPROCESSING, with_properties
from support.fuzzing import cases

SIZE = 16


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.PReLU(), torch.nn.Flatten(), torch.nn.Linear(392, 8)
    ).eval()
    path = tmp_path_factory.mktemp("foreign") / "m.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIZE, SIZE),),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        dynamic_shapes=({0: batch},),
    )
    return path.read_bytes()


def damaged(content, rng):
    """A flipped bit, several, or an end that is missing."""
    changed = bytearray(content)
    kind = rng.integers(3)
    if kind == 2:
        return bytes(changed[: rng.integers(len(changed))])
    for place in rng.integers(0, len(changed), 1 if kind == 0 else 8):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def outcome(path):
    try:
        rows = OnnxEncoder(path).embed(np.full((1, SIZE, SIZE, 3), 100, np.uint8))
    except ModelError as error:
        message = str(error)
    else:
        assert rows.ndim == 2
        return "another model"
    assert "\n" not in message
    assert str(path) in message
    return "checksum" if "its checksum differs" in message else "error"


@pytest.mark.slow
def test_a_foreign_file(content, tmp_path):
    """Without a checksum the parsers meet the damage, in a child process."""
    path, rng, found = tmp_path / "m.onnx", np.random.default_rng(0), Counter()
    path.with_suffix(".json").write_text(json.dumps(Preprocessing(SIZE).to_dict()))
    path.write_bytes(content)
    assert outcome(path) == "another model"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(cases(30)):
        path.write_bytes(damaged(content, rng))
        found[outcome(path)] += 1
    print(dict(found))
    assert found["error"]
    assert found["another model"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


@pytest.mark.slow
def test_an_export_of_ours(content, tmp_path):
    """Every damage is found by the checksum, or the file is no model any more."""
    path, rng, found = tmp_path / "m.onnx", np.random.default_rng(1), Counter()
    ours = with_properties(content, {PREPROCESSING: json.dumps(Preprocessing(SIZE).to_dict())})
    path.write_bytes(ours)
    assert outcome(path) == "another model"
    for _ in range(cases(200)):
        path.write_bytes(damaged(ours, rng))
        found[outcome(path)] += 1
    print(dict(found))
    assert found["checksum"] > found["error"]
    assert not found["another model"]
