"""Study files: what they say, and what is refused before anything trains."""

import dataclasses
from pathlib import Path

import pytest

from coreface.errors import RecipeError
from coreface.studies.plan import changes
from coreface.studies.results import Place, standing
from coreface.studies.study_file import read_study
from coreface.training.recipe_sections import ContrastiveRecipe, StageRecipe
from support.study_text import STUDY

PLAIN = "  plain: {stages: [{from_epoch: 2, views: 1, dropout: 0.2}]}"


@pytest.fixture
def read(write_study, tmp_path):
    """Return a function (old, new) that reads the study with a piece of its text replaced."""

    def read(old="", new="", more=""):
        assert old in STUDY
        return read_study(write_study(tmp_path, STUDY.replace(old, new) if old else STUDY, more=more))

    return read


def test_arms_are_the_base_with_fields_changed_after_the_branch(read):
    study = read()
    assert list(study.arms) == ["plain", "twin", "coreface"]
    first, second = study.arms["coreface"].recipe.stages
    assert first == study.base.stages[0]
    assert second == StageRecipe(2, 2, 0.2, ContrastiveRecipe(weight=0.5))
    assert dataclasses.replace(study.arms["coreface"].recipe, stages=study.base.stages) == study.base
    assert study.primary == ("held_out", "eer")
    assert study.arms["plain"].of_seed(2).seed == study.shared_recipe(2).seed == 2


def test_fields_have_sections_or_dots_and_lists_are_replaced(read):
    study = read(PLAIN, "  plain: {optimizer.lr: 0.002, classifier: {margin: {margin: 0.2}}}")
    recipe = study.arms["plain"].recipe
    assert (recipe.optimizer.lr, recipe.classifier.margin.margin, recipe.optimizer.epochs) == (0.002, 0.2, 3)
    assert recipe.stages == study.base.stages


def test_stages_may_be_given_whole(read):
    whole = "plain: {stages: [{from_epoch: 1, dropout: 0.1}, {from_epoch: 2, views: 1, dropout: 0.2}]}"
    assert read("plain: {stages: [{from_epoch: 2, views: 1, dropout: 0.2}]}", whole) == read()


def test_a_table_shows_the_fields_that_differ_and_no_other(read):
    rows = dict(read(PLAIN, "  plain: {branch_seed: 4, optimizer.lr: 0.01}").differences())
    assert rows["branch_seed"] == ["4", "-", "-"]
    assert rows["optimizer.lr"] == ["0.01", "0.02", "0.02"]
    assert rows["stages.2.contrastive.weight"] == ["-", "-", "0.5"]
    assert not any(name.startswith(("data.", "model.")) for name in rows)


