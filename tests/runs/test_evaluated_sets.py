"""Test sets during training: through the public API, against figures that are worked out by hand."""

import io
import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import coreface as cf
import support.evaluated_jobs as jobs
from coreface.cli import main
from coreface.data.pairs.bin import write_bin
from coreface.data.pairs.draw import draw_pairs
from coreface.data.pairs.share import PairShare
from coreface.errors import DataError
from coreface.models.pretrained import content_digest
from coreface.runs.report import redraw_report
from coreface.runs.run import resume, train
from coreface.runs.status import is_finished
from coreface.training.best_encoder import read_best
from coreface.training.metrics_file import read_metrics

EVENTFUL = Path(__file__).parents[1] / "support" / "eventful.py"


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=1000)


@pytest.fixture(scope="module")
def sets(paint_faces, tmp_path_factory):
    """People whom nobody trains on, as a .bin and as LFW's list, with the images of both."""
    folder = tmp_path_factory.mktemp("sets")
    faces = paint_faces(folder / "lfw" / "images", identities=6, images=6, seed=3)
    for person in faces.iterdir():
        for image in person.iterdir():
            image.rename(person / f"{person.name}_{int(image.stem) + 1:04d}.png")
    drawn = draw_pairs(cf.data.open_faces(faces), folds=3, seed=1)
    write_bin(drawn, folder / "drawn.bin")
    genuine = [f"person0{i} {j} {j + 1}" for i in range(6) for j in (1, 3)]
    impostor = [f"person0{i} {j} person0{(i + j) % 6} 1" for i in range(6) for j in (1, 2)]
    lines = ["2\t6", *genuine[:6], *impostor[:6], *genuine[6:], *impostor[6:]]
    (folder / "lfw" / "pairs.txt").write_text("\n".join(lines).replace(" ", "\t") + "\n")
    return folder


def places(sets):
    return [str(sets / "drawn.bin"), f"{sets / 'lfw' / 'pairs.txt'}:{sets / 'lfw' / 'images'}"]


def recipe_with(toy_recipe, *words):
    return cf.Recipe.load(toy_recipe, list(words))


def pairs_word(some):
    return ("--evaluation.pairs", json.dumps(list(some)))


@pytest.fixture(scope="module")
def finished(toy_recipe, sets, tmp_path_factory):
    """A finished run with two test sets. Read-only."""
    recipe = recipe_with(toy_recipe, *pairs_word(places(sets)), "--evaluation.keep_best", "held_out")
    console = Console(file=io.StringIO(), width=1000)
    run = train(recipe, tmp_path_factory.mktemp("runs") / "toy", console=console)
    return run, console.file.getvalue()


def rows(folder, kind="set"):
    return [row for row in read_metrics(folder) if row["kind"] == kind]


# Figures by hand


