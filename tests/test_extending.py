"""docs/extending.md: what it registers is trained, resumed, measured and loaded; where it is missing it is named."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
# Each line is a command; the words that are printed after it tell the outcomes apart.
RUN = """
import json, shlex, sys
from coreface.cli import main
for line in sys.stdin.read().splitlines():
    print(f"> {line}", flush=True)
    print(f"< {main(shlex.split(line)[1:])}", flush=True)
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def run(folder, program, text=""):
    # Registered names stay in a process: these must not stay in that of the tests.
    return subprocess.run([sys.executable, "-c", program], cwd=folder, input=text, capture_output=True, text=True)


@pytest.fixture(scope="module")
def workplace(paint_faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    paint_faces(folder / "photos", identities=8, images=4, size=32)
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    (folder / "my_faces.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    (folder / "my_recipe.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def done(workplace):
    """The commands of the page, run in one process, and what each of them printed."""
    finished = run(workplace, RUN, "\n".join(block.strip() for block in blocks("bash")))
    assert finished.returncode == 0, finished.stderr
    assert re.findall(r"^< (\d+)$", finished.stdout, flags=re.MULTILINE) == ["0"] * 6, finished.stderr
    return finished


def test_the_commands_of_the_page_run(workplace, done):
    assert re.search(r"tiny +a small network", done.stdout)
    assert "photos.zip: zip, 32 images of 8 identities" in done.stdout
    assert (workplace / "runs" / "tiny" / "encoder" / "model.safetensors").is_file()
    assert "resuming from" in done.stderr
    assert re.search(r"rank 2 +[01]\.?\d* +32", done.stdout)
    assert re.search(r"people in photos.zip have the names of people that runs/tiny was trained on", done.stderr)


def test_a_run_says_which_module_registered_what(workplace, done):
    environment = json.loads((workplace / "runs" / "tiny" / "environment.json").read_text())
    assert environment["registered"] == {
        "backbone tiny": "my_faces",
        "margin rising": "my_faces",
        "reader of faces zip": "my_faces",
    }
    config = json.loads((workplace / "runs" / "tiny" / "encoder" / "config.json").read_text())
    assert (config["backbone"], config["registered_by"]) == ("tiny", "my_faces")
    recipe = (workplace / "runs" / "tiny" / "recipe.yaml").read_text()
    assert "name: rising" in recipe
    assert "batches: 6" in recipe
    assert "my_faces" not in recipe


def test_the_margin_went_on_from_its_state(workplace, done):
    program = """
import glob, sys, torch
import my_faces
from coreface.training.checkpoint import open_checkpoint
from coreface.training.objective import Objective
from coreface.training.checkpoint_state import load_modules
from pathlib import Path
import coreface as cf
recipe = cf.Recipe.load("runs/tiny/recipe.yaml")
objective = Objective(recipe, 32, 5)
newest = sorted(Path("runs/tiny/checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))[-1]
load_modules(open_checkpoint(newest), {"objective": objective})
print(type(objective.classifier.margin).__name__, float(objective.classifier.margin.seen))
"""
    found = run(workplace, program)
    assert found.stdout.split() == ["Rising", "4.0"], found.stderr  # 20 images, 2 batches an epoch, 2 epochs


def test_without_the_import_the_message_names_the_module(workplace, done):
    lines = "\n".join(
        [
            "coreface train --resume runs/tiny --force --optimizer.epochs 3",
            "coreface evaluate runs/tiny/encoder --faces photos",
            "coreface evaluate runs/tiny",
            "coreface report runs/tiny",
            "coreface calibrate runs/tiny",
            "coreface train my_recipe.yaml --run runs/second",
            "coreface data check photos.zip",
        ]
    )
    finished = run(workplace, RUN, lines)
    assert re.findall(r"^< (\d+)$", finished.stdout, flags=re.MULTILINE) == ["2"] * 7, finished.stderr
    said = [line for line in finished.stderr.splitlines() if not line.startswith("coreface: warning:")]
    assert len(said) == 7
    assert all("--import my_faces" in line for line in said[:5])
    assert all("--import MODULE" in line for line in said[5:])
    assert "Traceback" not in finished.stderr
    assert not (workplace / "runs" / "second").exists()


def test_the_encoder_loads_where_the_module_is_imported_or_handed_over(workplace, done):
    program = """
import numpy as np
import coreface as cf
image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
try:
    cf.FaceEncoder.from_pretrained("runs/tiny/encoder")
except cf.ModelError as error:
    assert "my_faces" in str(error) and "import it first" in str(error)
else:
    raise AssertionError
import my_faces
named = cf.FaceEncoder.from_pretrained("runs/tiny/encoder")
handed = cf.FaceEncoder.from_pretrained("runs/tiny/encoder", backbone=my_faces.tiny(32, 32))
assert (named.embed(image) == handed.embed(image)).all()
handed.save_pretrained("again")
assert cf.FaceEncoder.from_pretrained("again").backbone_name == "tiny"
"""
    found = run(workplace, program)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_torchrun_takes_the_import(workplace):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "coreface", "train"]
    command += ["my_recipe.yaml", "--import", "my_faces", "--run-dir", "runs/two"]
    launched = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert launched.returncode == 0, launched.stderr
    assert (workplace / "runs" / "two" / "encoder" / "model.safetensors").is_file()
