"""Names, shapes and counts are those of the public weights: `backbone_layouts.json` is a copy of the reference."""

import json
from pathlib import Path

import pytest
import torch

import coreface
from coreface.errors import ModelError
from coreface.models.registry import build_backbone

LAYOUTS = json.loads(Path(__file__).with_name("backbone_layouts.json").read_text())


def on_meta(name, *sizes):
    with torch.device("meta"):
        return build_backbone(name, *sizes)


def test_every_backbone_has_a_reference():
    # Toys may have been registered by other tests; narrow networks are iresnets with fewer channels.
    own = {name for name in coreface.backbones() if not name.startswith("toy") and "_w" not in name}
    assert own == LAYOUTS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_shapes_and_their_order(name):
    backbone = on_meta(name)
    got = [(key, list(tensor.shape)) for key, tensor in backbone.state_dict().items()]
    assert got == list(LAYOUTS[name]["state_dict"].items())
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == LAYOUTS[name]["parameters"]
    assert coreface.backbones()[name].startswith(f"{count / 1e6:.1f} M parameters")


@pytest.mark.parametrize(("name", "width"), [("iresnet18_w25", 0.25), ("iresnet50_w50", 0.5)])
def test_narrow_networks_have_a_share_of_the_channels(name, width):
    full, narrow = (on_meta(one).state_dict() for one in (name.split("_")[0], name))
    assert full.keys() == narrow.keys()
    for key, tensor in full.items():
        expected = list(tensor.shape)
        if key == "fc.weight":
            expected[1] *= width
        elif not key.startswith(("fc.", "features.")):
            expected = [n * (1 if axis and n in (1, 3) else width) for axis, n in enumerate(expected)]
        assert list(narrow[key].shape) == expected, key
    count = sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert coreface.backbones()[name].startswith(f"{count / 1e6:.1f} M parameters")


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
@pytest.mark.parametrize("image_size", [16, 32, 48, 112, 224])
def test_multiples_of_sixteen_pixels(name, image_size):
    backbone = on_meta(name, 64, image_size)
    assert (backbone.image_size, backbone.embedding_size) == (image_size, 64)
    features = backbone.trunk(torch.empty(2, 3, image_size, image_size, device="meta"))
    side = image_size // 16
    assert features.shape == (2, 512 if name == "mobilefacenet" else 512 * side * side)
    assert backbone.embedding_linear.in_features == features.shape[1]
    assert backbone.embedding_norm.num_features == 64


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
@pytest.mark.parametrize("image_size", [0, -16, 8, 15, 17, 100, 111, 113])
def test_other_sizes_are_refused(name, image_size):
    with pytest.raises(ModelError, match=f"image_size is {image_size}, expected a multiple of 16"):
        build_backbone(name, 64, image_size)


@pytest.mark.parametrize("size", [0, -1])
def test_embeddings_of_nothing_are_refused(size):
    with pytest.raises(ModelError, match="embedding_size"):
        build_backbone("mobilefacenet", size)


def test_unknown_names_get_advice():
    with pytest.raises(ModelError, match="did you mean 'iresnet50'"):
        build_backbone("iresnet5O")
    with pytest.raises(ModelError, match=r"expected one of iresnet18, .*mobilefacenet"):
        build_backbone("zzz")


def test_fresh_iresnet_weights():
    torch.manual_seed(0)
    backbone = build_backbone("iresnet18", 64, 32)
    convolutions = [part for part in backbone.modules() if isinstance(part, torch.nn.Conv2d)]
    assert len(convolutions) == 1 + 16 + 4
    for convolution in convolutions:
        assert convolution.bias is None
        assert convolution.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert abs(convolution.weight.mean().item()) < 0.01
    for norm in (part for part in backbone.modules() if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)):
        assert norm.eps == 1e-5
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_the_last_weight_of_iresnet_stays_one():
    backbone = build_backbone("iresnet18", 8, 16)
    assert [name for name, p in backbone.named_parameters() if not p.requires_grad] == ["features.weight"]
    assert backbone.embedding_norm is backbone.features
    loss = backbone.embedding_norm(backbone.embedding_linear(backbone.trunk(torch.rand(4, 3, 16, 16)))).square().sum()
    loss.backward()
    assert backbone.features.weight.grad is None
    assert backbone.features.bias.grad is not None
    assert (backbone.features.weight == 1).all()