def test_a_branch_seed_draws_another_seed_the_same_one_every_time(read):
    arm = read(PLAIN, "  plain: {branch_seed: 4}").arms["plain"]
    seeds = {arm.of_seed(seed).seed for seed in (1, 2)} | {
        dataclasses.replace(arm, branch_seed=5).of_seed(1).seed,
        1,
        2,
    }
    assert len(seeds) == 5
    assert arm.of_seed(1) == arm.of_seed(1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (PLAIN, "  plain: {stages: [{from_epoch: 1, dropout: 0.3}]}", r"arm plain: its stages say .* of epoch 1"),
        (PLAIN, "  plain: {model.embedding_size: 8}", "model.embedding_size is 8, and 16 in the 1 shared epochs"),
        (PLAIN, "  plain: {optimizer: {batch_size: 6}}", "optimizer.batch_size is 6"),
        (PLAIN, "  plain: {seed: 3}", "use branch_seed"),
        (PLAIN, "  plain: {classifier.subcentres: 2}", "classifier.subcentres is 2"),
        (PLAIN, "  plain: {optimizer.epochs: 1}", "it has 1 epochs, all of them shared"),
        (PLAIN, "  plain: {optimizer.rate: 1}", "there is no field optimizer.rate"),
        (PLAIN, "  plain: {optimizer.lr: -1}", "arm plain: .*lr"),
        (PLAIN, "  plain: {class_path: os.system}", "names a class"),
        (PLAIN, "  plain: 3", "expected fields"),
        (PLAIN, "  plain: {branch_seed: -1}", "branch_seed is -1"),
        ("  plain: {", "  shared: {", "expected a name"),
        ("  plain: {", "  a/b: {", "expected a name"),
        ("[twin, plain]", "[twin, twin]", "expected pairs"),
        ("[twin, plain]", "[twin, other]", "expected pairs"),
        ("[twin, plain]", "[coreface, plain]", "twice"),
        ("shared_until: 1", "shared_until: 3", "shared_until is 3"),
        ("shared_until: 1", "shared_until: true", "shared_until is True"),
        ("measure: eer}", "measure: accuracy}", "expected one of eer, tar_at_far_0.1"),
        ("measure: eer}", "measure: tar_at_far_0.2}", "expected one of eer, tar_at_far_0.1"),
        ("primary: {faces: held_out", "primary: {faces: others", "expected one of the measured sets"),
        ("fars: [0.1]", "fars: [1.5]", "measure.fars has 1.5"),
        ("replicates: 100", "replicates: 5", "measure.replicates is 5"),
        ("faces: [held_out], fars", "faces: [], fars", "no set"),
        ("faces: [held_out], fars", "people: [held_out], fars", "measure.people is unknown"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "different whole numbers"),
        ("seeds: [1, 2]", "sedes: [1, 2]", "there is no field sedes"),
        ("base: base.yaml", "base: other.yaml", "no such recipe"),
        ("base: base.yaml", "base: 3", "path of a recipe"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(read, old, new, message):
    with pytest.raises(RecipeError, match=message):
        read(old, new)


def test_without_shared_epochs_arms_may_differ_in_everything(read):
    text = "  plain: {model.embedding_size: 8, stages: [{from_epoch: 1, dropout: 0.3}]}"
    arms = STUDY[STUDY.index("shared_until") : STUDY.index("contrasts")]
    study = read(arms, f"shared_until: 0\narms:\n{text}\n  twin: {{}}\n  coreface: {{}}\n")
    assert study.arms["plain"].recipe.model.embedding_size == 8
    assert study.run_facts("plain", 1)["shared"] is None


def test_files_that_are_no_studies_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="no such study"):
        read_study(tmp_path / "missing.yaml")
    for text in ("[1]", "a: [", "base: x\nbase: {"):
        (tmp_path / "study.yaml").write_text(text)
        with pytest.raises(RecipeError, match=r"study\.yaml"):
            read_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("name", ["coreface_ablation", "coreface_pilot", "protocols_and_masks", "orl_small"])
def test_studies_that_come_with_the_package_are_found_by_name_and_read(name):
    study = read_study(name)
    assert study.name == name
    assert study.contrasts
    assert study.differences()


def test_each_contrast_of_the_ablation_changes_one_thing():
    study = read_study("coreface_ablation")
    expected = [{"stages.2.dropout"}, {"stages.2.views"}, {"stages.2.contrastive"}]
    for (first, second), fields in zip(study.contrasts, expected, strict=True):
        different = changes(study.run_facts(first, 1), study.run_facts(second, 1))
        names = {text.split(" was ")[0] for text in different}
        assert {".".join(name.split(".")[:3]) for name in names} == fields


def test_a_changed_field_makes_another_run_and_free_ones_do_not(read):
    study = read()
    facts = study.run_facts("plain", 1)
    assert changes(facts, study.run_facts("plain", 1)) == []
    free = dataclasses.replace(study, base=dataclasses.replace(study.base, log_every=9))
    assert changes(facts, free.run_facts("plain", 1)) == []
    faster = read(PLAIN, "  plain: {optimizer.lr: 0.01}")
    assert "optimizer.lr was 0.02, is 0.01" in changes(facts, faster.run_facts("plain", 1))


def test_a_field_that_a_later_version_adds_is_as_its_default(read):
    now = read().run_facts("coreface", 1)
    before = {name: value for name, value in now.items() if name != "compile"}
    before["stages"] = [
        {name: value for name, value in stage.items() if name != "dropout"} if number == 1 else stage
        for number, stage in enumerate(now["stages"])
    ]
    assert changes(before, now) == ["stages.2.dropout was not there, is 0.2"]
    assert changes(before, {**now, "compile": True})[0] == "compile was not there, is True"


def test_published_results_count_as_finished_for_the_studies_that_come_with_the_package(tmp_path):
    studies = Path(__file__).parents[2] / "studies"
    published = [folder for folder in (studies / "results").iterdir() if folder.is_dir()]
    assert published
    for folder in published:
        study = read_study(studies / f"{folder.name}.yaml")
        place = Place(tmp_path, folder)
        rows = {path.stem for path in folder.glob("*.json")}
        done = {
            f"seed_{seed}.{arm}"
            for seed in study.seeds
            for arm in study.arms
            if standing(study, place, seed, arm).state == "done"
        }
        assert done == rows
