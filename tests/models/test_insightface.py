"""Public weights, strictly; and files that are something else, some of them on purpose."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from coreface import FaceEncoder
from coreface.errors import ModelError

MATRIX, NORM = "features.layers.2.weight", "features.layers.3"
KINDS = [("iresnet18", 16, 112), ("iresnet18", 16, 32), ("mobilefacenet", 16, 112), ("mobilefacenet", 16, 48)]
KINDS += [("mobilefacenet_large", 16, 32), ("iresnet18_w25", 16, 48), ("vit_t", 16, 112)]


class Mischief:
    """Unpickled in earnest, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


class ShellMischief(Mischief):
    def __reduce__(self):
        return (os.system, (f"touch '{self.path}'",))


@pytest.fixture
def state(encoder):
    """The state_dict of the small mobilefacenet."""
    return dict(encoder.backbone.state_dict())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "backbone.pth"


def refused(path, backbone="mobilefacenet"):
    with pytest.raises(ModelError) as caught:
        FaceEncoder.from_insightface(path, backbone)
    return str(caught.value)


@pytest.mark.parametrize(("name", "embedding_size", "image_size"), KINDS)
def test_a_state_dict_comes_back_bit_by_bit(path, stir, name, embedding_size, image_size):
    original = stir(FaceEncoder(name, embedding_size, image_size))
    torch.save(original.backbone.state_dict(), path)
    loaded = FaceEncoder.from_insightface(str(path), name)
    assert (loaded.backbone_name, loaded.embedding_size, loaded.image_size) == (name, embedding_size, image_size)
    assert not any(part.training for part in loaded.modules())
    state = loaded.backbone.state_dict()
    for key, tensor in original.backbone.state_dict().items():
        np.testing.assert_array_equal(state[key].numpy(), tensor.numpy())


def test_the_old_file_format_as_well(path, state):
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert FaceEncoder.from_insightface(path, "mobilefacenet").image_size == 16


def test_the_network_that_it_really_is_is_named(path, state):
    torch.save(state, path)
    message = refused(path, "iresnet50")
    assert str(path) in message
    assert "not iresnet50" in message
    assert message.endswith("its names match mobilefacenet")


def test_another_depth_is_named(path, stir):
    torch.save(FaceEncoder("iresnet18", 8, 16).backbone.state_dict(), path)
    message = refused(path, "iresnet34")
    assert "does not fit iresnet34" in message
    assert message.endswith("its names match iresnet18")
    assert "no iresnet18" not in message


def test_an_unknown_backbone(path):
    assert "did you mean 'iresnet50'" in refused(path, "iresnet5")


def test_missing_surplus_and_misshapen(path, state):
    for change, words in [
        ({f"{NORM}.bias": None}, f"1 weights missing, 0 unknown, such as {NORM}.bias"),
        ({"module.extra": torch.zeros(2)}, "0 weights missing, 1 unknown, such as module.extra"),
        ({f"{NORM}.bias": torch.zeros(9)}, f"{NORM}.bias is (9,), expected (8,)"),
        ({f"{NORM}.bias": torch.zeros(8, dtype=torch.int64)}, "torch.int64"),
        ({f"{NORM}.bias": torch.zeros(8, dtype=torch.complex64)}, "torch.complex64"),
        ({f"{NORM}.bias": torch.zeros(8).to_sparse()}, "cannot be copied"),
        ({f"{NORM}.bias": torch.zeros(8, device="meta")}, "backbone.pth"),
        ({MATRIX: None}, f"has no matrix {MATRIX}"),
        ({MATRIX: torch.zeros(8)}, f"has no matrix {MATRIX}"),
        ({MATRIX: torch.zeros(0, 512)}, "embedding_size is 0"),
        ({MATRIX: torch.zeros(1).expand(10**9, 10**9)}, "backbone.pth"),  # a small file that asks for 10^18 numbers
        ({"features.layers.0.layers.0.weight": torch.tensor(1.0)}, "expected"),
        ({"features.layers.0.layers.0.weight": torch.zeros(512, 1, 0, 0)}, "expected"),
        ({"features.layers.0.layers.0.weight": torch.zeros(512, 1, 3, 3)}, None),  # another image size, and all right
    ]:
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        torch.save(changed, path)
        if words is None:
            assert FaceEncoder.from_insightface(path, "mobilefacenet").image_size == 48
        else:
            assert words in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        "text",
        torch.zeros(3),
        {"state_dict": {}},
        {"epoch": 3, "weights": torch.zeros(2)},
        {1: torch.zeros(2)},
    ],
)
def test_what_is_no_state_dict(path, content):
    torch.save(content, path)
    assert str(path) in refused(path)


def test_names_that_are_no_text(path, state):
    torch.save({**state, 1: torch.zeros(2), None: torch.zeros(2)}, path)
    assert "expected a state_dict of name -> tensor" in refused(path)


def test_a_whole_pickled_module_is_refused(path, encoder):
    torch.save(encoder.backbone, path)
    assert "nothing else is opened" in refused(path)


@pytest.mark.parametrize("mischief", [Mischief, ShellMischief])
@pytest.mark.parametrize("write", ["torch", "torch, old format", "pickle", "hidden in a state_dict"])
def test_nothing_in_the_file_is_run(path, tmp_path, state, mischief, write):
    proof = tmp_path / "proof"
    if write == "pickle":
        path.write_bytes(pickle.dumps(mischief(proof), protocol=2))
    elif write == "hidden in a state_dict":
        torch.save({**state, "extra": mischief(proof)}, path)
    else:
        torch.save(mischief(proof), path, _use_new_zipfile_serialization=write == "torch")
    assert "nothing else is opened" in refused(path)
    assert not proof.exists()
    # The same bytes, opened without care, do their work: otherwise the line above says nothing.
    if write == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


def test_bytes_that_are_no_weights(path):
    rng = np.random.default_rng(0)
    for content in (b"", b"\0", b"text", b"PK\x03\x04", b"\x80\x02", rng.bytes(1000), b"PK\x03\x04" + rng.bytes(1000)):
        path.write_bytes(content)
        assert str(path) in refused(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99, 0.9999])
def test_a_file_that_is_cut_off(path, state, share):
    torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert str(path) in refused(path)


def test_missing_file_and_folder(path):
    assert "No such file" in refused(path)
    path.mkdir()
    assert "cannot be read" in refused(path)
