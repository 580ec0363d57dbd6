"""Checkpoints on disk: whole or not there, never read where a byte has changed, and nothing in them ever runs."""

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys

import pytest
import torch

from coreface.errors import CheckpointError
from coreface.training.checkpoint import (
    checkpoint_folders,
    open_checkpoint,
    remove_leftovers,
    write_checkpoint,
)
from coreface.training.checkpoint_facts import CheckpointFacts, MeterCounts, Origin
from coreface.training.checkpoint_manifest import sealed
from coreface.training.checkpoint_state import load_modules, load_optimizer, module_tensors, optimizer_tensors

TENSORS = {
    "encoder.weight": torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1)).to(
        memory_format=torch.channels_last
    ),
    "encoder.statistic": torch.arange(7, dtype=torch.float64),
    "encoder.half": torch.randn(6, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16),
    "encoder.count": torch.tensor(12),
    "encoder.none": torch.zeros(0, 4),
    "random.0.torch": torch.arange(256, dtype=torch.uint8),
    "encoder.mask": torch.tensor([True, False]),
}


FACTS = CheckpointFacts(
    epoch=2,
    batch=5,
    rate=0.1,
    meter=MeterCounts(3, 48),
    metrics_bytes=1234,
    unreadable={17: "Müller/3.jpg: cut off"},
    world_size=4,
    segments=2,
    recipe={"optimizer": {"name": "sgd"}},
    origin=Origin({"images": 48}, {"torch": "2"}),
)


@pytest.fixture
def written(tmp_path):
    return write_checkpoint(tmp_path / "checkpoints", 7, TENSORS, FACTS)


def test_what_is_written_is_what_is_read(written):
    checkpoint = open_checkpoint(written)
    assert (checkpoint.step, checkpoint.facts) == (7, FACTS)
    read = checkpoint.read(checkpoint.layout)
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_the_manifest_keeps_the_names_of_format_2(written):
    """Checkpoints that earlier versions wrote go on being read."""
    manifest = json.loads((written / "manifest.json").read_text())
    assert {name: manifest[name] for name in manifest if name not in ("layout", "files", "sha256")} == {
        "format": 2,
        "step": 7,
        "epoch": 2,
        "batch": 5,
        "rate": 0.1,
        "meter": {"steps": 3, "images": 48},
        "metrics_bytes": 1234,
        "unreadable": {"17": "Müller/3.jpg: cut off"},
        "processes": 4,
        "stretches": 2,
        "recipe": {"optimizer": {"name": "sgd"}},
        "faces": {"images": 48},
        "environment": {"torch": "2"},
    }


def test_tensors_are_filled_in_place_and_in_their_own_layout(written):
    weight = torch.empty(5, 3, 4, 4).to(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(weight)
    open_checkpoint(written).read_into({"encoder.weight": parameter.detach()})
    assert torch.equal(parameter, TENSORS["encoder.weight"])
    assert parameter.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("encoder.other", torch.zeros(1), "holds no encoder.other"),
        ("encoder.weight", torch.zeros(5, 3, 4, 5), r"is torch.float32 \(5, 3, 4, 4\), expected torch.float32 \(5, 3"),
        ("encoder.count", torch.tensor(1.0), "is torch.int64"),
    ],
)
def test_a_tensor_that_does_not_fit(written, name, tensor, said):
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(written).read_into({name: tensor})


def test_the_files_name_no_place_of_this_machine(written):
    for path in written.iterdir():
        assert str(written.parent.parent).encode() not in path.read_bytes()


def test_the_manifest_vouches_for_every_file(written):
    manifest = json.loads((written / "manifest.json").read_text())
    others = [path for path in written.iterdir() if path.name != "manifest.json"]
    assert manifest["files"] == {
        path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()] for path in others
    }
    assert len(others) == 2
    assert manifest["layout"]["encoder.half"] == ["bfloat16", [6]]


def damages(count):
    """Tries on every kind of file: one bit of any byte turned, or the end cut off at any place."""
    chance = random.Random(5)
    for number in range(count):
        kind = ("manifest.json", ".metadata", "__0_0.distcp")[number % 3]
        yield kind, chance.random(), chance.randrange(8) if number % 4 else None


def test_no_damage_of_200_is_ever_loaded(written):
    whole = {path.name: path.read_bytes() for path in written.iterdir()}
    for name, where, bit in damages(200):
        content = bytearray(whole[name])
        place = int(where * len(content))
        if bit is None:
            del content[place:]
        else:
            content[place] ^= 1 << bit
        (written / name).write_bytes(content)
        with pytest.raises(CheckpointError) as raised:
            open_checkpoint(written)
        assert str(written / name) in str(raised.value)
        assert "\n" not in str(raised.value)
        (written / name).write_bytes(whole[name])
    open_checkpoint(written)


@pytest.mark.parametrize("name", ["manifest.json", ".metadata", "__0_0.distcp"])
def test_a_missing_file_is_named(written, name):
    (written / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(written)


def test_a_file_too_many_is_named(written):
    (written / "__1_0.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp: does not belong"):
        open_checkpoint(written)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(tmp_path / "step_3")


class Planted:
    """A pickle that makes a file where it is opened."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def reseal(folder, **changes):
    """Write the manifest anew, as an attacker can who may write the folder: every digest is right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    others = [path for path in folder.iterdir() if path.name != "manifest.json"]
    manifest["files"] = {p.name: [p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()] for p in others}
    (folder / "manifest.json").write_bytes(sealed({**manifest, **changes}))


def test_a_pickle_planted_in_the_metadata_does_not_run(written, tmp_path):
    (written / ".metadata").write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"damaged|cut short"):
        open_checkpoint(written)
    reseal(written)
    with pytest.raises(CheckpointError, match=r"names posix.mkdir"):
        open_checkpoint(written).read(["encoder.count"])
    assert not (tmp_path / "ran").exists()


