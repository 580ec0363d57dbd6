"""Runs that are cut off, through the public API and the command line."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import coreface as cf
from coreface.cli import main
from coreface.errors import CheckpointError, RunError, StorageError, TrainingStopped
from coreface.models.pretrained import content_digest
from coreface.runs.folder import located, open_recipe_faces
from coreface.runs.run import resume, train
from coreface.runs.status import is_finished, run_lock, run_states
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.metrics_file import read_metrics
from coreface.training.trainer import Trainer

EVENTFUL = Path(__file__).parents[1] / "support" / "eventful.py"
TIMES = ("images_per_second", "waiting")


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture
def recipe(toy_recipe):
    return cf.Recipe.load(toy_recipe, ["--checkpoint.every_steps", "1", "--checkpoint.asynchronous", "false"])


@pytest.fixture(scope="module")
def finished(toy_recipe, tmp_path_factory):
    """A run of four steps that nothing disturbed. Read-only."""
    return train(toy_recipe, tmp_path_factory.mktemp("whole") / "run", console=Console(file=io.StringIO()))


def cut_off(monkeypatch, recipe, folder, step, screen):
    """Train until a program error after some steps, as if the process had died."""
    take = Trainer.train_step

    def failing(self, *arguments):
        if self.step == step:
            raise ZeroDivisionError
        return take(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", failing)
        with pytest.raises(ZeroDivisionError):
            train(recipe, folder, console=screen)
    return folder


@pytest.fixture
def cut(monkeypatch, recipe, tmp_path, screen):
    """A run of four steps that was cut off after three, with checkpoints after two and three."""
    return cut_off(monkeypatch, recipe, tmp_path / "run", 3, screen)


def rows(folder):
    kept = [row for row in read_metrics(folder) if row["kind"] in ("step", "evaluation", "finished")]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in kept]


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Going on


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(monkeypatch, recipe, tmp_path, screen, finished, step):
    folder = cut_off(monkeypatch, recipe, tmp_path / "run", step, screen)
    assert not is_finished(folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "half a row')
    run = resume(folder, console=screen)
    assert content_digest(run.encoder) == content_digest(finished.encoder)
    assert rows(folder) == rows(finished.folder)
    assert run.evaluation.verification.eer == finished.evaluation.verification.eer
    assert (folder / "report.html").is_file()
    assert is_finished(folder)


def test_from_any_folder(cut, finished, tmp_path, monkeypatch, screen):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert content_digest(resume("../run", console=screen).encoder) == content_digest(finished.encoder)


def test_a_recipe_with_relative_paths_holds_from_any_folder(toy_recipe, toy_folder, tmp_path, monkeypatch, screen):
    shutil.copytree(toy_folder, tmp_path / "here" / "photos")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = cf.Recipe.load(toy_recipe, ["--data.train", "photos", "--evaluation.faces", "photos"])
    train(recipe, tmp_path / "run", console=screen)
    monkeypatch.chdir(tmp_path / "there")
    assert cf.evaluate(tmp_path / "run", replicates=0).verification.images == 36
    kept = cf.Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert kept.data.train == kept.evaluation.faces == str(tmp_path / "here" / "photos")


def test_the_word_for_the_demo_s_faces_stays_a_word(toy_recipe):
    recipe = cf.Recipe.load(toy_recipe, ["--data.train", "orl", "--evaluation.faces", "nowhere"])
    assert located(recipe) == recipe


def test_a_finished_run_is_left_alone(finished, tmp_path, screen):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = resume(folder, console=screen)
    assert run.evaluation is None
    assert content_digest(run.encoder) == content_digest(finished.encoder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "already finished" in screen.file.getvalue()


def test_more_epochs_on_request(finished, tmp_path, screen, toy_recipe):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    with pytest.raises(RunError, match=r"optimizer.epochs was 2, is 3"):
        resume(folder, overrides=["--optimizer.epochs", "3"], console=screen)
    resume(folder, overrides=["--optimizer.epochs", "3"], force=True, console=screen)
    assert [row["step"] for row in rows(folder) if row["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert cf.Recipe.load(folder / "recipe.yaml").optimizer.epochs == 3


# What has changed


def test_changes_that_matter_are_listed_and_refused(cut, screen):
    before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as raised:
        resume(cut, overrides=["--optimizer.lr", "0.5", "--seed", "9", "--data.flip", "false"], console=screen)
    message = str(raised.value)
    for change in ("optimizer.lr was 0.02, is 0.5", "seed was 1, is 9", "data.flip was True, is False", "--force"):
        assert change in message
    assert "\n" not in message
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == before


def test_a_stage_that_has_changed_is_named(cut, screen):
    second = "{from_epoch: 2, views: 2, dropout: 0.2, contrastive: {weight: 0.05}}"
    stages = f"[{{from_epoch: 1, views: 1, dropout: 0.3}}, {second}]"
    with pytest.raises(RunError, match=r"stages.1.dropout was 0.1, is 0.3"):
        resume(cut, overrides=["--stages", stages], console=screen)


def test_changes_that_do_not_matter_are_taken(cut, finished, screen):
    free = {"data.workers": "1", "log_every": "2", "evaluation.every": "5", "checkpoint.keep_last": "1"}
    overrides = [word for name, value in free.items() for word in (f"--{name}", value)]
    run = resume(cut, overrides=overrides, console=screen)
    assert content_digest(run.encoder) == content_digest(finished.encoder)
    assert len(checkpoint_folders(cut / "checkpoints")) == 1
    assert cf.Recipe.load(cut / "recipe.yaml").log_every == 2


def test_the_same_faces_elsewhere_will_do_and_others_will_not(cut, finished, toy_folder, tmp_path, paint_faces, screen):
    other = paint_faces(tmp_path / "other", images=5)
    with pytest.raises(RunError, match=r"the faces were 24 images of 4 identities, are 20 images"):
        resume(cut, overrides=["--data.train", str(other)], console=screen)
    moved = shutil.copytree(toy_folder, tmp_path / "moved")
    run = resume(cut, overrides=["--data.train", str(moved)], console=screen)
    assert content_digest(run.encoder) == content_digest(finished.encoder)


@pytest.mark.parametrize("force", [False, True])
def test_where_a_person_was_added_a_new_run_is_advised(cut, toy_folder, tmp_path, screen, force):
    more = shutil.copytree(toy_folder, tmp_path / "more")
    shutil.copytree(more / "person00", more / "person99")
    with pytest.raises(RunError, match=r"4 identities, and there are .* of 5 identities now") as raised:
        resume(cut, overrides=["--data.train", str(more)], force=force, console=screen)
    assert f"--run NEW --init-from {cut}" in str(raised.value)
    assert "--force" not in str(raised.value)


def test_people_of_other_names_are_others(cut, toy_folder, tmp_path, screen):
    renamed = shutil.copytree(toy_folder, tmp_path / "renamed")
    for person in sorted(renamed.iterdir()):
        person.rename(person.with_name(f"x{person.name}"))
    with pytest.raises(RunError, match="the same numbers, but other images"):
        resume(cut, overrides=["--data.train", str(renamed)], console=screen)


def test_by_force(cut, finished, screen):
    run = resume(cut, overrides=["--optimizer.lr", "0.5"], force=True, console=screen)
    assert content_digest(run.encoder) != content_digest(finished.encoder)
    assert [row["lr"] for row in rows(cut) if row["kind"] == "step"] == [0.02, 0.02, 0.02, 0.5]


def test_another_optimizer_by_force_begins_its_memory_anew(cut, screen):
    change = ["--optimizer.name", "adamw", "--optimizer.lr", "0.001"]
    assert resume(cut, overrides=change, force=True, console=screen).evaluation is not None
    assert "its state (momentum) starts from zero" in screen.file.getvalue()


def test_what_was_cut_off_after_the_training_is_done(finished, tmp_path, screen):
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    run = resume(tmp_path / "run", console=screen)
    assert run.evaluation is not None
    assert (tmp_path / "run" / "report.html").is_file()


def test_other_versions_are_mentioned(cut, monkeypatch, screen):
    from coreface.runs import resuming

    here = resuming.environment()
    monkeypatch.setattr(resuming, "environment", lambda: {**here, "torch": "9.9"})
    resume(cut, console=screen)
    assert f"torch {torch.__version__}, now 9.9" in screen.file.getvalue()


# What has been damaged


@pytest.mark.parametrize("name", ["manifest.json", ".metadata", "__0_0.distcp"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(cut, finished, screen, name):
    damage(cut / "checkpoints" / "step_3" / name)
    run = resume(cut, console=screen)
    assert content_digest(run.encoder) == content_digest(finished.encoder)
    assert rows(cut) == rows(finished.folder)
    said = screen.file.getvalue()
    assert str(cut / "checkpoints" / "step_3" / name) in said
    assert "step_2: 2 of 4 steps done" in said
    assert (cut / "checkpoints" / "step_3.damaged").is_dir()


def test_where_all_are_damaged_nothing_is_touched(cut, screen):
    for step in ("step_2", "step_3"):
        damage(cut / "checkpoints" / step / "__0_0.distcp")
    before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=r"every checkpoint of .* is damaged; the newest: .*step_3/__0_0.distcp: damaged"
    ):
        resume(cut, console=screen)
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == before


def test_rows_that_were_lost_are_mentioned(cut, screen):
    (cut / "metrics.jsonl").write_bytes(b"")
    resume(cut, console=screen)
    assert "rows are lost" in screen.file.getvalue()


@pytest.mark.parametrize("name", ["missing", "empty", "photos"])
def test_where_there_is_no_run(tmp_path, name, toy_folder):
    (tmp_path / "empty").mkdir()
    shutil.copytree(toy_folder, tmp_path / "photos")
    (tmp_path / "photos" / "recipe.yaml").write_text("{}")
    with pytest.raises(RunError, match=r"nothing to resume"):
        resume(tmp_path / name)


# One process at a time


def test_a_second_process_is_refused(cut, recipe, screen):
    code = """