def images_of(place):
    """Return a list of (left, right, same, fold), images as arrays, read with nothing of coreface but its decoder."""
    if place.endswith(".bin"):
        encoded, answers = pickle.loads(Path(place).read_bytes())
        decoded = [cf.load_image(one) for one in encoded]
        # Without folds in the file the pairs are cut into ten consecutive runs, the longer ones first.
        folds = [fold for fold, part in enumerate(np.array_split(range(len(answers)), 10)) for _ in part]
        return [(decoded[2 * i], decoded[2 * i + 1], same, folds[i]) for i, same in enumerate(answers)]
    path, _, folder = place.rpartition(":")
    pairs = []
    for number, line in enumerate(Path(path).read_text().splitlines()[1:]):
        words = line.split()
        one, other = (words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])
        files = [Path(folder) / name / f"{name}_{int(n):04d}.png" for name, n in (one, other)]
        pairs.append((*map(cf.load_image, files), len(words) == 3, number // 12))
    return pairs


def embedded(encoder, image):
    """Embed one image: itself and its mirror image, added, of unit length."""
    one, mirrored = (encoder.embed(some, flip=False, unit=False)[0].astype(float) for some in (image, image[:, ::-1]))
    return (one + mirrored) / math.sqrt(sum((one + mirrored) ** 2))


def by_hand(encoder, place):
    pairs = images_of(place)
    scored = [(float(embedded(encoder, a) @ embedded(encoder, b)), same, fold) for a, b, same, fold in pairs]
    genuine = [score for score, same, _ in scored if same]
    impostor = sorted((score for score, same, _ in scored if not same), reverse=True)

    def rates(threshold):
        fmr = sum(score >= threshold for score in impostor) / len(impostor)
        return fmr, sum(score < threshold for score in genuine) / len(genuine)

    candidates = [rates(threshold) for threshold in [*genuine, *impostor, 2.0]]
    fmr, fnmr = min(candidates, key=lambda both: (abs(both[0] - both[1]), sum(both)))
    figures = {"eer": (fmr + fnmr) / 2, "genuine": len(genuine), "impostor": len(impostor)}
    for far in (0.1, 0.01, 0.001):
        allowed = math.floor(far * len(impostor))
        accepted = sum(score > impostor[allowed] for score in genuine) / len(genuine)
        figures[f"tar_at_far_{far}"] = accepted if allowed else None
    accuracies = []
    for fold in sorted({fold for _, _, fold in scored}):
        others = sorted(score for score, _, home in scored if home != fold)
        midpoints = [(a + b) / 2 for a, b in itertools.pairwise(others)]
        right = [sum((s >= t) == same for s, same, home in scored if home != fold) for t in midpoints]
        best = [t for t, count in zip(midpoints, right, strict=True) if count == max(right)]
        threshold = best[len(best) // 2]
        held = [(s >= threshold) == same for s, same, home in scored if home == fold]
        accuracies.append(sum(held) / len(held))
    mean = sum(accuracies) / len(accuracies)
    variance = sum((a - mean) ** 2 for a in accuracies) / (len(accuracies) - 1)
    return {**figures, "accuracy": mean, "accuracy_error": math.sqrt(variance / len(accuracies))}


def test_the_figures_are_those_worked_out_by_hand(finished, sets):
    run, _ = finished
    last = rows(run.folder)[-2:]
    assert [row["name"] for row in last] == [f"{sets.name}/drawn.bin", "lfw/pairs.txt"]
    for row, place in zip(last, places(sets), strict=True):
        expected = by_hand(run.encoder, place)
        assert set(row) == {"kind", "step", "epoch", "name", *expected}
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_the_figures_are_those_of_coreface_evaluate(finished, sets):
    from coreface.evaluation.protocols.pairs import Pairs

    run, _ = finished
    for row, place in zip(rows(run.folder)[-2:], places(sets), strict=True):
        found = cf.evaluate(run.folder, protocol=Pairs(place, replicates=0)).verification
        assert row["accuracy"] == found.accuracy.accuracy
        assert row["accuracy_error"] == found.accuracy.standard_error
        assert row["eer"] == found.eer.eer
        assert [row[f"tar_at_far_{rate.far:g}"] for rate in found.tar] == [rate.tar for rate in found.tar]


def test_every_evaluation_has_every_set_and_a_line_of_it(finished, sets):
    run, said = finished
    measured = [(row["epoch"], row["name"]) for row in rows(run.folder)]
    names = [f"{sets.name}/drawn.bin", "lfw/pairs.txt"]
    assert measured == [(epoch, name) for epoch in (1, 2) for name in names]
    for row in rows(run.folder):
        assert (
            f"epoch {row['epoch']}: {row['name']}: accuracy {row['accuracy']:.4f} ± {row['accuracy_error']:.4f}" in said
        )
    assert [row["epoch"] for row in rows(run.folder, "evaluation")] == [1, 2]


def test_the_page_has_curves_a_table_and_says_which_encoder_it_shows(finished):
    run, _ = finished
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    for words in ("Test sets", "Accuracy on test sets: toy", "Equal error rate on test sets: toy", "lfw/pairs.txt"):
        assert words in text
    best = read_best(run.folder)
    assert "Shown is the last encoder, in encoder/. encoder_best/ has the one with the lowest EER" in text
    assert f"{100 * best.eer:.2f} %, epoch {best.epoch}, step {best.step}" in text


def test_the_best_is_the_one_of_the_lowest_eer(finished):
    run, _ = finished
    best = read_best(run.folder)
    rates = {row["step"]: row["eer"] for row in rows(run.folder, "evaluation")}
    assert best.eer == min(rates.values()) == rates[best.step]
    found = cf.evaluate(run.folder / "encoder_best", run.evaluation.faces, replicates=0)
    assert found.verification.eer.eer == best.eer


# What is not there, or not so


def spoilt_sets(folder, sets):
    images, answers = pickle.loads((sets / "drawn.bin").read_bytes())
    genuine = [i for i, same in enumerate(answers) if same]
    contents = {
        "alike.bin": ([image for i in genuine for image in images[2 * i : 2 * i + 2]], [True] * len(genuine)),
        "noise.bin": ([b"noise %d" % i for i in range(len(images))], answers),
        "evil.bin": os.getcwd,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "list.csv").write_text("path1,path2,same\nnowhere.png,nobody.png,1\n")


BAD = {
    "missing.bin": "missing.bin: no such file, expected a set of pairs",
    "alike.bin": "are genuine, expected genuine and impostor ones",
    "noise.bin": "images can be read, the first: ",
    "evil.bin": "nothing was run",
    "list.csv": "there is no ",
}


@pytest.mark.parametrize(("name", "message"), BAD.items())
def test_a_set_that_cannot_be_read_is_found_before_anything_is_written(
    toy_recipe, sets, tmp_path, screen, name, message
):
    spoilt_sets(tmp_path, sets)
    recipe = recipe_with(toy_recipe, *pairs_word([*places(sets), str(tmp_path / name)]))
    with pytest.raises(DataError, match=message) as caught:
        train(recipe, tmp_path / "run", console=screen)
    assert str(caught.value).startswith("evaluation.pairs: ")
    assert name in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_pairs_with_an_image_that_cannot_be_read_score_minus_one(toy_recipe, sets, tmp_path, screen):
    images, answers = pickle.loads((sets / "drawn.bin").read_bytes())
    broken = images[2 * answers.index(True)]
    images = [b"broken" if image == broken else image for image in images]
    (tmp_path / "drawn.bin").write_bytes(pickle.dumps((images, answers)))
    recipe = recipe_with(toy_recipe, *pairs_word([str(tmp_path / "drawn.bin")]), "--optimizer.epochs", "1")
    run = train(recipe, tmp_path / "run", console=screen)
    said = screen.file.getvalue()
    name = f"{tmp_path.name}/drawn.bin"
    assert f"warning: {name}: 1 of the 36 images cannot be read, and their pairs score -1; the first: " in said
    from coreface.evaluation.protocols.pairs import Pairs

    found = cf.evaluate(run.folder, protocol=Pairs(tmp_path / "drawn.bin", replicates=0)).verification
    assert found.failures
    assert rows(run.folder)[0]["eer"] == found.eer.eer


def test_sets_of_one_name_have_their_whole_paths(toy_recipe, sets, tmp_path, screen):
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "b" / "x").mkdir(parents=True)
    both = [tmp_path / "a" / "x" / "s.bin", tmp_path / "b" / "x" / "s.bin"]
    for path in both:
        path.write_bytes((sets / "drawn.bin").read_bytes())
    recipe = recipe_with(toy_recipe, *pairs_word(map(str, both)), "--optimizer.epochs", "1")
    run = train(recipe, tmp_path / "run", console=screen)
    assert [row["name"] for row in rows(run.folder)] == [str(path) for path in both]


def test_relative_places_hold_from_any_folder(toy_recipe, sets, tmp_path, monkeypatch, screen):
    monkeypatch.chdir(sets)
    recipe = recipe_with(toy_recipe, *pairs_word(["drawn.bin", "lfw/pairs.txt:lfw/images"]), "--optimizer.epochs", "1")
    run = train(recipe, tmp_path / "run", console=screen)
    assert cf.Recipe.load(run.folder / "recipe.yaml").evaluation.pairs == places(sets)
    monkeypatch.chdir(tmp_path)
    resume(run.folder, overrides=["--optimizer.epochs", "2"], force=True, console=screen)
    assert [row["epoch"] for row in rows(run.folder)] == [1, 1, 2, 2]


def test_sets_alone_make_a_page_of_their_curves(toy_recipe, sets, tmp_path, screen):
    recipe = recipe_with(toy_recipe, *pairs_word(places(sets)), "--data.holdout", "0", "--optimizer.epochs", "1")
    run = train(recipe, tmp_path / "run", console=screen)
    assert run.evaluation is None
    assert "nobody is held out" not in screen.file.getvalue()
    assert rows(run.folder, "evaluation") == []
    assert "Accuracy on test sets: run" in (run.folder / "report.html").read_text(encoding="utf-8")
    (run.folder / "report.html").unlink()
    redraw_report(run.folder, screen)
    assert "Accuracy on test sets: run" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_people_beside_the_held_out_ones(toy_recipe, toy_folder, sets, tmp_path, screen):
    """Both are evaluated; the best is chosen by those who are held out, whichever rows lead."""
    words = ("--evaluation.faces", str(sets / "lfw" / "images"), "--evaluation.keep_best", "held_out")
    run = train(recipe_with(toy_recipe, *words), tmp_path / "run", console=screen)
    held_out = cf.data.split_by_identity(cf.data.open_faces(toy_folder), 2)[1]
    last = rows(run.folder)[-1]
    assert last["name"] == "held out"
    assert last["eer"] == cf.evaluate(run.encoder, held_out, replicates=0).verification.eer.eer
    assert read_best(run.folder).eer == min(row["eer"] for row in rows(run.folder))
    assert rows(run.folder, "evaluation")[-1]["genuine"] == 6 * 15
    assert run.evaluation.verification.identities == 6


def test_the_command_line_names_both_encoders(toy_recipe, sets, tmp_path, capsys):
    words = ["--evaluation.pairs", f"[{', '.join(places(sets))}]", "--evaluation.keep_best", "held_out"]
    assert main(["train", str(toy_recipe), "--run", str(tmp_path / "run"), *words]) == 0
    shown = capsys.readouterr()
    best = read_best(tmp_path / "run")
    assert f"encoder: {tmp_path / 'run' / 'encoder'}\n" in shown.out
    expected = f"{tmp_path / 'run' / 'encoder_best'} (EER {100 * best.eer:.2f} %, epoch {best.epoch})"
    assert f"best by the held-out people: {expected}\n" in shown.out
    assert shown.err.count("lfw/pairs.txt: accuracy") == 2


# Several processes


def test_a_share_holds_its_images_and_knows_all_pairs(sets):
    pairs = cf.data.open_pairs(sets / "drawn.bin")
    shares = pickle.loads(pickle.dumps([PairShare(pairs, number, 5) for number in range(5)]))
    assert sorted(index for share in shares for index in share.indices.tolist()) == list(range(pairs.num_images))
    assert sum(share.bytes_held for share in shares) == sum(len(pairs.encoded(i)) for i in range(pairs.num_images))
    for share in shares:
        np.testing.assert_array_equal(share.left, pairs.left)
        np.testing.assert_array_equal(share.fold_of, pairs.fold_of)
        assert len(pickle.dumps(share)) < share.bytes_held + 20_000
        for index in share.indices.tolist():
            assert share.encoded(index) == pairs.encoded(index)
            assert share.locate(index) == pairs.locate(index)
        with pytest.raises(KeyError):
            share.encoded((int(share.indices[0]) + 1) % pairs.num_images)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_find_what_one_does(groups, finished, sets, count):
    words = (str(finished[0].folder / "encoder"), places(sets), str(sets / "lfw" / "images"))
    alone = jobs.evaluate(*words)
    results = groups[count](jobs.evaluate, [words] * count)
    for number, whole in enumerate(alone["held"]):
        held = [result["held"][number] for result in results]
        assert sorted(index for some in held for index in some) == whole
        assert max(map(len, held)) - min(map(len, held)) <= 1
    for number, size in enumerate(alone["bytes"]):
        assert sum(result["bytes"][number] for result in results) == size
    for one, other in zip(alone["scores"], results[0]["scores"], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    for (name, one), (other_name, other) in zip(alone["figures"], results[0]["figures"], strict=True):
        assert name == other_name
        assert one.keys() == other.keys()
        for key, value in one.items():
            pairs = min(one["genuine"], one["impostor"])
            assert other[key] == (None if value is None else pytest.approx(value, abs=1 / pairs)), key


def test_what_the_leader_cannot_open_no_process_waits_for(groups, finished, sets, tmp_path):
    spoilt_sets(tmp_path, sets)
    for name in ("missing.bin", "noise.bin"):
        words = (str(finished[0].folder / "encoder"), [str(tmp_path / name)], str(sets / "lfw" / "images"))
        results = groups[2](jobs.evaluate, [words] * 2)
        assert [BAD[name] in result["error"] for result in results] == [True, True]


def launch(program, *words, cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    return subprocess.run(
        [*map(str, command), *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def small(toy_folder, sets, tmp_path_factory):
    """A recipe of a network that every process knows: evaluations after step 3, in an epoch, 6, and 8, the last."""
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(
        f"""
model: {{backbone: iresnet18_w25, embedding_size: 16}}
data: {{train: {json.dumps(str(toy_folder))}, image_size: 16, workers: 0, holdout: 2}}
optimizer: {{lr: 0.002, batch_size: 12, epochs: 4}}
evaluation: {{pairs: {json.dumps(places(sets))}, every: 4, every_steps: 3}}
checkpoint: {{every_steps: 2}}
precision: float32
device: cpu
log_every: 1
""",
        encoding="utf-8",
    )
    return path


@pytest.mark.slow
def test_two_processes_of_torchrun_write_each_row_once(small, sets, tmp_path):
    done = launch(["-m", "coreface"], "train", small, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [f"{sets.name}/drawn.bin", "lfw/pairs.txt"]
    assert [(row["step"], row["name"]) for row in rows(tmp_path / "run")] == [(s, n) for s in (3, 6, 8) for n in names]
    assert done.stderr.count("epoch 4: lfw/pairs.txt: accuracy ") == 1
    for row, place in zip(rows(tmp_path / "run")[-2:], places(sets), strict=True):
        expected = by_hand(cf.FaceEncoder.from_pretrained(tmp_path / "run" / "encoder"), place)
        assert row["eer"] == pytest.approx(expected["eer"], abs=1 / row["genuine"])
        assert row["accuracy"] == pytest.approx(expected["accuracy"], abs=1 / row["genuine"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_is_killed_while_it_evaluates_resumes_exactly(small, tmp_path, processes):
    """It dies in the first evaluation, which is in the middle of an epoch, and in the second."""

    def run(folder, event, *words):
        program = ["-m", "coreface"] if event is None else [EVENTFUL, "killset", event]
        if processes == 2:
            return launch(program, "train", *words, cwd=folder)
        command = [sys.executable, *map(str, program), "train", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)

    def outcome(folder):
        kept = [row for row in read_metrics(folder) if row["kind"] in ("step", "evaluation", "set", "finished")]
        times = ("images_per_second", "waiting")
        return [{key: value for key, value in row.items() if key not in times} for row in kept]

    assert run(tmp_path, None, small, "--run-dir", "whole").returncode == 0
    killed = run(tmp_path, 1, small, "--run-dir", "run")
    assert killed.returncode != 0
    assert rows(tmp_path / "run") == []
    again = run(tmp_path, 2, "--resume", "run")
    assert again.returncode not in (0, 2), again.stderr
    assert {row["step"] for row in rows(tmp_path / "run")} == {3}
    assert not is_finished(tmp_path / "run")
    ended = run(tmp_path, None, "--resume", "run")
    assert ended.returncode == 0, ended.stderr
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    one, other = (cf.FaceEncoder.from_pretrained(tmp_path / name / "encoder") for name in ("run", "whole"))
    assert content_digest(one) == content_digest(other)
    if processes == 1:
        assert killed.returncode == -signal.SIGKILL
