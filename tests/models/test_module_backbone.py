"""Any module as a backbone: embedded, saved, loaded with the module handed over."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import coreface as cf
from coreface.errors import InputError, ModelError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


class Trunk(nn.Sequential):
    def __init__(self, channels=4):
        super().__init__(nn.Conv2d(3, channels, 3, stride=8, padding=1), nn.BatchNorm2d(channels))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return cf.FaceEncoder(Trunk(), 8, 16, features=16).eval()


def test_the_module_is_the_trunk_of_the_embedding_layer(encoder):
    batch = torch.randn(2, 3, 16, 16)
    linear, norm = encoder.backbone.embedding_linear, encoder.backbone.embedding_norm
    features = encoder.backbone.module(batch).flatten(1)
    torch.testing.assert_close(encoder(batch), norm(linear(features)))
    assert features.shape == (2, 16)
    assert not norm.weight.requires_grad


def test_two_views_of_a_module_differ_in_training(encoder):
    one, other = encoder.train().views(torch.randn(4, 3, 16, 16), 2)
    assert not torch.equal(one, other)


def test_round_trip(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    assert "backbone=module" in (tmp_path / "README.md").read_text()
    loaded = cf.FaceEncoder.from_pretrained(tmp_path, backbone=Trunk())
    assert loaded.embed(IMAGES).tobytes() == encoder.embed(IMAGES).tobytes()
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_without_the_module_the_message_says_which_class(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"module of class Trunk.*backbone=\.\.\."):
        cf.FaceEncoder.from_pretrained(tmp_path)


def test_another_module_is_refused(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    for other in (Trunk(channels=5), nn.Flatten()):
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            cf.FaceEncoder.from_pretrained(tmp_path, backbone=other)


def test_an_edited_note_of_who_registered_it_changes_no_digest(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "registered_by": "os"}))
    assert cf.FaceEncoder.from_pretrained(tmp_path, backbone=Trunk()).embedding_size == 8


def test_a_backbone_of_its_own_needs_no_name(tmp_path):
    encoder = cf.FaceEncoder(cf.ModuleBackbone(Trunk(), 16, 8, 16), 8, 16)
    encoder.save_pretrained(tmp_path)
    loaded = cf.FaceEncoder.from_pretrained(tmp_path, backbone=cf.ModuleBackbone(Trunk(), 16, 8, 16))
    assert loaded.embed(IMAGES).tobytes() == encoder.embed(IMAGES).tobytes()
    with pytest.raises(ModelError, match="give both the same"):
        cf.FaceEncoder(cf.ModuleBackbone(Trunk(), 16, 8, 16), 9, 16)


@pytest.mark.parametrize(
    ("arguments", "features", "message"),
    [
        ((Trunk(), 8, 16), None, "features is missing"),
        (("iresnet18", 8, 16), 16, "applies to a module"),
    ],
)
def test_features_go_with_a_module(arguments, features, message):
    with pytest.raises(InputError, match=message):
        cf.FaceEncoder(*arguments, features=features)


def test_a_wrong_number_of_features_is_named_at_the_first_image():
    with pytest.raises(ModelError, match="returned 16 features per image, expected 17: pass features=16"):
        cf.FaceEncoder(Trunk(), 8, 16, features=17).embed(IMAGES)
    with pytest.raises(ModelError, match="features is 0"):
        cf.FaceEncoder(Trunk(), 8, 16, features=0)


def test_what_a_registered_function_returns_is_checked():
    @cf.register_backbone("no_backbone", "returns a bare module")
    def bare(embedding_size, image_size):
        return Trunk()

    @cf.register_backbone("fixed_backbone", "has sizes of its own")
    def fixed(embedding_size, image_size):
        return cf.ModuleBackbone(Trunk(), 16, 4, 16)

    from coreface.models.registry import BACKBONES

    try:
        with pytest.raises(ModelError, match="is a Trunk, expected a Backbone"):
            cf.FaceEncoder("no_backbone", 8, 16)
        with pytest.raises(ModelError, match="asked for embedding size 8 and image size 16, and has 4 and 16"):
            cf.FaceEncoder("fixed_backbone", 8, 16)
    finally:
        BACKBONES.remove("no_backbone")
        BACKBONES.remove("fixed_backbone")