import pathlib, sys
from coreface.runs.status import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""
    words = [sys.executable, "-c", code, str(cut)]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        for call in (lambda: resume(cut, console=screen), lambda: train(recipe, cut, overwrite=True, console=screen)):
            with pytest.raises(RunError, match="another process is training there"):
                call()
        assert [one.state for one in run_states(cut)] == ["running"]
    finally:
        other.kill()
        other.communicate()
    assert [one.state for one in run_states(cut)] == ["interrupted"]
    resume(cut, console=screen)
    assert [one.state for one in run_states(cut)] == ["finished"]


def test_a_child_that_outlives_the_training_holds_no_lock(tmp_path):
    code = """
import os, sys, pathlib
from coreface.runs.status import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:
        print("child", flush=True)
        sys.stdin.read()
        os._exit(0)
    os.waitpid(-1, 0)
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "child\n"  # by now it has let go
        with pytest.raises(RunError, match="another process"), run_lock(tmp_path):
            pass
        parent.kill()
        parent.wait()
        with run_lock(tmp_path):
            pass
        parent.stdin.close()


# First weights


@pytest.mark.parametrize("kind", ["run", "encoder", "checkpoint", "run without encoder"])
def test_the_encoder_s_weights_alone_are_taken(finished, toy_recipe, tmp_path, screen, kind):
    source = shutil.copytree(finished.folder, tmp_path / "source")
    if kind == "run without encoder":
        shutil.rmtree(source / "encoder")
    place = {"encoder": source / "encoder", "checkpoint": source / "checkpoints" / "step_4"}.get(kind, source)
    recipe = cf.Recipe.load(toy_recipe, ["--init_from", str(place), "--optimizer.lr", "1e-12"])
    faces, _ = open_recipe_faces(recipe)
    trainer = Trainer(recipe, faces, tmp_path, console=screen)
    assert content_digest(trainer.encoder) == content_digest(finished.encoder)
    assert trainer.step == 0
    fresh = Trainer(cf.Recipe.load(toy_recipe), faces, tmp_path, console=screen)
    assert torch.equal(trainer.objective.classifier.weight, fresh.objective.classifier.weight)


def test_what_it_was_given_is_said(finished, toy_recipe, tmp_path, paint_faces):
    (tmp_path / "list.json").write_text("{}")
    (tmp_path / "words.pth").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    photos = paint_faces(tmp_path / "photos", identities=1, images=1)
    cases = {
        tmp_path / "nowhere": "does not exist",
        photos: "a folder without an encoder or a checkpoint",
        photos / "person00" / "0.png": "a PNG image",
        tmp_path / "list.json": "a JSON file",
        finished.folder / "recipe.yaml": "a recipe or other YAML",
        finished.folder / "encoder" / "model.safetensors": "give the folder",
        tmp_path / "words.pth": "not a weight file",
        tmp_path / "other.pth": "so it is not toy",
    }
    for path, said in cases.items():
        recipe = cf.Recipe.load(toy_recipe, ["--init_from", str(path)])
        with pytest.raises(cf.ModelError, match=said):
            train(recipe, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_another_network_is_refused(finished, toy_recipe, tmp_path):
    recipe = cf.Recipe.load(toy_recipe, ["--init_from", str(finished.folder), "--model.embedding_size", "8"])
    with pytest.raises(cf.ModelError, match=r"toy, 16 numbers, 16 pixels; the recipe has toy, 8 numbers"):
        train(recipe, tmp_path / "run")


class Planted:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_planted_pickle_does_not_run(toy_recipe, tmp_path):
    torch.save(Planted(tmp_path / "ran"), tmp_path / "new.pth")
    torch.save(Planted(tmp_path / "ran"), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.pth", "old.pth"):
        with pytest.raises(cf.ModelError, match="nothing else is opened"):
            train(cf.Recipe.load(toy_recipe, ["--init_from", str(tmp_path / name)]), tmp_path / "run")
    (tmp_path / "evil.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    with pytest.raises(cf.RecipeError):
        cf.Recipe.load(tmp_path / "evil.yaml")
    assert not (tmp_path / "ran").exists()


# The command line


def shown(capsys, *words):
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_train_resume_runs_and_report(cut, finished, capsys, tmp_path):
    code, out, _ = shown(capsys, "runs", str(tmp_path))
    assert code == 0
    assert "interrupted" in out
    assert "coreface train --resume RUN" in out
    code, out, _ = shown(capsys, "report", str(cut))
    assert code == 0
    assert out == f"report: {cut / 'report.html'}\n"
    code, out, _ = shown(capsys, "train", "--resume", str(cut), "--data.workers", "1")
    assert code == 0
    assert f"encoder: {cut / 'encoder'}" in out
    (state,) = json.loads(shown(capsys, "runs", str(tmp_path), "--json")[1])
    assert (state["state"], state["step"], state["epoch"]) == ("finished", 4, 2)
    assert state["eer"] == finished.evaluation.verification.eer.eer


def test_the_page_of_a_run_that_trains_has_curves_and_no_rates(cut, capsys):
    with run_lock(cut):
        assert shown(capsys, "report", str(cut))[0] == 0
        page = (cut / "report.html").read_text(encoding="utf-8")
    assert "Classification loss" in page
    assert "Hardest pairs" not in page
    assert shown(capsys, "report", str(cut))[0] == 0
    assert "Hardest pairs" in (cut / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--resume", "RUN", "--run", "x"], "--run cannot be combined with --resume"),
        (["train", "--resume", "RUN", "--overwrite"], "--overwrite cannot be combined with --resume"),
        (["train", "--resume", "RUN", "--init-from", "x"], "--init-from cannot be combined with --resume"),
        (["train", "--resume", "RUN", "--optimizer.lr", "0.5"], "optimizer.lr was 0.02, is 0.5"),
        (["train", "RECIPE", "--force"], "--force is an option of --resume"),
        (["train", "--resume", "nowhere"], "nowhere does not exist"),
        (["runs", "nowhere"], "nowhere: no such folder"),
        (["report", "nowhere"], "nowhere does not exist"),
    ],
)
def test_what_does_not_go_together(cut, toy_recipe, capsys, words, said):
    words = [{"RUN": str(cut), "RECIPE": str(toy_recipe)}.get(word, word) for word in words]
    code, _, err = shown(capsys, *words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_init_from_on_the_command_line(finished, toy_recipe, capsys, tmp_path):
    words = ["train", str(toy_recipe), "--run", str(tmp_path / "run"), "--init-from", str(finished.folder)]
    assert shown(capsys, *words)[0] == 0
    assert cf.Recipe.load(tmp_path / "run" / "recipe.yaml").init_from == str(finished.folder)


def test_errors_of_the_machine_are_told_from_bad_input(monkeypatch, capsys, toy_recipe, tmp_path):
    from coreface.runs import run

    for error, code in (
        (StorageError("full"), 1),
        (cf.errors.DivergedError("nan"), 1),
        (TrainingStopped("bye", 15), 143),
    ):

        def fail(*arguments, error=error, **options):
            raise error

        monkeypatch.setattr(run, "train", fail)
        got, _, err = shown(capsys, "train", str(toy_recipe), "--run", str(tmp_path / "run"))
        assert got == code
        assert err == f"coreface: {error}\n"


# Real processes


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGINT, "Ctrl-C"), pytest.param(signal.SIGTERM, "SIGTERM", marks=pytest.mark.slow)],
)
def test_a_signal_to_all_processes_ends_the_run_with_a_checkpoint(toy_folder, tmp_path, number, name):
    """As Ctrl-C on a terminal and the end of a service do: the loader's workers get it too."""
    stages = "[{from_epoch: 1}, {from_epoch: 2, views: 2, contrastive: {}}]"
    (tmp_path / "small.yaml").write_text(
        f"""
model: {{backbone: mobilefacenet, embedding_size: 16}}
data: {{train: {json.dumps(str(toy_folder))}, image_size: 16, workers: 2}}
stages: {stages}
optimizer: {{lr: 0.002, batch_size: 6, epochs: 2}}
log_every: 1
device: cpu
""",
        encoding="utf-8",
    )
    words = [EVENTFUL, number.name, 3, "train", "small.yaml", "--run", "run"]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        start_new_session=True,  # the signal goes to its group
        # What was started in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert f"stopped by {name} after step 3 of 12" in last
    assert last.endswith("continue with: coreface train --resume run")
    (newest,) = checkpoint_folders(tmp_path / "run" / "checkpoints")
    assert open_checkpoint(newest).step == 3


