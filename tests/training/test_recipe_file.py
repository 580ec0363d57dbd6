"""Recipes as files and as overrides: what is read, and what is refused in one line."""

import dataclasses
import sys

import pytest
import yaml

from coreface.errors import RecipeError
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import AugmentRecipe, DataRecipe, EvaluationRecipe
from coreface.training.recipe_sections import (
    CheckpointRecipe,
    ClassifierRecipe,
    ContrastiveRecipe,
    MarginRecipe,
    ModelRecipe,
    OptimizerRecipe,
    StageRecipe,
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a recipe file; the working directory is the empty folder it lies in."""
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def refusal(write):
    """Return a function that loads a recipe that must be refused, and gives back the one line that says why."""

    def refusal(content: str | bytes, *overrides: str) -> str:
        with pytest.raises(RecipeError) as raised:
            Recipe.load(write(content), list(overrides))
        message = str(raised.value)
        assert message
        assert "\n" not in message
        assert "usage:" not in message
        return message

    return refusal


AUGMENT = AugmentRecipe([0.5, 1.5], 15.0, 0.25, 0.1, 0.2, 0.3, 0.4)
UNUSUAL = Recipe(
    model=ModelRecipe("mobilefacenet", 64, "joint", True, True),
    classifier=ClassifierRecipe(MarginRecipe("cosface", 30.5, 0.25), 0.25, 3),
    data=DataRecipe("Gesichter/ä: [x] 'y' #z", "txt", 2, 32, 0, False, AUGMENT, 0.125, None, 3, 0.25, "arcface"),
    stages=[
        StageRecipe(1, 3, 0.0),
        StageRecipe(2, 2, 0.25, ContrastiveRecipe(0.5, 20.0, -0.1, 0.5, "zero", "half", True)),
        StageRecipe(5, 2, 0.5, ContrastiveRecipe(protocol="all")),
    ],
    optimizer=OptimizerRecipe("adamw", 1e-7, 0.0, 0.0, 4, 9, "polynomial", [], 0.5, 0.25, None, "backbone", 2, 3),
    evaluation=EvaluationRecipe("others: 1", "json:id", 1, 3, 7, ["a: b.bin"], "held_out"),
    checkpoint=CheckpointRecipe(0.5, 3, 1, False),
    init_from="weights: 1",
    seed=2**40,
    precision="bf16",
    matmul="tf32",
    compile=True,
    device="cpu",
    threads=3,
    log_every=7,
)


@pytest.mark.parametrize("recipe", [Recipe(), UNUSUAL, Recipe(optimizer=OptimizerRecipe(lr_drops=[3, 5]))])
def test_what_is_saved_is_what_is_loaded(recipe, tmp_path):
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_every_field_of_the_unusual_recipe_differs_from_its_default():
    """Or else the round trip above would not notice a field that is dropped."""
    plain, unusual = Recipe().to_dict(), UNUSUAL.to_dict()
    for section in plain:
        if isinstance(plain[section], dict):
            same = [key for key in plain[section] if plain[section][key] == unusual[section][key]]
            assert same == (["lr_drops"] if section == "optimizer" else [])
        else:
            assert plain[section] != unusual[section]


def test_a_saved_recipe_is_plain_yaml_with_every_field(tmp_path):
    Recipe().save(tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text()
    assert yaml.safe_load(text) == Recipe().to_dict()
    assert "!" not in text
    assert "class_path" not in text


def test_an_empty_mapping_is_all_defaults(write):
    assert Recipe.load(write("{}")) == Recipe()


def test_fields_keep_their_defaults_beside_given_ones(write):
    recipe = Recipe.load(write("optimizer: {lr: 1e-3, lr_drops: [3, 7]}\nstages:\n  - {dropout: 0.1}"))
    assert recipe.optimizer == OptimizerRecipe(lr=1e-3, lr_drops=[3, 7])
    assert recipe.stages == [StageRecipe(dropout=0.1)]
    assert isinstance(recipe.stages[0], StageRecipe)
    assert recipe.model == ModelRecipe()


def test_an_empty_contrastive_section_is_the_term_with_its_defaults(write):
    recipe = Recipe.load(write("stages: [{views: 2, contrastive: {}}]"))
    assert recipe.stages[0].contrastive == ContrastiveRecipe()


def test_null_where_a_field_may_be_null(write):
    recipe = Recipe.load(
        write(
            "optimizer: {clip_norm: null}\ndata: {holdout_seed: null}\nevaluation: {faces: null}\n"
            "classifier: {margin: {margin: null}}\nstages: [{contrastive: null}]"
        )
    )
    assert recipe.optimizer.clip_norm is None
    assert recipe.data.holdout_seed is None
    assert recipe.stages == [StageRecipe()]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("data: null", "data"),
        ("model:", "model"),
        ("classifier: {margin: null}", "classifier.margin"),
        ("stages: null", "stages"),
        ("stages: [{dropout: null}]", "stages.dropout"),
        ("stages: [{views: 2, contrastive: {ema: null}}]", "stages.contrastive.ema"),
        ("seed: null", "seed"),
        ("log_every:", "log_every"),
        ("optimizer: {lr: null}", "optimizer.lr"),
        ("optimizer: {lr_drops: null}", "optimizer.lr_drops"),
        ("data: {train: null}", "data.train"),
    ],
)
def test_null_where_a_value_is_needed(refusal, content, field):
    assert f"{field} is null" in refusal(content)


@pytest.mark.parametrize("field", ["seed", "optimizer.lr", "optimizer.lr_drops", "data.image_size", "stages"])
def test_null_on_the_command_line_where_a_value_is_needed(refusal, field):
    assert f"{field} is null" in refusal("{}", f"--{field}", "null")


# Overrides


@pytest.mark.parametrize("style", ["two words", "one word"])
def test_overrides(write, style):
    wanted = {
        "model.backbone": "mobilefacenet",
        "classifier.margin.margin": "0.3",
        "optimizer.lr": "1e-2",
        "optimizer.lr_drops": "[3, 5]",
        "optimizer.clip_norm": "null",
        "data.train": "a folder/with = and #",
        "data.holdout": "0.25",
        "data.flip": "false",
        "data.augment.scale": "[0.9, 1.1]",
        "data.augment.erase": "0.25",
        "evaluation.every": "3",
        "seed": "7",
    }
    overrides = [f"--{name}={value}" for name, value in wanted.items()]
    if style == "two words":
        overrides = [word for name, value in wanted.items() for word in (f"--{name}", value)]
    recipe = Recipe.load(write("{seed: 3, optimizer: {lr: 5, batch_size: 9}}"), overrides)
    assert recipe == Recipe(
        model=ModelRecipe("mobilefacenet"),
        classifier=ClassifierRecipe(MarginRecipe(margin=0.3)),
        data=DataRecipe(
            "a folder/with = and #", holdout=0.25, flip=False, augment=AugmentRecipe([0.9, 1.1], erase=0.25)
        ),
        optimizer=OptimizerRecipe(lr=0.01, lr_drops=[3, 5], clip_norm=None, batch_size=9),
        evaluation=EvaluationRecipe(every=3),
        seed=7,
    )


def test_the_last_of_two_overrides_holds(write):
    assert Recipe.load(write("{}"), ["--seed", "3", "--seed", "4"]).seed == 4


@pytest.mark.parametrize("words", [["--stages", "{}"], ["--stages={}"]])
def test_all_stages_at_once(write, words):
    value = "[{from_epoch: 1, dropout: 0.1}, {from_epoch: 4, views: 2, contrastive: {weight: 0.2}}]"
    recipe = Recipe.load(write("{}"), [word.replace("{}", value) for word in words])
    assert recipe.stages == [StageRecipe(1, 1, 0.1), StageRecipe(4, 2, 0.4, ContrastiveRecipe(0.2))]


def test_overridden_stages_take_nothing_from_those_of_the_file(write):
    """Or the twin of a recipe, its term left out, would quietly keep the term."""
    path = write(
        "stages: [{dropout: 0.1}, {from_epoch: 3, dropout: 0.2, views: 2, contrastive: {weight: 0.7, ema: 0.1}}]"
    )
    bare = Recipe.load(path, ["--stages", "[{from_epoch: 1}, {from_epoch: 2, views: 2}]"])
    assert bare.stages == [StageRecipe(), StageRecipe(from_epoch=2, views=2)]
    with_term = Recipe.load(path, ["--stages=[{}, {from_epoch: 2, views: 2, contrastive: {ema: 0.5}}]"])
    assert with_term.stages[1] == StageRecipe(2, 2, 0.4, ContrastiveRecipe(ema=0.5))
    assert len(Recipe.load(path, ["--stages", "[{}]"]).stages) == 1


@pytest.mark.parametrize("name", ["stages.dropout", "stages.0.dropout", "stages.contrastive.weight"])
def test_an_override_of_one_stage_is_refused(refusal, name):
    message = refusal("stages: [{dropout: 0.1}, {from_epoch: 3}]", f"--{name}", "0.5")
    assert f"--{name}" in message
    assert "name a stage" in message


@pytest.mark.parametrize("section", ["optimizer", "classifier", "classifier.margin", "data", "model", "evaluation"])
@pytest.mark.parametrize("value", ["section.yaml", "{}", "{lr: 3}"])
def test_a_section_as_an_override_is_refused(refusal, tmp_path, section, value):
    (tmp_path / "section.yaml").write_text("{lr: 3}")
    message = refusal("{}", f"--{section}", value)
    assert f"--{section} is a section" in message


@pytest.mark.parametrize(("name", "value"), [("evaluation.pairs", "lfw.bin"), ("optimizer.lr_drops", "4")])
def test_one_value_for_a_list_is_answered_with_the_list(refusal, name, value):
    assert f"--{name} is '{value}', expected a list: --{name} '[{value}]'" in refusal("{}", f"--{name}", value)


@pytest.mark.parametrize(
    "words",
    [
        ["--seed"],
        ["--seed", "--log_every", "3"],
        ["stray"],
        ["--seed", "1", "2"],
        ["-h"],
        ["--"],
        ["--=3"],
        ["-seed", "3"],
    ],
)
def test_words_that_are_no_field_with_a_value(refusal, words, capsys):
    refusal("{}", *words)
    assert capsys.readouterr().out == ""


def test_negative_values_reach_their_field(refusal, write):
    assert "optimizer.lr is -1" in refusal("{}", "--optimizer.lr", "-1")
    stages = "[{views: 2, contrastive: {margin: -0.25}}]"
    assert Recipe.load(write("{}"), ["--stages", stages]).stages[0].contrastive.margin == -0.25


@pytest.mark.parametrize(
    ("content", "words", "place"),
    [
        ("optimizer: {lr: -1}", [], "recipe.yaml"),
        ("optimizer: {lr: -1}", ["--seed", "2"], "recipe.yaml"),  # what was given is good
        ("optimizer: {lr: -1}", ["--optimizer.lr", "-2"], "command line"),
        ("data: {holdout_seed: -1}", ["--seed=2"], "recipe.yaml"),  # the name of one field ends in that of another
        ("{optimizer: {lr: -1}, seed: -1}", ["--optimizer.lr", "1"], "recipe.yaml"),  # the second error of the file
        ("{}", ["--optimizer.lr", "-1"], "command line"),
        ("{}", ["--optimizer.epochs", "many"], "command line"),
        ("classifier: {margin: {margin: 0.5}}", ["--classifier.margin.name", "magface"], "command line"),  # good alone
        ("{}", ["--stages", "[{from_epoch: 2}]"], "command line"),
        ("{}", ["--optimizer.batch", "3"], "command line"),
    ],
)
def test_the_place_of_a_bad_value(refusal, tmp_path, content, words, place):
    place = str(tmp_path / place) if place == "recipe.yaml" else place
    assert refusal(content, *words).startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", "[0.9]"),
        ("scale", "[1.1, 0.9]"),
        ("scale", "[0, 1]"),
        ("rotate", "200"),
        ("shift", "1"),
        ("crop", "1.5"),
        ("photometric", "-0.1"),
        ("low_resolution", ".nan"),
        ("erase", "2"),
    ],
)
def test_augmentation_out_of_range(refusal, field, value):
    message = refusal(f"data: {{augment: {{{field}: {value}}}}}")
    assert f"data.augment.{field} is " in message
    assert "expected" in message


# Misspelt fields

MISSPELT = [
    ("optimzer: {}", "optimzer", "optimizer"),
    ("optimizer: {learning_rat: 1, lrr: 1}", "optimizer.learning_rat", ""),
    ("optimizer: {batchsize: 1}", "optimizer.batchsize", "batch_size"),
    ("classifier: {margin: {scal: 1}}", "classifier.margin.scal", "scale"),
    ("stages: [{}, {dropuot: 0.1}]", "stages.dropuot", "dropout"),
    ("stages: [{views: 2, contrastive: {protocoll: all}}]", "stages.contrastive.protocoll", "protocol"),
    ("data: {trian: x}", "data.trian", "train"),
    ("sed: 1", "sed", "seed"),
    ("1: 2", "1", ""),
]


@pytest.mark.parametrize(("content", "field", "near"), MISSPELT)
def test_a_misspelt_field_names_the_nearest(refusal, content, field, near):
    message = refusal(content)
    assert "recipe.yaml" in message
    assert f"no field {field};" in message
    assert (f"did you mean {near}?" if near else "expected one of") in message


@pytest.mark.parametrize(
    ("name", "near"),
    [("optimzer.lr", "optimizer.lr"), ("optimizer.lrr", "optimizer.lr"), ("sed", "seed"), ("qqq", "")],
)
def test_a_misspelt_override_names_the_nearest(refusal, name, near):
    for words in ([f"--{name}", "1"], [f"--{name}=1"]):
        message = refusal("{}", *words)
        assert f"no field {name};" in message
        assert (f"did you mean {near}?" if near else "expected one of") in message


def test_a_misspelt_field_inside_overridden_stages_names_the_nearest(refusal):
    assert "did you mean dropout?" in refusal("{}", "--stages", "[{dropou: 0.1}]")
    assert "did you mean weight?" in refusal("{}", "--stages=[{views: 2, contrastive: {weigth: 0.1}}]")


def test_an_abbreviation_is_a_misspelling(refusal):
    assert "did you mean optimizer.batch_size?" in refusal("{}", "--optimizer.batch", "3")


# Nothing is imported or executed


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Plant a module that leaves a file when it is imported; the file must not appear."""
    sprung = tmp_path / "sprung"
    (tmp_path / "trapmodule.py").write_text(
        f"open({str(sprung)!r}, 'w').close()\nfrom coreface.training.recipe import *\nclass Trap(StageRecipe): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("trapmodule", None)
    assert not sprung.exists(), "reading a recipe imported a module that the recipe named"


IMPORTS = [
    "class_path: trapmodule.Trap",
    "init_args: {}",
    "model: {class_path: trapmodule.Trap}",
    "model: {class_path: trapmodule.Trap, init_args: {backbone: iresnet18}}",
    "classifier: {margin: {class_path: trapmodule.Trap}}",
    "stages: [{class_path: trapmodule.Trap}]",
    "stages: [{from_epoch: 1}, {class_path: trapmodule.Trap, init_args: {from_epoch: 2}}]",
    "stages: [{views: 2, contrastive: {class_path: trapmodule.Trap}}]",
    "stages: [trapmodule.Trap]",
    "stages: trapmodule.Trap",
    "stages: [{views: 2, contrastive: trapmodule.Trap}]",
    "optimizer: trapmodule.Trap",
    "classifier: {margin: trapmodule.Trap}",
    '"class\\x5fpath": trapmodule.Trap',
    "model: {backbone: {class_path: trapmodule.Trap}}",
    "data: {holdout: {class_path: trapmodule.Trap}}",
    "a: &a {class_path: trapmodule.Trap}\nmodel: *a",
    "model: {<<: {class_path: trapmodule.Trap}}",
]


@pytest.mark.parametrize("content", IMPORTS)
def test_a_recipe_that_names_a_class_is_refused_unread(refusal, trap, content):
    refusal(content)


def test_class_path_is_refused_by_its_name(refusal, trap):
    message = refusal("model: {class_path: trapmodule.Trap}")
    assert "model.class_path names a class to import" in message


@pytest.mark.parametrize(
    "words",
    [
        ["--class_path", "trapmodule.Trap"],
        ["--model.class_path", "trapmodule.Trap"],
        ["--model.init_args.backbone", "iresnet18"],
        ["--model", "trapmodule.Trap"],
        ["--model.backbone", "{class_path: trapmodule.Trap}"],
        ["--stages", "trapmodule.Trap"],
        ["--stages", "[trapmodule.Trap]"],
        ["--stages=[trapmodule.Trap]"],
        ["--stages", "[{class_path: trapmodule.Trap}]"],
        ["--stages", '[{"class\\x5fpath": trapmodule.Trap}]'],
        ["--stages", "[{views: 2, contrastive: trapmodule.Trap}]"],
        ["--stages", '[{views: 2, contrastive: {"class\\u005fpath": trapmodule.Trap}}]'],
        ["--stages", "!!python/name:trapmodule.Trap ''"],
        ["--stages+", "trapmodule.Trap"],
        ["--stages+=[trapmodule.Trap]"],
        ["--config", "other.yaml"],
        ["--config=other.yaml"],
    ],
)
def test_an_override_that_names_a_class_is_refused(write, tmp_path, trap, words):
    (tmp_path / "other.yaml").write_text("stages: [{class_path: trapmodule.Trap}]")
    # --model.backbone is text, so text that looks like a class stays text: the trap is what counts there.
    if words[0] == "--model.backbone":
        Recipe.load(write("{}"), words)
        return
    with pytest.raises(RecipeError) as raised:
        Recipe.load(write("{}"), words)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        "model: !!python/object/apply:trapmodule.Trap []",
        "model: !!python/object:trapmodule.Trap {}",
        "model: !!python/name:trapmodule.Trap ''",
        "model: !!python/module:trapmodule ''",
        "data: {train: !!python/object/apply:os.system ['touch sprung']}",
        "seed: !!python/object/apply:os.system ['touch sprung']",
    ],
)
def test_yaml_tags_are_refused(refusal, trap, content):
    assert "not YAML" in refusal(content)


