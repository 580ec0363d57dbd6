"""Trainings of several processes: they agree on everything, and go on from each other's checkpoints."""

import dataclasses
import gc
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.metrics_file import read_metrics
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import AugmentRecipe, DataRecipe
from coreface.training.recipe_sections import (
    CheckpointRecipe,
    ClassifierRecipe,
    ContrastiveRecipe,
    ModelRecipe,
    OptimizerRecipe,
    StageRecipe,
)
from support import run_jobs as jobs

pytestmark = pytest.mark.usefixtures("toy_backbone")
COUNTS = (1, 2, 4)
AUGMENT = AugmentRecipe([0.8, 1.2], 20.0, 0.1, 0.5, 0.5, 0.5, 0.5)
STOPPED = 4  # steps before the stop, of three an epoch


@pytest.fixture(scope="module")
def together(groups):
    """Return a function (count, job, *arguments) that has so many processes do the same, this one alone for one."""

    def together(count, job, *arguments, **keywords):
        if count == 1:
            return [_Call(job, keywords)(*arguments)]
        return groups[count](_Call(job, keywords), [arguments] * count)

    return together


class _Call:
    def __init__(self, job, keywords):
        self.job, self.keywords = job, keywords

    def __call__(self, *arguments):
        result = self.job(*arguments, **self.keywords)
        gc.collect()  # ends the workers of the loaders
        return result


@pytest.fixture(scope="module")
def sources(paint_faces, tmp_path_factory):
    """48 images of 6 identities, as a folder and as two tar shards."""
    root = tmp_path_factory.mktemp("sources")
    folder = paint_faces(root / "folder", images=8)
    (root / "shards").mkdir()
    images = sorted(folder.glob("*/*.png"), key=lambda path: path.name)
    for shard in range(2):
        with tarfile.open(root / "shards" / f"{shard}.tar", "w") as tar:
            for path in images[shard::2]:
                label = str(int(path.parent.name.removeprefix("person"))).encode()
                for suffix, content in ((".png", path.read_bytes()), (".cls", label)):
                    member = tarfile.TarInfo(f"{path.parent.name}_{path.stem}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return {"folder": str(folder), "shards": str(root / "shards")}


def make_recipe(*, sync=True, gather=True, sample_rate=0.5, max_unreadable=0.1, **optimizer):
    return Recipe(
        model=ModelRecipe("toy", 16, sync_batchnorm=sync),
        classifier=ClassifierRecipe(sample_rate=sample_rate),
        data=DataRecipe(image_size=16, workers=0, augment=AUGMENT, max_unreadable=max_unreadable),
        stages=[StageRecipe(1, 2, 0.3, ContrastiveRecipe(weight=0.5, ema=0.5, gather=gather))],
        optimizer=OptimizerRecipe(**{"lr": 0.01, "batch_size": 16, "epochs": 3, "name": "adamw", **optimizer}),
        checkpoint=CheckpointRecipe(every_steps=100, keep_last=9, asynchronous=False),
        precision="float32",
        device="cpu",
        log_every=7,
    )


def joint(results, at):
    """Return what the joint batch of a step held, in its order."""
    found = {}
    for own in results:
        for row, seen in zip(own["rows"], own["steps"][at]["seen"], strict=True):
            found[int(row)] = seen
    return [found[row] for row in range(len(found))]


def views(results, at):
    """Return the first view of all images of a part of a step, in the order of the joint batch."""
    own = [one["steps"][at]["view"] for one in results]
    return np.concatenate(own)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


def cut_off(together, count, recipe, source, folder):
    results = together(count, jobs.train, recipe, source, folder, stop=(count - 1, STOPPED - 1))
    assert {own["error"][0] for own in results} == {"TrainingStopped"}
    assert {own["step"] for own in results} == {STOPPED}
    assert {tuple(own["saved"]) for own in results} == {(f"step_{STOPPED}",)}
    saved = open_checkpoint(Path(folder) / "checkpoints" / f"step_{STOPPED}")
    assert saved.facts.meter == (1, recipe.optimizer.batch_size)  # of all; a row ends an epoch
    return results


@pytest.mark.parametrize(("count", "kind"), [(2, "folder"), (4, "shards")])
@pytest.mark.parametrize("gather", [True, False])
def test_as_many_processes_go_on_to_the_last_bit(together, sources, tmp_path, count, kind, gather):
    """A signal that one of them alone is sent stops all after the same step."""
    recipe = make_recipe(sync=gather, gather=gather, micro_batches=2)
    straight = together(count, jobs.train, recipe, sources[kind], str(tmp_path / "straight"))
    stopped = cut_off(together, count, recipe, sources[kind], str(tmp_path / "stopped"))
    resumed = together(count, jobs.train, recipe, sources[kind], str(tmp_path / "stopped"), resume=True)
    for before, own, whole in zip(stopped, resumed, straight, strict=True):
        assert_equal(own["begin"], before["end"])
        assert_equal(own["end"], whole["end"])
        assert_equal(own["random"], whole["random"])
        for step, other in zip(own["steps"], whole["steps"][STOPPED:], strict=True):
            assert (step["step"], step["seen"], step["loss"]) == (other["step"], other["seen"], other["loss"])
    rows = [[json.loads(line) for line in (tmp_path / n / "metrics.jsonl").open()] for n in ("straight", "stopped")]
    losses = [[(row["step"], row["loss"]) for row in one if row["kind"] == "step"] for one in rows]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("kind", "parts"), [("folder", 1), ("shards", 2)])
