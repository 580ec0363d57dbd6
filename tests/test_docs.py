"""Every command and every example of the README and the documents runs."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.cli import main
from coreface.studies.study_file import read_study

PAIRS = [(0, 1), (0, 2), (1, 1), (2, 3)]  # (people apart, image)
ROOT = Path(__file__).parent.parent
LINKED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPORT = ROOT / "docs" / "export.md"  # whose commands take longer
# tests/test_extending.py and tests/serving/test_documents.py run the first two.
PAGES = [page for page in LINKED if page.name not in ("extending.md", "service.md", EXPORT.name)]
# What makes a command of the README a matter of seconds; it comes last, so it wins.
SMALL = shlex.split(
    "--model.backbone mobilefacenet --data.image_size 16 --data.workers 0 --optimizer.epochs 8 "
    "--optimizer.batch_size 8 --optimizer.lr 0.002 --optimizer.lr_drops [2] --stages '[{from_epoch: 1}]'"
)


PROCESSES = ROOT / "docs" / "scaling.md"  # a page that needs no other
PHOTOGRAPHS = ROOT / "docs" / "photographs.md"
GALLERIES = ROOT / "docs" / "galleries.md"
QUALITY = ROOT / "docs" / "quality.md"


def blocks(language, pages=PAGES):
    found = []
    for page in pages:
        found += re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return found


def commands(pages=PAGES):
    return [line.strip() for block in blocks("bash", pages) for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workplace(paint_faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer")
    paint_faces(folder / "photos", identities=10, images=4, size=40)
    paint_faces(folder / "others", identities=3, images=4, size=40, seed=1)
    paste_people(folder / "people", range(12))
    paste_people(folder / "strangers", range(12, 20))
    for name, image in (("passport", 0), ("selfie", 3)):
        shutil.copy(folder / "strangers" / "s13" / f"{image}.jpg", folder / f"{name}.jpg")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for name, person in (("one", "person00"), ("other", "person01")):
        image = cv2.imread(str(folder / "photos" / person / "0.png"))
        cv2.imwrite(str(folder / f"{name}.jpg"), image)
    rows = [
        (f"person{i:02d}/0.png", f"person{(i + j) % 10:02d}/{k}.png", int(j == 0)) for i in range(10) for j, k in PAIRS
    ]
    lines = ["path1,path2,same", *(f"photos/{one},photos/{other},{same}" for one, other, same in rows)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    (folder / "labels.csv").write_text(
        "identity,label\n" + "".join(f"person{i:02d},{'ab'[i % 2]}\n" for i in range(10))
    )
    names = sorted({path for row in rows for path in row[:2]})
    np.savez(folder / "embeddings.npz", embeddings=np.random.default_rng(0).normal(size=(len(names), 8)), names=names)
    return folder


def paste_people(folder, people):
    """Photographs of people that a detector finds: the ORL faces in larger pictures."""
    source = cf.data.open_faces("orl")
    for person in people:
        (folder / f"s{person}").mkdir(parents=True)
        for image in range(4):
            picture = np.full((240, 320, 3), 110, np.uint8)
            picture[40:202, 60 + 20 * image : 222 + 20 * image] = cv2.resize(source[10 * person + image][0], (162, 162))
            cv2.imwrite(str(folder / f"s{person}" / f"{image}.jpg"), picture[..., ::-1])


def test_the_pages_have_what_is_tested_here():
    assert len([line for line in commands() if line.startswith("coreface")]) >= 5
    assert len(blocks("python")) == 8


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert named == {"demo", "test"}
    assert named <= targets


def run(lines, capsys):
    for line in lines:
        if line.startswith(("make ", "coreface serve")):  # tests/serving/test_documents.py starts the service
            continue
        program, *words = shlex.split(line)
        if "train" in words and "--print_config" not in words:
            words += SMALL
        if words[0] == "study":
            words = [*words, "--dry-run", "--data.image_size", "16"]
        if program == "torchrun":
            launched = subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", *words], capture_output=True, text=True, timeout=600
            )
            assert launched.returncode == 0, launched.stderr
            continue
        assert program == "coreface"
        # A decision is an answer, whichever it is: 3 is no match, 4 undecidable.
        decides = "verify" in words[:2] or "identify" in words[:2]
        assert main(words) in ((0, 3, 4) if decides else (0,)), capsys.readouterr().err


@pytest.mark.slow
def test_commands_and_examples_in_order(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    run(commands([page for page in PAGES if page not in (PROCESSES, PHOTOGRAPHS, GALLERIES, QUALITY)]), capsys)
    assert (workplace / "others.html").is_file()
    assert (workplace / "runs" / "mine" / "report.html").is_file()
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), {})
    assert "cosine similarity" in capsys.readouterr().out


@pytest.mark.slow
def test_commands_on_photographs(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    run(commands([PHOTOGRAPHS]), capsys)
    assert (workplace / "runs" / "people" / "encoder" / "calibration.json").is_file()


@pytest.mark.slow
def test_commands_on_galleries(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    run(commands([GALLERIES]), capsys)
    assert (workplace / "visitors.db").is_file()


@pytest.mark.slow
def test_commands_on_quality(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    run(commands([QUALITY]), capsys)
    assert (workplace / "quality.html").is_file()


@pytest.mark.slow
def test_commands_of_several_processes(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    run(commands([PROCESSES]), capsys)
    assert (workplace / "runs" / "shared" / "report.html").is_file()


@pytest.mark.slow
def test_commands_of_exports(workplace, monkeypatch, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.chdir(workplace)
    if not Path("runs/mine").exists():
        run([line for line in commands([ROOT / "README.md"]) if line.startswith("coreface train")], capsys)
    run(commands([EXPORT]), capsys)
    (example,) = blocks("python", [EXPORT])
    names: dict[str, np.ndarray] = {}
    exec(compile(example, "export.md", "exec"), names)
    np.testing.assert_allclose(np.linalg.norm(names["embeddings"], axis=1), 1, atol=1e-5)
    assert names["norms"].shape == (2, 1)


def test_recipe_examples_are_recipes(tmp_path):
    for index, text in enumerate(blocks("yaml")):
        path = tmp_path / "studies" / f"{index}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if "arms:" in text:
            shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
            read_study(path)
        else:
            cf.Recipe.load(path)


def test_links_lead_somewhere():
    for page in LINKED:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (
                target.startswith(("https://arxiv.org/", "https://docs.ray.io")) or (page.parent / target).exists()
            ), target
