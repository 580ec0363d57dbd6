"""`coreface runs`: the table of runs at 80 and at 120 columns, and where a path is too long for it."""

import json

import pytest

from coreface.cli import main

ROWS = [
    {"kind": "step", "step": 120_000, "epoch": 20, "loss": 12.3456},
    {"kind": "evaluation", "step": 120_000, "epoch": 20, "eer": 0.0123},
    {"kind": "finished", "step": 120_000, "epoch": 20},
]


@pytest.fixture
def runs(tmp_path, monkeypatch, capsys):
    """Return a function that writes runs by their names and rows of metrics, and prints the table of a width."""
    monkeypatch.chdir(tmp_path)

    def show(width, **found):
        monkeypatch.setenv("COLUMNS", str(width))
        for name, rows in found.items():
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "recipe.yaml").touch()
            (folder / "environment.json").touch()
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["runs"]) == 0
        return capsys.readouterr().out.splitlines()

    return show


@pytest.mark.parametrize("width", [80, 120])
def test_golden_output(runs, width):
    assert runs(width, casia_r50=ROWS, ms1mv2_r100_arcface=ROWS[:1], new=[]) == [
        "run                        state         epoch     step     loss      EER",
        "------------------------   -----------   -----   ------   ------   ------",
        "runs/casia_r50             finished         20   120000   12.346   1.23 %",
        "runs/ms1mv2_r100_arcface   interrupted      20   120000   12.346        -",
        "runs/new                   interrupted       0        0        -        -",
        "",
        "resume an interrupted run: coreface train --resume RUN",
    ]


def test_a_run_of_several_processes_is_not_continued_by_one(runs, tmp_path):
    assert not any("torchrun" in line for line in runs(80, one=[]))
    (tmp_path / "runs" / "one" / "launchers.json").touch()
    hint = "if torchrun started it: torchrun --nproc-per-node N -m coreface train --resume RUN"
    assert runs(120)[-1] == hint
    assert hint not in runs(120, one=ROWS)  # it is finished


def test_a_long_path_is_in_one_piece(runs):
    name = "a" * 90
    assert runs(80, **{name: ROWS}) == [
        f"runs/{name}",
        "  state  finished",
        "  epoch  20",
        "  step   120000",
        "  loss   12.346",
        "  EER    1.23 %",
        "",
    ]
    assert runs(200)[2].startswith(f"runs/{name}   finished")