@pytest.mark.parametrize("before", COUNTS)
def test_any_number_of_processes_goes_on(together, sources, tmp_path, before, kind, parts):
    recipe = make_recipe(micro_batches=parts)
    straight = together(before, jobs.train, recipe, sources[kind], str(tmp_path / "straight"))
    stopped = cut_off(together, before, recipe, sources[kind], str(tmp_path / "stopped"))
    for after in COUNTS:
        shutil.copytree(tmp_path / "stopped", tmp_path / f"on{after}")
        resumed = together(after, jobs.train, recipe, sources[kind], str(tmp_path / f"on{after}"), resume=True)
        for own in resumed:
            assert_equal(own["begin"], stopped[0]["end"])
            assert own["step"] == 9
            assert_equal(own["end"], resumed[0]["end"])
        for at in range(5):
            assert joint(resumed, at) == joint(straight, STOPPED + at)
        assert resumed[0]["steps"][0]["loss"] == pytest.approx(straight[0]["steps"][STOPPED]["loss"], rel=1e-6)
        np.testing.assert_allclose(views(resumed, 0), views(straight, STOPPED), atol=2e-5)  # the same features dropped


def test_every_process_has_its_running_margin(together, sources, tmp_path):
    recipe = make_recipe(sync=False, gather=False)
    stopped = cut_off(together, 2, recipe, sources["folder"], str(tmp_path / "run"))
    name = "objective.contrasts.0.running_margin"
    margins = [float(own["end"][name]) for own in stopped]
    assert margins[0] != margins[1]
    for count in (1, 4):
        shutil.copytree(tmp_path / "run", tmp_path / f"on{count}")
        found = together(count, jobs.train, recipe, sources["folder"], str(tmp_path / f"on{count}"), resume=True)
        for own in found:
            assert float(own["begin"][name]) == pytest.approx(sum(margins) / 2, abs=1e-7)
    found = together(2, jobs.train, recipe, sources["folder"], str(tmp_path / "run"), resume=True)
    assert [float(own["begin"][name]) for own in found] == margins


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(together, sources, tmp_path):
    recipe = make_recipe(sync=False, gather=False, epochs=1, sample_rate=1.0)
    recipe = dataclasses.replace(recipe, checkpoint=CheckpointRecipe(every_steps=1, keep_last=9, asynchronous=False))
    results = together(2, jobs.train, recipe, sources["folder"], str(tmp_path / "run"), spoil=(1, [1]))
    assert [own["skipped"] for own in results] == [1, 1]
    one, two, three = (open_checkpoint(tmp_path / "run" / "checkpoints" / f"step_{n}") for n in (1, 2, 3))
    names = [name for name in one.layout if name.split(".")[0] in ("encoder", "objective", "optimizer", "margin")]
    before, skipped, after = ({n: v.numpy() for n, v in saved.read(names).items()} for saved in (one, two, three))
    assert len(names) > 20
    assert_equal(before, skipped)
    assert all(np.isfinite(value).all() for value in after.values())
    assert not np.array_equal(after["objective.classifier.weight"], before["objective.classifier.weight"])