def test_a_pickle_planted_among_the_tensors_does_not_run(written, tmp_path):
    content = bytearray((written / "__0_0.distcp").read_bytes())
    for protocol in (0, 2):
        (written / "__0_0.distcp").write_bytes(pickle.dumps(Planted(tmp_path / "ran"), protocol) + content)
        reseal(written)
        with pytest.raises(CheckpointError):
            open_checkpoint(written).read(list(TENSORS))
    assert not (tmp_path / "ran").exists()


def test_metadata_that_lead_out_of_the_folder_are_refused(written, tmp_path):
    content = (written / ".metadata").read_bytes()
    (tmp_path / "outside").write_bytes((written / "__0_0.distcp").read_bytes())
    (written / ".metadata").write_bytes(content.replace(b"__0_0.distcp", b"../../ouside"))
    reseal(written)
    with pytest.raises(CheckpointError, match="none of its own"):
        open_checkpoint(written).read(["encoder.count"])


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": 3},
        {"files": [1]},
        {"layout": {"a": ["load", [1]]}},
        {"layout": {"a": ["float32", [-1, "x"]]}},
        {"step": "x"},
        {"epoch": None},
        {"meter": 3},
        {"meter": {"steps": 1, "pictures": 2}},
        {"unreadable": {"x": "y"}},
        {"recipe": 5},
    ],
)
def test_a_manifest_of_nonsense_is_refused(written, changes):
    reseal(written, **changes)
    with pytest.raises(CheckpointError, match="not the manifest"):
        open_checkpoint(written)


def test_a_manifest_of_another_version(written):
    reseal(written, format=99)
    with pytest.raises(CheckpointError, match="format 99"):
        open_checkpoint(written)


# Whole or not there


def test_the_same_step_is_replaced(written):
    write_checkpoint(written.parent, 7, {"encoder.count": torch.tensor(5)}, FACTS)
    assert open_checkpoint(written).read(["encoder.count"])["encoder.count"] == 5
    assert [path.name for path in written.parent.iterdir()] == ["step_7"]


def test_checkpoints_are_listed_newest_first_and_nothing_else_is(written):
    for step in (100, 9):
        write_checkpoint(written.parent, step, {"a": torch.zeros(1)}, FACTS)
    (written.parent / "step_200").write_text("a file")
    (written.parent / "step_50.damaged").mkdir()
    (written.parent / ".step_300.99.tmp").mkdir()
    assert [path.name for path in checkpoint_folders(written.parent)] == ["step_100", "step_9", "step_7"]
    assert checkpoint_folders(written.parent / "missing") == []


def test_leftovers_of_a_dead_process_are_removed_and_a_replaced_one_comes_back(written):
    (written.parent / ".step_9.12.tmp").mkdir()
    written.rename(written.parent / ".step_7.replaced.tmp")
    remove_leftovers(written.parent)
    assert [path.name for path in written.parent.iterdir()] == ["step_7"]
    open_checkpoint(written)


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from coreface.training.checkpoint import write_checkpoint
from coreface.training.checkpoint_facts import CheckpointFacts
facts = CheckpointFacts(recipe={"filler": "x" * 10_000})
for limit in (0, 100, 5_000, 150_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_checkpoint(Path(sys.argv[1]), 8, {"a": torch.zeros(50_000)}, facts)
    except OSError as error:
        print(limit, error.strerror, file=sys.stderr)
"""


def test_a_write_that_cannot_be_finished_leaves_only_what_was_whole(written):
    """A limit on the size of a file stands for the full disk; it strikes at the first byte, or in a tensor."""
    command = [sys.executable, "-c", FULL_DISK, str(written.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "File too large" in line] == [
        f"{limit} File too large" for limit in (0, 100, 5_000, 150_000)
    ]
    assert [path.name for path in written.parent.iterdir()] == ["step_7"]
    open_checkpoint(written)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_loaded(tmp_path, value):
    """For a training that is resumed, and for one that begins from this checkpoint."""
    modules = {"encoder": torch.nn.Linear(3, 2)}
    tensors = module_tensors(modules)
    tensors["encoder.bias"][1] = value
    written = write_checkpoint(tmp_path, 7, tensors, FACTS)
    with pytest.raises(CheckpointError, match=r"step_7: 1 of 2 numbers of encoder\.bias are not finite"):
        load_modules(open_checkpoint(written), {"encoder": torch.nn.Linear(3, 2)})


def test_momentum_that_is_not_finite_is_not_loaded(tmp_path):
    modules = {"encoder": torch.nn.Linear(3, 2)}
    optimizer = torch.optim.SGD(modules["encoder"].parameters(), lr=0.1, momentum=0.9)
    modules["encoder"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tensors = optimizer_tensors(optimizer, modules)
    tensors["optimizer.encoder.weight.momentum_buffer"][0, 0] = float("nan")
    written = write_checkpoint(tmp_path, 7, {**module_tensors(modules), **tensors}, FACTS)
    with pytest.raises(CheckpointError, match=r"1 of 6 numbers of optimizer\.encoder\.weight\.momentum_buffer"):
        load_optimizer(open_checkpoint(written), optimizer, modules)
