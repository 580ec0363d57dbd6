"""Weights as DataParallel, Lightning, MagFace and training loops of one's own save them; and weights with NaN."""

import argparse
import sys
import types

import numpy as np
import pytest
import torch

from coreface import FaceEncoder
from coreface.errors import ModelError
from support.encoders import stir_weights


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


@pytest.fixture(scope="module")
def iresnet():
    return stir_weights(FaceEncoder("iresnet18_w25", 8, 16))


def same(loaded, original):
    state = loaded.backbone.state_dict()
    for name, tensor in original.backbone.state_dict().items():
        np.testing.assert_array_equal(state[name].numpy(), tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("container", [None, "state_dict", "state_dict_backbone", "model"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "backbone.", "module.backbone.", "_orig_mod.module.", "features.module."]
)
def test_prefixes_and_containers(path, encoder, iresnet, prefix, container):
    for name, original in (("mobilefacenet", encoder), ("iresnet18_w25", iresnet)):
        state = {prefix + key: tensor for key, tensor in original.backbone.state_dict().items()}
        torch.save(state if container is None else {"epoch": 3, container: state, "optimizer": {"lr": 0.1}}, path)
        same(FaceEncoder.from_insightface(path, name), original)


def test_a_release_of_magface_has_a_classifier_of_the_name_of_our_linear_map(path, iresnet):
    state = {f"module.features.{name}": tensor for name, tensor in iresnet.backbone.state_dict().items()}
    torch.save({"arch": "iresnet18_w25", "state_dict": {**state, "module.fc.weight": torch.ones(30, 8)}}, path)
    same(FaceEncoder.from_insightface(path, "iresnet18_w25"), iresnet)


def test_a_lightning_checkpoint_with_a_head_and_hyper_parameters(path, iresnet, tmp_path, monkeypatch):
    """What is no tensor is not imported, not even where it could be."""
    proof = tmp_path / "imported"
    module = types.ModuleType("pytorch_lightning.parsing")

    class AttributeDict(dict):
        def __setstate__(self, state):
            proof.touch()

        def __reduce__(self):
            return (AttributeDict, (), {"lr": 1})

    AttributeDict.__module__, AttributeDict.__qualname__ = module.__name__, "AttributeDict"
    module.AttributeDict = AttributeDict
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = {f"model.{name}": tensor for name, tensor in iresnet.backbone.state_dict().items()}
    state["head.kernel"] = torch.zeros(8, 30)
    content = {"state_dict": state, "hyper_parameters": AttributeDict(), "args": argparse.Namespace(batch=3)}
    torch.save(content, path)
    same(FaceEncoder.from_insightface(path, "iresnet18_w25"), iresnet)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()


def test_counters_that_an_old_torch_did_not_save(path, iresnet):
    state = iresnet.backbone.state_dict()
    torch.save({name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}, path)
    loaded = FaceEncoder.from_insightface(path, "iresnet18_w25")
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(loaded.embed(image), iresnet.embed(image))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"other.thing": torch.zeros(2)}, "1 unknown, such as other.thing"),
        ({"module.fc.thing": torch.zeros(2)}, "1 unknown, such as fc.thing"),
        ({"module.bn2.weight": None}, "1 weights missing, 0 unknown, such as bn2.weight"),
    ],
)
def test_all_the_rest_is_strict(path, iresnet, change, words):
    state = {f"module.{name}": tensor for name, tensor in iresnet.backbone.state_dict().items()} | change
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    with pytest.raises(ModelError, match=words):
        FaceEncoder.from_insightface(path, "iresnet18_w25")


def test_an_unlisted_prefix_is_not_guessed(path, iresnet):
    torch.save({f"mynet.{name}": tensor for name, tensor in iresnet.backbone.state_dict().items()}, path)
    with pytest.raises(ModelError, match=r"has no matrix fc\.weight"):
        FaceEncoder.from_insightface(path, "iresnet18_w25")


def test_a_checkpoint_without_weights_says_what_it_holds(path):
    torch.save({"epoch": 3, "optimizer": {"lr": 1}}, path)
    with pytest.raises(ModelError, match=r"contains dict with epoch, optimizer, expected a state_dict .* or one under"):
        FaceEncoder.from_insightface(path, "iresnet18_w25")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["fc.weight", "bn2.running_var", "layer4.0.prelu.weight"])
def test_weights_that_are_not_finite(path, tmp_path, iresnet, name, value):
    state = {key: tensor.clone() for key, tensor in iresnet.backbone.state_dict().items()}
    state[name].view(-1)[-1] = value
    torch.save(state, path)
    words = f"1 of {state[name].numel()} numbers of {name} are not finite"
    with pytest.raises(ModelError, match=words):
        FaceEncoder.from_insightface(path, "iresnet18_w25")
    spoilt = FaceEncoder("iresnet18_w25", 8, 16)
    spoilt.backbone.load_state_dict(state)
    spoilt.save_pretrained(tmp_path / "saved")
    with pytest.raises(ModelError, match=words):
        FaceEncoder.from_pretrained(tmp_path / "saved")
