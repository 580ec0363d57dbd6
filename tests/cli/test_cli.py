"""The command line: what a user types, what comes back, and one clear line for every bad input."""

import contextlib
import importlib.metadata
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import coreface as cf
from coreface.cli import main

RECIPE = """
model: {backbone: iresnet18, embedding_size: 16}
data: {train: photos, image_size: 16, workers: 0, holdout: 2}
stages: [{views: 1}, {from_epoch: 3, views: 2, contrastive: {weight: 0.05}}]
optimizer: {batch_size: 8, epochs: 5, lr: 0.02}
evaluation: {every: 5}
"""


@pytest.fixture
def place(paint_faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint_faces(tmp_path / "photos", identities=8, images=4)
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def fails(capsys, *words):
    code = main(list(words))
    error = capsys.readouterr().err
    lines = error.strip().splitlines()
    assert code == 2, error
    assert lines[-1].startswith("coreface: ")
    assert "Traceback" not in error
    return lines


def test_train_evaluate_and_overwrite(place, paint_faces, capsys):
    (place / "photos" / "person00" / "9.png").write_bytes(b"no image")
    paint_faces(place / "lonely", identities=1, images=1)
    (place / "lonely" / "person00").rename(place / "photos" / "single")
    assert main(["train", "r.yaml", "--data.holdout_seed", "null", "--data.holdout_fold", "2"]) == 0
    shown = capsys.readouterr()
    assert "a single image" in shown.err
    assert "1 unreadable image left out" in shown.err
    assert "EER" in shown.out
    run = place / "runs" / "r"
    names = {entry.name for entry in run.iterdir()}
    assert {"recipe.yaml", "environment.json", "samples.png", "metrics.jsonl", "encoder", "report.html"} <= names
    assert "9.png" in (run / "unreadable.txt").read_text(encoding="utf-8")
    assert "single" in (run / "notices.txt").read_text(encoding="utf-8")

    assert main(["evaluate", "runs/r", "--json", "--replicates", "20"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["images"] == 8
    assert measured["genuine"] == 12
    assert measured["tar"][2]["resolvable"] is False
    assert main(["evaluate", "runs/r/encoder", "--faces", "photos", "--no-flip", "--report", "page.html"]) == 0
    assert "not embedded" in capsys.readouterr().err
    assert (place / "page.html").is_file()

    assert "already contains a run" in fails(capsys, "train", "r.yaml")[-1]
    assert main(["train", "r.yaml", "--overwrite", "--optimizer.epochs", "1"]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["epoch"] for row in rows if "epoch" in row} == {1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.train", "nowhere"], "nowhere: no such folder"),
        (["--data.train", "one", "--data.holdout", "0"], "training needs at least 2 identities, got 1"),
        (["--model.backbone", "iresnet51"], "did you mean 'iresnet50'"),
        (["--optimizer.epoch", "3"], "did you mean optimizer.epochs?"),
        (["--optimizer.batch_size", "500"], "cannot fill one batch of 500"),
        (["--data.image_size", "20"], "data.image_size is 20, expected a multiple of 16"),
        (["--data.holdout", "8"], "leaves none to train on"),
        (["--device", "toaster"], "device 'toaster' is not available"),
        (["--run", "photos"], "photos exists and is not a run"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(place, paint_faces, capsys, words, message):
    paint_faces(place / "one", identities=1, images=9, seed=3)
    lines = fails(capsys, "train", "r.yaml", *words)
    assert message in lines[-1]
    assert not (place / "runs").exists()
    assert len(list((place / "photos").iterdir())) == 8


def test_a_recipe_with_a_class_path_imports_nothing(place, capsys):
    (place / "trap.py").write_text("open('sprung', 'w')", encoding="utf-8")
    (place / "bad.yaml").write_text(RECIPE + "evaluation2: {class_path: trap.Trap}\n", encoding="utf-8")
    fails(capsys, "train", "bad.yaml")
    (place / "bad.yaml").write_text(
        RECIPE.replace("{batch_size", "{class_path: trap.Trap, batch_size"), encoding="utf-8"
    )
    assert "names a class to import" in fails(capsys, "train", "bad.yaml")[-1]
    assert not (place / "sprung").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist: expected a run folder"),
        (["photos"], "photos contains no encoder"),
        (["saved"], "no people are held out"),
        (["saved", "--faces", "nowhere"], "nowhere: no such folder"),
        (["saved", "--faces", "photos", "--replicates", "-1"], "--replicates is -1"),
    ],
)
def test_evaluate_with_bad_input(place, capsys, words, message):
    cf.FaceEncoder("iresnet18", 16, 16).save_pretrained(place / "saved")
    assert message in fails(capsys, "evaluate", *words)[-1]


def test_a_collapsed_encoder_is_explained_and_not_scored(place, capsys):
    encoder = cf.FaceEncoder("iresnet18", 16, 16)
    encoder.backbone.features.weight.data.zero_()
    encoder.backbone.features.bias.data.fill_(1.0)
    encoder.save_pretrained(place / "flat")
    assert "the encoder has collapsed" in fails(capsys, "evaluate", "flat", "--faces", "photos")[-1]


def test_labels_that_do_not_fit_the_weights():
    classify = cf.MarginClassifier(cf.ArcFace(), 4, 3)
    with pytest.raises(cf.InputError, match="got identities 0 to 3, expected 0 to 2"):
        classify(torch.zeros(2, 4), torch.tensor([0, 3]))


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_and_import_bring_no_torch():
    code = "import sys, coreface, coreface.cli\ntry: coreface.cli.main(['--help'])\nexcept SystemExit: pass\n"
    assert python(code + "print('torch' in sys.modules)").strip().endswith("False")


def test_every_public_name_is_there():
    for name in cf.__all__:
        assert getattr(cf, name) is not None
    assert set(cf.__all__) <= set(dir(cf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cf.nothing


def test_module_and_help(capsys):
    text = subprocess.run([sys.executable, "-m", "coreface", "backbones"], capture_output=True, text=True, check=True)
    rows = text.stdout.split("---\n")[1].split("\nParameters")[0].splitlines()
    assert [row.split()[0] for row in rows] == [name for name in cf.backbones() if not name.startswith("toy")]
    assert max(map(len, text.stdout.splitlines())) <= 80
    assert main(["train", "--help"]) == 0
    assert "--optimizer.lr" in capsys.readouterr().out


# The same in more corners, with a network so small that every command takes no time


@pytest.fixture
def type_in(capsys, tmp_path, monkeypatch):
    """Return a function that runs a command in an empty folder: (exit code, standard output, standard error)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def type_in(*words):
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return type_in


@pytest.fixture
def refusal(type_in):
    """Return a function that runs a command that must end with exit code 2 and one line on standard error: the line."""

    def refusal(*words):
        code, out, err = type_in(*words)
        assert code == 2, err
        assert out == ""
        assert err.startswith("coreface: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err

    return refusal


@pytest.fixture(scope="module")
def finished(toy_recipe, tmp_path_factory):
    """A run made by the command line: its folder, and what was printed. Read-only."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["train", str(toy_recipe), "--run", str(folder)]) == 0
    return folder, out.getvalue(), err.getvalue()


def strict(text):
    def refuse(constant):
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_what_train_says(finished):
    folder, out, err = finished
    assert f"report: {folder / 'report.html'}" in out
    assert f"encoder: {folder / 'encoder'}" in out
    assert "training toy on 4 identities, 24 images, 4 steps" in err
    assert "step 4/4" in err
    assert "\x1b" not in out + err  # no terminal, no colours


def test_a_run_is_called_after_its_recipe(type_in, toy_recipe):
    code, _, _ = type_in("train", toy_recipe, "--optimizer.epochs", "1", "--data.holdout=0")
    assert code == 0
    assert (Path("runs") / "toy" / "encoder" / "model.safetensors").exists()
    saved = cf.Recipe.load("runs/toy/recipe.yaml")
    assert (saved.optimizer.epochs, saved.data.holdout) == (1, 0)


def test_a_folder_that_is_no_run_is_refused_even_with_overwrite(refusal, toy_recipe):
    Path("photos").mkdir()
    Path("photos/one.jpg").write_text("mine")
    assert "is not a run" in refusal("train", toy_recipe, "--run", "photos", "--overwrite")
    assert Path("photos/one.jpg").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        ["RECIPE", "--optimizer.lr", "0.5", "--seed=3", "--overwrite"],
        ["--optimizer.lr", "0.5", "RECIPE", "--seed", "3"],
        ["--seed=3", "--overwrite", "--optimizer.lr=0.5", "RECIPE"],
        ["--run", "folder", "--seed", "3", "--optimizer.lr", "0.5", "RECIPE"],
    ],
)
def test_the_recipe_stands_anywhere_among_the_words(type_in, toy_recipe, words):
    code, out, err = type_in("train", "--print_config", *(toy_recipe if word == "RECIPE" else word for word in words))
    assert (code, err) == (0, "")
    made = yaml.safe_load(out)
    assert (made["optimizer"]["lr"], made["seed"]) == (0.5, 3)
    assert made["data"]["holdout"] == 2


def test_print_config_prints_a_recipe_and_trains_nothing(type_in, toy_recipe):
    code, out, _ = type_in("train", toy_recipe, "--print_config")
    assert code == 0
    Path("printed.yaml").write_text(out)
    assert cf.Recipe.load("printed.yaml") == cf.Recipe.load(toy_recipe)
    assert not Path("runs").exists()


def test_stages_can_be_given_as_a_whole(type_in, toy_recipe):
    stages = "[{from_epoch: 1, dropout: 0.5}, {from_epoch: 2, views: 2, contrastive: {ema: 0.2, margin: -0.1}}]"
    for words in (["--stages", stages], [f"--stages={stages}"]):
        _, out, _ = type_in("train", toy_recipe, "--print_config", *words)
        made = yaml.safe_load(out)["stages"]
        assert [stage["dropout"] for stage in made] == [0.5, 0.4]  # the default, not what the file's second stage says
        assert made[1]["contrastive"]["margin"] == -0.1


def test_an_override_that_names_a_class_imports_nothing(refusal, toy_recipe, monkeypatch):
    Path("planted.py").write_text("open('imported', 'w').close()")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    refusal("train", toy_recipe, "--stages", "[planted.Thing]")
    refusal("train", toy_recipe, "--model.class_path", "planted.Thing")
    assert not Path("imported").exists()


def test_no_faces_named(refusal):
    Path("recipe.yaml").write_text("{}")
    assert "--data.train" in refusal("train", "recipe.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected one recipe, none given"),
        (["missing.yaml"], "missing.yaml: no such recipe"),
        (["."], "cannot be read"),
        (["RECIPE", "stray.yaml"], "stray.yaml"),
        (["RECIPE", "--seed"], "--seed has no value"),
        (["RECIPE", "--seed", "--log_every", "3"], "--seed has no value"),
        (["RECIPE", "--seed", "many"], "seed"),
        (["RECIPE", "--optimiser.lr", "1"], "did you mean optimizer.lr?"),
        (["RECIPE", "--data.holdout_fold", "7"], "fold 7 does not exist"),
        (["RECIPE", "--classifier.margin.margin", "7"], "margin is 7"),
        (["RECIPE", "--evaluation.faces", "nowhere"], "nowhere: no such folder"),
        (["RECIPE", "--stages.dropout", "0.5"], "name a stage"),
        (["RECIPE", "--optimizer", "other.yaml"], "--optimizer is a section"),
        (["RECIPE", "--resume", "now"], "nothing to resume"),
    ],
)
def test_other_bad_words(refusal, toy_recipe, words, said):
    assert said in refusal("train", *(toy_recipe if word == "RECIPE" else word for word in words))
    assert not Path("runs").exists()


def test_a_run_folder_that_cannot_be_made(refusal, toy_recipe):
    Path("file").write_text("")
    assert "cannot be written" in refusal("train", toy_recipe, "--run", "file/run")


@pytest.mark.parametrize("words", [[], ["fly"], ["calibrate"], ["demo", "--folds", "5"], ["backbones", "stray"]])
def test_what_is_no_command(type_in, words):
    code, out, err = type_in(*words)
    assert (code, out) == (2, "")
    assert err.startswith("usage: coreface")


def test_an_interrupt_ends_quietly(type_in, toy_recipe, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("coreface.runs.run.train", interrupt)
    assert type_in("train", toy_recipe) == (130, "", "coreface: interrupted\n")


def test_a_failing_machine_is_not_bad_input(type_in, toy_recipe, monkeypatch):
    def fill_up(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coreface.runs.run.train", fill_up)
    code, _, err = type_in("train", toy_recipe)
    assert code == 1
    assert err == "coreface: [Errno 28] No space left on device\n"


def test_the_table_of_a_run_names_its_pairs(type_in, finished):
    code, out, err = type_in("evaluate", finished[0], "--replicates", "20")
    assert (code, err) == (0, "")
    assert "2 identities, 12 images: 30 genuine and 36 impostor pairs" in out
    assert "resolvable" in out  # TAR at FAR 0.01 needs more than 36 impostors


def test_json_holds_the_numbers_of_the_api(type_in, finished):
    for words, flip in (([], True), (["--no-flip"], False)):
        code, out, err = type_in("evaluate", finished[0], "--json", "--replicates", "0", *words)
        assert (code, err) == (0, "")
        values = strict(out)
        result = cf.evaluate(finished[0], flip=flip, replicates=0).to_dict()
        assert values["sets"] == [result]
        assert values == {**result, **values}  # the keys of the one result stand at the top as well
        assert {"eer", "tar", "encoder", "flip", "unreadable"} <= values.keys()
        assert values["flip"] is flip
        assert values["tar"][2]["tar"] is None
        assert values["eer_interval"] is None


def test_a_report_beside_json_leaves_the_json_alone(type_in, finished):
    words = ["evaluate", finished[0], "--report", "page.html", "--replicates", "0", "--json"]
    code, out, err = type_in(*words)
    assert code == 0
    assert Path("page.html").read_text(encoding="utf-8").count("</html>") == 1
    assert err == "report: page.html\n"
    strict(out)


def test_the_report_of_the_folder_one_stands_in_has_a_name(type_in, finished, monkeypatch, tmp_path):
    monkeypatch.chdir(finished[0])
    code, _, err = type_in("evaluate", ".", "--report", tmp_path / "page.html", "--replicates", "0")
    assert code == 0, err
    assert "toy: evaluation" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written(type_in, finished):
    code, _, err = type_in("evaluate", finished[0], "--report", "no/folder/page.html", "--replicates", "0")
    assert code in (1, 2)
    assert err.startswith("coreface: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("weight", "said"), [(0.0, "the same"), (float("nan"), "finite")])
def test_a_broken_encoder_is_never_scored(refusal, toy_backbone, toy_folder, weight, said):
    encoder = cf.FaceEncoder(toy_backbone, 16, 16)
    with torch.no_grad():
        encoder.backbone.embedding_linear.weight.fill_(weight)
        encoder.backbone.embedding_norm.bias.fill_(1.0)
    encoder.save_pretrained("broken")
    for words in ([], ["--json"], ["--report", "page.html"]):
        assert said in refusal("evaluate", "broken", "--faces", toy_folder, *words)
    assert not Path("page.html").exists()


def test_damaged_weights(refusal, toy_backbone, toy_folder):
    cf.FaceEncoder(toy_backbone, 16, 16).save_pretrained("encoder")
    path = Path("encoder/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "digest differs" in refusal("evaluate", "encoder", "--faces", toy_folder)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["recipe.yaml", "--help"]])
def test_help_of_train_lists_every_field(type_in, words):
    code, out, err = type_in("train", *words)
    assert (code, err) == (0, "")
    names = set(out.replace(",", " ").split())
    for section, values in cf.Recipe().to_dict().items():
        for field in values if isinstance(values, dict) else [None]:
            name = f"--{section}.{field}" if field else f"--{section}"
            assert name in names or any(word.startswith(f"{name}.") for word in names), name
    assert "Learning rate after the warm-up" in " ".join(out.split())
    assert "resume an interrupted run from its newest checkpoint" in " ".join(out.split())
    assert out.startswith("usage: coreface train RECIPE")


def test_help_of_train_begins_with_its_own_options(type_in):
    _, out, _ = type_in("train", "--help")
    own, fields = out.split("Fields of the recipe:")
    for option in (
        "RECIPE  ",
        "--run ",
        "--run-dir DIR",
        "--overwrite  ",
        "--resume RUN  ",
        "--force  ",
        "--init-from PATH  ",
    ):
        assert option in own.split("\n\n", 1)[1]
    assert "--print_config" in own
    assert "--model.backbone" not in own
    for refused in ("--config", "--print_config", "--help", "--model CONFIG", "--stages+"):
        assert refused not in fields.replace("--stages.help", "")


@pytest.mark.parametrize("words", [["--stages.help"], ["recipe.yaml", "--stages.contrastive.help"]])
def test_help_of_the_stages_lists_the_fields_of_the_term(type_in, words):
    code, out, err = type_in("train", *words)
    assert (code, err) == (0, "")
    for name in ("--stages.from_epoch", "--stages.dropout", "--contrastive.weight", "--contrastive.gather"):
        assert name in out


def test_help_of_the_others(type_in):
    _, overview, _ = type_in("--help")
    for command in ("train", "evaluate", "demo", "backbones"):
        assert command in overview
    for command in ("evaluate", "demo", "backbones"):
        code, out, _ = type_in(command, "--help")
        assert code == 0
        assert f"usage: coreface {command}" in out


def test_version(type_in):
    assert type_in("--version") == (0, f"coreface {cf.__version__}\n", "")


def test_the_console_script_is_this_main():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="coreface")
    assert script.load() is main


def test_the_exit_code_reaches_the_shell(tmp_path):
    words = [sys.executable, "-m", "coreface", "train", "no.yaml"]
    bad = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("coreface: no.yaml: no such recipe")
    assert bad.stderr.count("\n") == 1


@pytest.mark.slow
def test_train_and_evaluate_as_a_program(paint_faces, tmp_path):
    """A real backbone, worker processes and a fresh process, from photographs to numbers."""
    paint_faces(tmp_path / "photos", identities=8, images=8)
    (tmp_path / "mine.yaml").write_text(
        "model: {backbone: iresnet18, embedding_size: 32}\n"
        "data: {train: photos, image_size: 32, workers: 2, holdout: 3}\n"
        "stages: [{dropout: 0.1}, {from_epoch: 3, views: 2, dropout: 0.2, contrastive: {}}]\n"
        "optimizer: {lr: 0.05, batch_size: 8, epochs: 4}\n"
    )
    program = [sys.executable, "-m", "coreface"]
    words = [*program, "train", "mine.yaml"]
    trained = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert trained.returncode == 0, trained.stderr
    words = [*program, "evaluate", "runs/mine", "--json"]
    measured = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert strict(measured.stdout)["eer"]["eer"] < 0.25


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted")
@pytest.mark.parametrize("words", [["train", "--resume", "run"], ["evaluate", "run", "--faces", "faces"]])
def test_a_deleted_working_folder_is_named(words, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "work"
    (folder / "run").mkdir(parents=True)
    monkeypatch.chdir(folder)
    shutil.rmtree(folder)
    assert main(words) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the current folder has been deleted: change to another one")
