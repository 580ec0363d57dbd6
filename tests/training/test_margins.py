"""Every margin trains by its name in a recipe, with several centres an identity too, and resumes exactly."""

import pytest
import torch

import coreface as cf
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.recipe_sections import MarginRecipe

OWN = ("arcface", "sphereface", "sphereface_r", "elasticface", "dynamic_margin")


@pytest.mark.parametrize("name", OWN)
def test_margins_train_and_resume(tiny, change, make_trainer, name, tmp_path):
    options = {"annealing": [9.0, 1.0, 0.5]} if name == "sphereface" else {}
    recipe = change(tiny, classifier__margin=MarginRecipe(name, options=options), classifier__subcentres=2)
    recipe = change(recipe, optimizer__epochs=2, checkpoint__every_steps=1, checkpoint__keep_last=9)
    whole = make_trainer(recipe, "whole")
    whole.train()
    folders = checkpoint_folders(tmp_path / "whole" / "checkpoints")
    resumed = make_trainer(recipe, "resumed", checkpoint=open_checkpoint(folders[-1]))
    assert resumed.step == 1
    resumed.train()
    for one, other in ((whole.encoder, resumed.encoder), (whole.objective, resumed.objective)):
        expected = one.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())
    assert whole.objective.classifier.weight.shape == (6, 2, 16)


def test_the_sizes_of_the_identities_are_those_of_the_faces(tiny, change, make_trainer, faces):
    trainer = make_trainer(change(tiny, classifier__margin=MarginRecipe("dynamic_margin")))
    margin = trainer.objective.classifier.margin
    assert isinstance(margin, cf.DynamicMargin)
    assert margin._sizes.tolist() == [6] * faces.num_identities


def test_drawn_margins_are_those_of_seed_step_view_and_row(tiny, change, make_trainer):
    recipe = change(tiny, classifier__margin=MarginRecipe("elasticface", options={"deviation": 0.3}))
    trainer = make_trainer(recipe)
    bits = []
    margin = trainer.objective.classifier.margin
    target_of = margin.target_of
    margin.target_of = lambda cosines, norms, targets: (bits.append(targets.bits), target_of(cosines, norms, targets))[
        1
    ]
    trainer.train(until_epoch=2)  # 2 steps of one view, 2 of two
    masks = [cf.RowMasks(recipe.seed, step, torch.from_numpy(trainer.loader.rows)) for step in range(4)]
    assert [len(row) for row in bits] == [18, 18, 36, 36]
    for row, mask in zip(bits, masks, strict=True):
        expected = torch.cat([mask.bits(f"margin of view {view}") for view in range(len(row) // 18)])
        assert torch.equal(row, expected)
    assert len(set(torch.cat(bits).tolist())) == 108
