"""Every kind of backbone trains by a recipe, and goes on from a checkpoint as if nothing had happened."""

import copy

import pytest
import torch

from coreface.errors import ModelError
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint


def weights(trainer):
    return {**trainer.encoder.state_dict(), **trainer.objective.state_dict()}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "backbone", ["toy_vit", "vit_t", pytest.param("mobilefacenet_large", marks=pytest.mark.slow), "iresnet18_w25"]
)
def test_backbones_train_and_resume(tiny, change, make_trainer, backbone, tmp_path):
    """Two steps with a checkpoint after the first, and the second once more from there: what is random as well."""
    recipe = change(tiny, model__backbone=backbone, data__image_size=32 if backbone == "toy_vit" else 16)
    recipe = change(recipe, optimizer__epochs=1, checkpoint__every_steps=1, checkpoint__keep_last=5, optimizer__lr=0.01)
    whole = make_trainer(recipe, "whole")
    before = copy.deepcopy(weights(whole))
    whole.train()
    assert not same(before, weights(whole))
    first = checkpoint_folders(tmp_path / "whole" / "checkpoints")[-1]
    resumed = make_trainer(recipe, "resumed", checkpoint=open_checkpoint(first))
    assert resumed.step == 1
    resumed.train()
    assert same(weights(whole), weights(resumed))


def test_activation_checkpointing_by_the_recipe(tiny, change, make_trainer):
    recipe = change(tiny, model__backbone="toy_vit", data__image_size=32, optimizer__epochs=1)
    plain = make_trainer(recipe, "plain")
    saving = make_trainer(change(recipe, model__activation_checkpointing=True), "saving")
    for trainer in (plain, saving):
        trainer.train()
    assert same(weights(plain), weights(saving))
    with pytest.raises(ModelError, match="cannot checkpoint activations"):
        make_trainer(change(tiny, model__activation_checkpointing=True), "refused")
