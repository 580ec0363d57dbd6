"""Runs that branch from a checkpoint of another, and runs that stop after an epoch."""

import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

import coreface as cf
from coreface.errors import CheckpointError, RecipeError, RunError
from coreface.models.pretrained import content_digest
from coreface.runs.branching import branch_run
from coreface.runs.run import resume, train
from coreface.runs.status import is_finished
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.metrics_file import read_metrics
from coreface.training.recipe_sections import StageRecipe

TIMES = ("images_per_second", "waiting")


@pytest.fixture(scope="module")
def screen():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture(scope="module")
def recipe(toy_recipe):
    return cf.Recipe.load(toy_recipe, ["--optimizer.epochs", "3", "--optimizer.schedule", "cosine"])


@pytest.fixture(scope="module")
def shared_run(recipe, tmp_path_factory, screen):
    """A run of a recipe without the contrastive term that stands after its first of three epochs. Read-only."""
    folder = tmp_path_factory.mktemp("shared") / "run"
    run = train(dataclasses.replace(recipe, stages=recipe.stages[:1]), folder, until_epoch=1, console=screen)
    assert run.evaluation is None
    assert not is_finished(folder)
    (newest,) = checkpoint_folders(folder / "checkpoints")
    return newest


def untimed(folder):
    rows = read_metrics(folder)
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows if row["kind"] in ("step", "evaluation")]


def test_a_branch_is_to_the_last_bit_the_run_that_was_never_cut(recipe, shared_run, tmp_path, screen):
    """Contrastive term and all: it begins with the stage after the branch."""
    whole = train(recipe, tmp_path / "whole", console=screen)
    branch_run(shared_run, tmp_path / "branch", recipe, 1, screen)
    branched = resume(tmp_path / "branch", console=screen)
    assert content_digest(branched.encoder) == content_digest(whole.encoder)
    assert untimed(tmp_path / "branch") == untimed(tmp_path / "whole")


def test_it_carries_the_optimizer_and_the_random_state(recipe, shared_run, tmp_path, screen):
    branch_run(shared_run, tmp_path / "branch", recipe, 1, screen)
    before = open_checkpoint(shared_run)
    after = open_checkpoint(checkpoint_folders(tmp_path / "branch" / "checkpoints")[0])
    assert after.layout.keys() - before.layout.keys() == {"objective.contrasts.1.running_margin"}
    one, other = before.read(before.layout), after.read(before.layout)
    assert any(name.startswith("optimizer.") for name in one)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_another_seed_after_the_branch_draws_other_masks_and_another_order(recipe, shared_run, tmp_path, screen):
    other = dataclasses.replace(recipe, seed=77)
    for name, plan in (("one", recipe), ("other", other), ("again", other)):
        branch_run(shared_run, tmp_path / name, plan, 1, screen)
        resume(tmp_path / name, console=screen)
    losses = {
        name: [row["loss"] for row in untimed(tmp_path / name) if row["kind"] == "step"]
        for name in ("one", "other", "again")
    }
    steps = len([row for row in read_metrics(shared_run.parents[1]) if row["kind"] == "step"])
    assert losses["one"][:steps] == losses["other"][:steps]
    assert not np.allclose(losses["one"][steps:], losses["other"][steps:])
    assert losses["other"] == losses["again"]
    state = open_checkpoint(shared_run).read(["random.0.torch"])
    assert not torch.equal(
        open_checkpoint(checkpoint_folders(tmp_path / "other" / "checkpoints")[-1]).read(["random.0.torch"])[
            "random.0.torch"
        ],
        state["random.0.torch"],
    )


def test_what_is_no_checkpoint_of_that_epoch_is_refused(recipe, shared_run, tmp_path, screen):
    with pytest.raises(RunError, match="end of epoch 2"):
        branch_run(shared_run, tmp_path / "branch", recipe, 2, screen)
    with pytest.raises(CheckpointError):
        branch_run(tmp_path / "step_9", tmp_path / "branch", recipe, 1, screen)
    assert not (tmp_path / "branch").exists()


def test_a_term_that_the_branch_does_not_have_is_refused(recipe, tmp_path, screen):
    with_term = dataclasses.replace(recipe, stages=[dataclasses.replace(recipe.stages[1], from_epoch=1)])
    train(with_term, tmp_path / "shared", until_epoch=1, console=screen)
    (newest,) = checkpoint_folders(tmp_path / "shared" / "checkpoints")
    with pytest.raises(RunError, match="running_margin"):
        branch_run(newest, tmp_path / "branch", dataclasses.replace(recipe, stages=[StageRecipe()]), 1, screen)


def test_a_run_that_stopped_after_an_epoch_goes_on_as_if_it_had_not(recipe, tmp_path, screen):
    whole = train(recipe, tmp_path / "whole", console=screen)
    train(recipe, tmp_path / "run", until_epoch=1, console=screen)
    resume(tmp_path / "run", until_epoch=2, console=screen)
    assert not is_finished(tmp_path / "run")
    assert content_digest(resume(tmp_path / "run", console=screen).encoder) == content_digest(whole.encoder)


def test_threads_belong_to_the_recipe(recipe, tmp_path, screen):
    before = torch.get_num_threads()
    train(dataclasses.replace(recipe, threads=before + 1), tmp_path / "run", until_epoch=1, console=screen)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RecipeError, match="threads is 0"):
        dataclasses.replace(recipe, threads=0)


def test_recipes_from_plain_values_are_those_of_a_file(recipe):
    assert cf.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())), "here") == recipe
    with pytest.raises(RecipeError, match=r"^here: there is no field optimizer\.rate; did you mean"):
        cf.Recipe.from_dict({"optimizer": {"rate": 1}}, "here")
    with pytest.raises(RecipeError, match=r"^here: .*lr"):
        cf.Recipe.from_dict({"optimizer": {"lr": -1}}, "here")
    with pytest.raises(RecipeError, match="class to import"):
        cf.Recipe.from_dict({"class_path": "os.system"}, "here")