def test_a_disk_that_fills_leaves_the_last_good_checkpoint(cut, finished, screen):
    """A limit on the size of a file stands for the disk; it strikes at the first checkpoint after going on."""
    code = """
import resource, sys
limit = 4000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from coreface.training.checkpoint_writer import CheckpointWriter
from coreface.training.checkpoint_facts import CheckpointFacts
from coreface.training.recipe_sections import CheckpointRecipe
from coreface.errors import StorageError
from pathlib import Path
import torch
try:
    with CheckpointWriter(Path(sys.argv[1]), CheckpointRecipe()) as writer:
        writer.save(4, {"a": torch.zeros(9000)}, CheckpointFacts(), wait=False)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(cut)], capture_output=True, text=True, check=False)
    assert "File too large" in done.stdout, done.stderr
    assert "last good checkpoint is" in done.stdout
    assert "step_3" in done.stdout
    assert [path.name for path in checkpoint_folders(cut / "checkpoints")] == ["step_3", "step_2"]
    assert content_digest(resume(cut, console=screen).encoder) == content_digest(finished.encoder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights of files as POSIX has them")
def test_a_folder_that_may_not_be_written_any_more(cut, screen, monkeypatch):
    """The superuser may write everywhere, so the refusal comes from the call itself where that is who runs this."""
    before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    if os.geteuid() == 0:

        def refuse(*arguments):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "truncate", refuse)
        (cut / "metrics.jsonl").open("a").write('{"kind": "x"}\n')
        before = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    else:
        for path in [cut, *cut.rglob("*")]:
            path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        with pytest.raises(StorageError, match=r"Permission denied.*last good checkpoint is .*step_3"):
            resume(cut, console=screen)
    finally:
        for path in [cut, *cut.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)
    assert {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_identical():
    """`benchmarks/kill_runs.py` does thirty."""
    program = Path(__file__).parents[2] / "benchmarks" / "kill_runs.py"
    done = subprocess.run(
        [sys.executable, str(program), "--runs", "4", "--seed", "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 identical" in done.stdout
