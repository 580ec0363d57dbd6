"""Studies of the toy network: every run made in this process, judged through the public entry points."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from coreface.cli import main
from coreface.errors import EvaluationError, RecipeError, RunError
from coreface.evaluation.metrics import eer, tar_at_far
from coreface.evaluation.metrics.resampling import resample
from coreface.models.encoder import FaceEncoder
from coreface.runs.evaluation import evaluate
from coreface.studies import job as job_module
from coreface.studies import results
from coreface.studies import study as study_module
from coreface.studies.estimate import time_steps
from coreface.studies.job import SHARED, Job, run_job
from coreface.studies.results import Place, processor, processor_of_seed, shared_standing, standing
from coreface.studies.scores import read_scores
from coreface.studies.statistics import paired_effect
from coreface.studies.study import run_study
from coreface.studies.study_file import read_study
from coreface.studies.summary import summarise
from coreface.training.metrics_file import read_metrics
from support.study_text import STUDY


@pytest.fixture
def copied(made, tmp_path):
    """The study whose runs are all made, with a folder of its own to spoil."""
    study, place = made
    shutil.copytree(place.folder, tmp_path / "copy")
    return study, Place(tmp_path / "copy")


def untimed(values):
    if isinstance(values, dict):
        return {name: untimed(value) for name, value in values.items() if name != "times"}
    return [untimed(value) for value in values] if isinstance(values, list) else values


def test_every_run_has_a_row_with_where_it_comes_from(made):
    study, place = made
    rows = summarise(study, place).rows
    assert list(rows) == [(seed, arm) for seed in (1, 2) for arm in ("plain", "twin", "coreface")]
    for row in rows.values():
        assert row["state"] == "finished"
        assert row["processor"] == processor()
        assert (row["threads"], row["precision"], row["checkpoint"]) == (1, "float32", "step_9")
        assert row["faces"]["identities"] == 6
        assert row["times"]["step"] > 0
        assert row["times"]["training"] > row["times"]["step"]
        assert {"coreface", "torch", "numpy"} <= row["versions"].keys()
        assert all(len(row[name]) == 64 for name in ("checkpoint_sha256", "scores_sha256"))
        assert str(place.folder) not in json.dumps(row)  # it can be published


def test_arms_begin_from_one_state_and_share_its_rows(made):
    study, place = made
    shared = [row for row in read_metrics(place.run(1, SHARED)) if row["kind"] == "step"]
    assert len(shared) == 3
    for arm in study.arms:
        rows = [row for row in read_metrics(place.run(1, arm)) if row["kind"] == "step"]
        assert rows[:3] == shared
        assert len(rows) == 9


def test_measures_and_scores_are_those_of_the_saved_encoder(made):
    _, place = made
    path, row = place.read_row(1, "coreface")
    kept = read_scores(place.scores(path))["held_out"]
    again = evaluate(place.run(1, "coreface"), replicates=0, console=Console(file=io.StringIO())).verification
    assert np.array_equal(kept.pairs.genuine_scores, again.genuine_scores)
    assert np.array_equal(kept.pairs.impostor_scores, again.impostor_scores)
    assert row["sets"]["held_out"]["measures"] == {
        "accuracy": None,
        "eer": eer(again.genuine_scores, again.impostor_scores).eer,
        "tar_at_far_0.1": tar_at_far(again.genuine_scores, again.impostor_scores, 0.1).tar,
    }
    assert row["encoder"] == FaceEncoder.from_pretrained(place.run(1, "coreface") / "encoder").digest


def test_identical_arms_differ_by_0_with_p_1_and_a_contrast_is_judged_as_the_statistics_say(made):
    study, place = made
    twin, coreface = summarise(study, place).contrasts[:2]
    assert (twin.first, twin.second, twin.primary) == ("twin", "plain", True)
    assert (twin.effect.difference, twin.effect.p_value, twin.holm, dict(twin.by_seed)) == (0, 1, 1, {1: 0, 2: 0})
    differences, replicates = [], []
    for seed in (1, 2):
        one, other = (
            read_scores(place.scores(place.row(seed, arm)))["held_out"].pairs for arm in ("coreface", "plain")
        )
        samples = [resample(pairs, ["eer"], replicates=100) for pairs in (one, other)]
        differences.append(samples[0].estimates[0] - samples[1].estimates[0])
        replicates.append(samples[0].values[:, 0] - samples[1].values[:, 0])
    assert coreface.effect == paired_effect(differences, np.transpose(replicates), 10)
    if coreface.effect.p_value is not None:
        assert coreface.holm == pytest.approx(min(1, 2 * coreface.effect.p_value))


def test_the_same_study_again_has_the_same_result_to_the_last_bit(made, make_runs, tmp_path):
    whole, place = made
    study, again = dataclasses.replace(whole, seeds=(2,)), Place(tmp_path / "again")
    make_runs(study, again, ["coreface"])
    study = dataclasses.replace(study, arms={"coreface": study.arms["coreface"]}, contrasts=())
    one, other = (json.dumps(untimed(summarise(study, at).to_dict())) for at in (place, again))
    for name in ("checkpoint_sha256",):  # which holds the times of its rows
        assert name in one
    drop = ("checkpoint_sha256",)

    def without(values):
        if isinstance(values, dict):
            return {name: without(value) for name, value in values.items() if name not in drop}
        return [without(value) for value in values] if isinstance(values, list) else values

    assert without(json.loads(one)) == without(json.loads(other))


def test_a_run_that_is_done_is_not_made_again(copied, make_runs):
    study, place = copied
    before = {path: path.stat().st_mtime_ns for path in place.folder.rglob("*") if path.is_file()}
    run_job(Job(study, place, 1, SHARED), Console(file=io.StringIO()))
    for arm in study.arms:
        run_job(Job(study, place, 1, arm), Console(file=io.StringIO()))
    assert {path: path.stat().st_mtime_ns for path in place.folder.rglob("*") if path.is_file()} == before


def test_a_changed_arm_is_trained_again_and_it_is_said_which(copied, make_runs, write_study, tmp_path):
    _, place = copied
    text = STUDY.replace("contrastive: {weight: 0.5}", "contrastive: {weight: 0.25}")
    study = read_study(write_study(tmp_path / "changed", text))
    states = {arm: standing(study, place, 1, arm) for arm in study.arms}
    assert {arm: found.state for arm, found in states.items()} == {
        "plain": "done",
        "twin": "done",
        "coreface": "train",
    }
    assert states["coreface"].reason == ("its recipe changed: stages.2.contrastive.weight was 0.5, is 0.25")
    before = place.row(1, "coreface").read_text()
    make_runs(study, place)
    assert place.row(1, "coreface").read_text() != before
    assert standing(study, place, 1, "coreface").state == "done"
    other_base = read_study(write_study(tmp_path / "base", more="").parent / "study.yaml", ["--optimizer.lr", "0.03"])
    assert all(standing(other_base, place, 1, arm).state == "train" for arm in study.arms)
    assert shared_standing(other_base, place, 1) is None


def test_another_set_is_measured_without_training(copied, make_runs, write_study, paint_faces, tmp_path):
    _, place = copied
    others = paint_faces(tmp_path / "others", identities=5, seed=3)
    text = STUDY.replace("measure: {faces: [held_out]", f"measure: {{faces: [held_out, {others}]")
    study = read_study(write_study(tmp_path / "changed", text))
    found = standing(study, place, 2, "plain")
    assert (found.state, found.reason) == ("measure", f"to be measured on {others}")
    encoder = place.run(2, "plain") / "encoder" / "model.safetensors"
    before = encoder.stat().st_mtime_ns, (place.run(2, "plain") / "metrics.jsonl").read_bytes()
    make_runs(study, place)
    assert before == (encoder.stat().st_mtime_ns, (place.run(2, "plain") / "metrics.jsonl").read_bytes())
    contrasts = summarise(study, place).contrasts
    assert {one.set_name for one in contrasts} == {"held_out", str(others)}
    assert [one.primary for one in contrasts] == [True, True, *[False] * (len(contrasts) - 2)]
    assert all(one.holm is None for one in contrasts if not one.primary)


def test_other_rates_need_no_measuring(copied, write_study, tmp_path):
    _, place = copied
    study = read_study(write_study(tmp_path / "changed", STUDY.replace("fars: [0.1]", "fars: [0.1, 0.2]")))
    assert standing(study, place, 1, "plain").state == "done"
    assert "tar_at_far_0.2" in {one.measure for one in summarise(study, place).contrasts}


def test_results_beside_the_study_file_count_without_their_runs(made, write_study, tmp_path):
    _, place = made
    path = write_study(tmp_path / "published")
    shutil.copytree(place.folder / "results", path.parent / "results" / "study")
    study = read_study(path)
    kept = Place(tmp_path / "elsewhere", study_module.kept_results(study))
    assert all(standing(study, kept, seed, arm).state == "done" for seed in (1, 2) for arm in study.arms)
    assert untimed(summarise(study, kept).to_dict()) == untimed(summarise(*made).to_dict())
    # With another set to measure on, an encoder is needed that is not there.
    missing = read_study(write_study(tmp_path / "published", STUDY.replace("[held_out]", "[held_out, other]")))
    assert standing(missing, kept, 1, "plain").reason == "to be measured on other, and its encoder is not here"


def test_a_run_that_diverges_is_a_row_and_not_the_end(write_study, make_runs, tmp_path):
    text = STUDY.replace(
        "plain: {stages: [{from_epoch: 2, views: 1, dropout: 0.2}]}", "plain: {optimizer: {lr: 1.0e+30, max_skips: 1}}"
    )
    study, place = read_study(write_study(tmp_path, text)), Place(tmp_path / "out")
    make_runs(study, place)
    summary = summarise(study, place)
    assert [row["state"] for row in summary.rows.values()] == ["diverged", "finished", "finished"] * 2
    assert "no finite loss or gradient" in summary.rows[1, "plain"]["reason"]
    assert summary.contrasts[0].effect.reason == "no seed has this measure in both arms"
    assert summary.to_dict()["finished"] == 4
    assert standing(study, place, 1, "plain").state == "done"


def test_an_encoder_that_cannot_be_measured_is_a_row_until_the_sets_change(
    copied, make_runs, write_study, monkeypatch, tmp_path
):
    _, place = copied
    text = STUDY.replace("[held_out]", "[held_out, orl]")
    study = read_study(write_study(tmp_path / "changed", text))

    def collapsed(*_):
        raise EvaluationError("all embeddings are the same")

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "score_encoder", collapsed)
        run_job(Job(study, place, 1, "plain"), Console(file=io.StringIO()))
    assert summarise(study, place).rows[1, "plain"]["reason"] == "all embeddings are the same"
    assert standing(study, place, 1, "plain").state == "done"
    before = read_study(write_study(tmp_path / "before"))
    assert standing(before, place, 1, "plain").state == "measure"
    make_runs(before, place, ["plain"])
    assert summarise(before, place).rows[1, "plain"]["state"] == "finished"


def test_where_the_shared_epochs_diverge_all_arms_of_the_seed_say_so(write_study, make_runs, tmp_path):
    study = read_study(write_study(tmp_path), ["--optimizer.lr", "1e30", "--optimizer.max_skips", "1"])
    place = Place(tmp_path / "out")
    make_runs(study, place)
    reasons = {row["reason"] for row in summarise(study, place).rows.values()}
    assert len(reasons) == 1
    assert reasons.pop().startswith("in the shared epochs: 1 steps in a row")


@pytest.mark.slow
def test_a_planted_effect_is_found(write_study, make_runs, tmp_path):
    """A rate after the branch that undoes what was learnt."""
    text = STUDY.replace("plain: {stages", "plain: {optimizer.lr: 5.0, stages").replace("[1, 2]", "[1, 2, 3, 4]")
    text = text.replace("[[twin, plain], [coreface, plain]]", "[[twin, plain]]")
    study, place = read_study(write_study(tmp_path, text), ["--optimizer.epochs", "8"]), Place(tmp_path / "out")
    make_runs(study, place, ["plain", "twin"])
    (contrast,) = summarise(study, place).contrasts[:1]
    assert contrast.effect.difference < 0
    assert contrast.holm < 0.05


def test_null_arms_take_other_ways_after_the_branch(write_study, make_runs, tmp_path):
    text = STUDY.replace("  twin: {", "  twin: {branch_seed: 3, ")
    study, place = read_study(write_study(tmp_path, text)), Place(tmp_path / "out")
    make_runs(study, place, ["plain", "twin"])
    rows = [[row["loss"] for row in read_metrics(place.run(1, arm)) if row["kind"] == "step"] for arm in study.arms]
    assert rows[0][:3] == rows[1][:3]
    assert rows[0][3:] != rows[1][3:]


def test_without_shared_epochs_every_arm_is_a_run_of_its_own(write_study, make_runs, tmp_path):
    text = STUDY.replace("shared_until: 1", "shared_until: 0").replace("twin: {", "twin: {model.embedding_size: 8, ")
    text = text.replace("from_epoch: 2", "from_epoch: 1").replace("[1, 2]", "[1]")
    study, place = read_study(write_study(tmp_path, text)), Place(tmp_path / "out")
    make_runs(study, place)
    assert not place.run(1, SHARED).exists()
    effect = summarise(study, place).contrasts[0].effect
    assert (effect.seeds, effect.p_value) == (1, None)


def test_seeds_begun_on_another_processor_are_left_to_it(copied, monkeypatch, capsys):
    study, place = copied
    place.row(1, "plain").unlink()
    assert processor_of_seed(study, place, 1) == processor()
    monkeypatch.setattr(results, "processor", lambda: "another model")
    screen = io.StringIO()
    summary = run_study(study, place.folder, console=Console(file=screen, width=400))
    assert "seed 1 is left to another machine" in screen.getvalue()
    assert (1, "plain") not in summary.rows
    with pytest.raises(RunError, match="seed 1 is left to another machine"):
        run_job(Job(study, place, 1, "plain"), Console(file=io.StringIO()))


def test_results_that_do_not_fit_each_other_are_refused(copied):
    study, place = copied
    path = place.row(2, "plain")
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "faces": {**row["faces"], "sha256": "0"}}))
    with pytest.raises(EvaluationError, match="seed 1, plain and seed 2, plain were trained on different faces"):
        summarise(study, place)
    path.write_text(json.dumps(row))
    place.scores(path).write_bytes(b"PK broken")
    with pytest.raises(EvaluationError, match=r"seed_2\.plain\.npz: no scores of a run"):
        summarise(study, place)
    place.scores(path).unlink()
    assert standing(study, place, 2, "plain").state == "measure"


def test_the_study_prints_80_columns_and_writes_numbers_and_a_page(copied, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    study, place = copied
    run_study(study, place.folder, console=Console(file=io.StringIO()))
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if str(place.folder) not in line]
    assert max(map(len, lines)) <= 80
    for text in ("they differ in", "stages.2.contrastive.weight", "coreface - plain", "eer on held_out (primary)"):
        assert text in printed
    assert "(exploratory)" in printed
    numbers = json.loads((place.folder / "study.json").read_text())
    assert (numbers["planned"], numbers["finished"]) == (6, 6)
    assert numbers["contrasts"][0]["effect"]["p_value"] == 1
    page = (place.folder / "study.html").read_text()
    assert page.count("<svg") > 5
    assert "coreface − plain" in page
    assert "seed 2, twin" in page


def test_a_step_of_every_arm_is_timed(made):
    study, _ = made
    times = time_steps(study, rounds=2)
    assert times.step.keys() == {SHARED, *study.arms}
    assert times.seconds(study, SHARED) == pytest.approx(1 * 3 * times.step[SHARED])
    assert times.seconds(study, "plain") == pytest.approx(2 * 3 * times.step["plain"] + times.measuring)


def test_a_dry_run_prints_the_plan_and_writes_nothing(write_study, tmp_path, capsys):
    study = read_study(write_study(tmp_path))
    run_study(study, tmp_path / "out", only=["coreface"], seeds=[2], dry_run=True, console=Console(file=io.StringIO()))
    printed = capsys.readouterr().out
    assert "2 runs to make on 1 thread each" in printed
    assert "measured in turn" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["other"]}, "--only other: the study has the arms plain, twin, coreface"),
        ({"seeds": [1, 9]}, "the study has the seeds 1, 2, not 9"),
        ({"jobs": 0}, "--jobs is 0"),
    ],
)
def test_what_the_study_has_not_is_refused(made, options, message):
    study, place = made
    with pytest.raises(RecipeError, match=message):
        run_study(study, place.folder, **options, console=Console(file=io.StringIO()))


def test_threads_are_those_of_the_first_start(write_study, tmp_path, monkeypatch):
    path = write_study(tmp_path)
    base = path.parent / "base.yaml"
    base.write_text(base.read_text().replace("threads: 1\n", ""))
    study = read_study(path)
    monkeypatch.setattr(study_module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert study_module._threads(study, Place(tmp_path / "out"), 2) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert study_module._threads(study, Place(tmp_path / "out"), 2) == 3
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "threads.json").write_text('{"threads": 7}')
    assert study_module._threads(study, Place(tmp_path / "out"), 1) == 7


def test_two_processes_do_not_make_one_run(made):
    study, place = made
    from coreface.studies.ownership import owned

    with owned(place.owner(1, "plain"), print), pytest.raises(RunError, match="being worked on"):
        run_job(Job(study, place, 1, "plain"), Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.yaml"], "missing.yaml: no such study"),
        (["coreface_ablation", "--seeds", "3-1"], "--seeds is '3-1'"),
        (["coreface_ablation", "--seeds", "1,x"], "--seeds is '1,x'"),
        (["coreface_ablation", "--only", "nobody"], "--only nobody"),
        (["coreface_ablation", "--optimizer.rate", "3"], "there is no field optimizer.rate"),
        (["coreface_ablation", "--data.train", "no/such/faces"], "no/such/faces"),
    ],
)
def test_bad_input_on_the_command_line_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dry = ["--dry-run"] if "--data.train" in words else []
    assert main(["study", *words, *dry]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_changed_fields_of_the_base_are_given_on_the_command_line(made, write_study, tmp_path, capsys):
    path = write_study(tmp_path)
    words = ["study", str(path), "--dir", str(tmp_path / "out"), "--dry-run", "--optimizer.epochs", "5", "--jobs", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "8 runs to make" in printed
    assert "with 2 at once" in printed
    assert dataclasses.replace(read_study(path, ["--optimizer.epochs", "5"]).base).optimizer.epochs == 5