# Files that are no recipe


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "NoneType"),
        ("# only a comment", "NoneType"),
        ("[]", "list"),
        ("just text", "str"),
        ("3", "int"),
        ("model: iresnet50", "model is a str"),
        ("model: [iresnet50]", "model is a list"),
        ("stages: {from_epoch: 1}", "stages"),
        ("stages: [1]", "stages is a int"),
        ("stages: [[]]", "stages is a list"),
        ("stages: [null]", "stages"),
        ("seed: [", "not YAML"),
        ("a: b: c", "not YAML"),
        ("seed: 1\n---\nseed: 2", "not YAML"),
        ("? [a]\n: 2", "not YAML"),
        ("seed: *nowhere", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("{model: " * 5000, "not YAML"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "cannot be read"),
        (b"seed: 1\x00", "not YAML"),
        ("seed: 1.5", "seed"),
        ("seed: true", "seed"),
        ("compile: 1", "compile"),
        ("device: 5", "device"),
        ("data: {image_size: 112.0}", "data.image_size"),
        ("data: {train: 5}", "data.train"),
        ("precision: bf1", "precision"),
        ("optimizer: {name: sgdd}", "optimizer.name"),
        ("optimizer: {lr_drops: 5}", "optimizer.lr_drops"),
        ("optimizer: {lr_drops: [2.5]}", "optimizer.lr_drops"),
        ("stages: [{views: 2, contrastive: {margin: adaptiv}}]", "adaptiv"),
        ("stages: [{views: 2, contrastive: {mask: none}}]", "none"),
        ("optimizer: {lr: .inf}", "optimizer.lr is inf"),
        ("log_every: 0", "log_every is 0"),
        ("stages: [{from_epoch: 2}]", "from_epoch 1"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_name(refusal, content, said):
    message = refusal(content)
    assert said in message
    assert "recipe.yaml" in message


@pytest.mark.parametrize("path", ["missing.yaml", ".", "a\0b"])
def test_a_path_that_is_no_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as raised:
        Recipe.load(path)
    assert "\n" not in str(raised.value)
    if path == "missing.yaml":
        assert "no such recipe" in str(raised.value)


def test_the_environment_cannot_change_a_recipe(write, monkeypatch):
    monkeypatch.setenv("COREFACE_SEED", "77")
    monkeypatch.setenv("COREFACE_TRAIN_SEED", "77")
    assert Recipe.load(write("{}")).seed == 1


def test_recipe_equality_tells_recipes_apart():
    """The round trips above rely on it."""
    assert dataclasses.replace(Recipe(), seed=2) != Recipe()