def test_divergence_ends_all_processes(together, sources, tmp_path):
    recipe = make_recipe(max_skips=2)
    results = together(2, jobs.train, recipe, sources["folder"], str(tmp_path / "run"), spoil=(1, range(2, 9)))
    assert {own["error"][0] for own in results} == {"DivergedError"}
    assert {own["step"] for own in results} == {4}
    for rank, own in enumerate(results):
        assert f"bad_batch_{rank}.png" in own["error"][1]
        assert (tmp_path / "run" / f"bad_batch_{rank}.png").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_one_clock_is_enough_for_a_checkpoint(together, sources, tmp_path, rank):
    results = together(2, jobs.train, make_recipe(epochs=1), sources["folder"], str(tmp_path / "run"), due=(rank, 2))
    assert {tuple(own["saved"]) for own in results} == {("step_2", "step_3")}


def test_all_evaluate_and_the_leader_alone_shows_it(together, sources, tmp_path):
    recipe = dataclasses.replace(make_recipe(), evaluation=dataclasses.replace(make_recipe().evaluation, every=2))
    results = together(2, jobs.train, recipe, sources["folder"], str(tmp_path / "run"), evaluate="count")
    assert [own["calls"] for own in results] == [[(0, 2), (0, 2)], [(1, 2), (1, 2)]]  # the second epoch and the last
    assert [bool(own["screen"]) for own in results] == [True, False]
    measured = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "evaluation"]
    assert [row["shares"] for row in measured] == [2, 2]


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_process_cannot_evaluate_ends_no_training(together, sources, tmp_path, rank):
    folder = str(tmp_path / "run")
    results = together(2, jobs.train, make_recipe(epochs=2), sources["folder"], folder, evaluate=("fail", rank))
    assert [own.get("error") for own in results] == [None, None]
    measured = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "evaluation"]
    assert [row["error"] for row in measured] == [f"ZeroDivisionError: rank {rank}"] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_in_an_evaluation_stops_all(together, sources, tmp_path, rank):
    recipe, folder = make_recipe(epochs=2), str(tmp_path / "run")
    results = together(2, jobs.train, recipe, sources["folder"], folder, evaluate=("stop", rank))
    assert [own["error"][0] for own in results] == ["TrainingStopped", "TrainingStopped"]
    assert {own["step"] for own in results} == {3}
    assert [row for row in read_metrics(tmp_path / "run") if row["kind"] == "evaluation"] == []
    again = together(2, jobs.train, recipe, sources["folder"], folder, resume=True, evaluate="count")
    assert {own["step"] for own in again} == {6}
    measured = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "evaluation"]
    assert [row["step"] for row in measured] == [3, 6]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_of_one_process_ends_all(together, sources, tmp_path, rank):
    recipe = make_recipe()
    recipe = dataclasses.replace(recipe, checkpoint=CheckpointRecipe(every_steps=2, keep_last=9, asynchronous=False))
    results = together(2, jobs.train, recipe, sources["folder"], str(tmp_path / "run"), fail=(rank, 4))
    for own in results:
        kind, text = own["error"]
        assert kind == "StorageError"
        assert "No space left on device" in text
        assert f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / 'step_2'}" in text
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_2"]
    again = together(2, jobs.train, recipe, sources["folder"], str(tmp_path / "run"), resume=True)
    assert {own["step"] for own in again} == {9}


def spoiled(paint_faces, folder, count):
    paths = sorted(paint_faces(folder, images=8).glob("*/*.png"))[:count]
    for path in paths:
        path.write_bytes(b"no image")
    return paths


def test_what_any_process_cannot_read_is_listed(together, paint_faces, tmp_path):
    paths = spoiled(paint_faces, tmp_path / "faces", 4)
    results = together(4, jobs.train, make_recipe(epochs=1), str(tmp_path / "faces"), str(tmp_path / "run"))
    assert {own["step"] for own in results} == {3}
    listed = (tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8")
    assert len(listed.splitlines()) == 4
    assert all(str(path) in listed for path in paths)
    assert len(open_checkpoint(checkpoint_folders(tmp_path / "run" / "checkpoints")[0]).facts.unreadable) == 4


def test_what_all_cannot_read_counts_together(together, paint_faces, tmp_path):
    spoiled(paint_faces, tmp_path / "faces", 8)
    recipe = make_recipe(max_unreadable=6 / 48)  # 7 are too many, and none of four processes meets them all
    results = together(4, jobs.train, recipe, str(tmp_path / "faces"), str(tmp_path / "run"))
    for own in results:
        assert own["error"][0] == "DataError"
        assert "8 of 48 images cannot be read" in own["error"][1]
    assert len((tmp_path / "run" / "unreadable.txt").read_text(encoding="utf-8").splitlines()) == 8
