"""Options of a margin in a recipe: read, checked, saved, given on the command line."""

from typing import Literal

import pytest
import yaml

import coreface as cf
from coreface.errors import RecipeError
from coreface.training.margin_options import build_margin
from coreface.training.recipe_sections import MarginRecipe


@cf.register_margin("of_a_test", "a margin with an option of every kind")
class OfATest(cf.Margin):
    def __init__(
        self,
        scale: float,
        needed: int,
        share: float = 0.5,
        pair: tuple[float, float] = (0.0, 1.0),
        many: list[int] | None = None,
        mode: Literal["a", "b"] = "a",
        flag: bool = False,
        anything=None,
    ):
        super().__init__(scale)
        self.given = (needed, share, pair, many, mode, flag, anything)


@pytest.fixture
def load(tmp_path):
    def load(margin, *overrides):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"classifier: {{margin: {margin}}}")
        return cf.Recipe.load(path, list(overrides))

    return load


def test_options_reach_the_constructor_in_the_types_it_asks_for(load):
    margin = "{name: of_a_test, scale: 30, needed: 3, share: 1e-3, pair: [1, 2], many: [4, 5], mode: b, flag: true}"
    recipe = load(margin)
    built = build_margin(recipe.classifier.margin)
    assert built.scale == 30.0
    assert built.given == (3, 0.001, (1.0, 2.0), [4, 5], "b", True, None)
    assert [type(value) for value in built.given[:3]] == [int, float, tuple]
    assert build_margin(load("{name: of_a_test, needed: 3, anything: [x, {y: 1}]}").classifier.margin).given[-1] == [
        "x",
        {"y": 1},
    ]


def test_a_scale_that_is_left_out_is_the_published_one(load):
    assert build_margin(load("{name: sphereface_r}").classifier.margin).scale == 30.0
    assert build_margin(load("{name: arcface}").classifier.margin).scale == 64.0
    assert build_margin(load("{name: of_a_test, needed: 3}").classifier.margin).scale == 64.0
    assert build_margin(load("{name: sphereface}").classifier.margin).by_length
    built = build_margin(load("{name: sphereface, scale: 32, margin: 3, annealing: [1000, 5, 0.12]}").classifier.margin)
    assert (built.by_length, built.scale, built.margin, built.annealing) == (False, 32.0, 3, (1000.0, 5.0, 0.12))


def test_elasticface_by_its_options(load):
    built = build_margin(load("{name: elasticface, kind: cos, plus: true}").classifier.margin)
    assert (built.kind, built.plus, built.margin, built.deviation) == ("cos", True, 0.35, 0.025)


def test_magface_by_its_options(load):
    built = build_margin(load("{name: magface, lengths: [5, 50], regularisation: 20}").classifier.margin)
    assert (built.lengths, built.regularisation, built.margins) == ((5.0, 50.0), 20.0, (0.45, 0.8))


def test_options_are_saved_flat_and_read_again(load, tmp_path):
    recipe = load("{name: magface, lengths: [5, 50]}")
    recipe.save(tmp_path / "saved.yaml")
    margin = yaml.safe_load((tmp_path / "saved.yaml").read_text())["classifier"]["margin"]
    assert margin == {"name": "magface", "scale": None, "margin": None, "lengths": [5, 50]}
    assert cf.Recipe.load(tmp_path / "saved.yaml") == recipe


def test_the_command_line_sets_and_overrides_options(load):
    for words in (["--classifier.margin.lengths", "[6, 60]"], ["--classifier.margin.lengths=[6, 60]"]):
        recipe = load("{name: magface, lengths: [5, 50]}", *words)
        assert recipe.classifier.margin.options == {"lengths": [6, 60]}
    recipe = load("{}", "--classifier.margin.name", "curricularface", "--classifier.margin.ema", "0.1")
    assert build_margin(recipe.classifier.margin).ema == 0.1


def test_other_sections_of_a_recipe_with_options_are_read_as_ever(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "classifier: {margin: {name: adaface, ema: 1e-2}, sample_rate: 0.5}\n"
        "optimizer: {lr: 1e-3, lr_drops: [3]}\nstages: [{views: 2, contrastive: {}}]\ndata: {train: '123'}\n"
    )
    recipe = cf.Recipe.load(path)
    assert (recipe.optimizer.lr, recipe.optimizer.lr_drops, recipe.data.train) == (0.001, [3], "123")
    assert recipe.classifier.sample_rate == 0.5
    assert recipe.stages[0].contrastive is not None
    assert build_margin(recipe.classifier.margin).ema == 0.01


@pytest.mark.parametrize(
    ("margin", "said"),
    [
        ("{name: magface, lenghts: [5, 50]}", "no field classifier.margin.lenghts; did you mean lengths?"),
        ("{name: arcface, qqq: 1}", "no field classifier.margin.qqq; arcface has scale, margin, gradient"),
        ("{name: arcface, options: {gradient: exact}}", "no field classifier.margin.options;"),
        ("{1: 2}", "no field classifier.margin.1;"),
        ("{name: magface, lengths: [5]}", "classifier.margin.lengths is [5], expected tuple[float, float]"),
        ("{name: magface, lengths: 5}", "classifier.margin.lengths is 5, expected tuple[float, float]"),
        ("{name: magface, lengths: null}", "classifier.margin.lengths is None"),
        ("{name: magface, regularisation: much}", "classifier.margin.regularisation is 'much', expected float"),
        ("{name: magface, regularisation: true}", "classifier.margin.regularisation is True, expected float"),
        ("{name: magface, lengths: [50, 5]}", "classifier.margin: lengths are (50.0, 5.0), expected two lengths"),
        ("{name: arcface, gradient: exakt}", "classifier.margin.gradient is 'exakt', expected Literal['exact'"),
        ("{name: of_a_test}", "classifier.margin.needed is missing"),
        ("{name: of_a_test, needed: 1.5}", "classifier.margin.needed is 1.5, expected int"),
        ("{name: of_a_test, needed: 1, flag: 1}", "classifier.margin.flag is 1, expected bool"),
        ("{name: of_a_test, needed: 1, many: [x]}", "classifier.margin.many is ['x'], expected list[int] | None"),
        ("{name: arcfcae}", "classifier.margin.name: there is no margin 'arcfcae': did you mean 'arcface'?"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(load, margin, said):
    with pytest.raises(RecipeError) as raised:
        load(margin)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "recipe.yaml" in str(raised.value)


@pytest.mark.parametrize("value", ["[5", "x: y: z"])
def test_an_override_that_is_no_yaml(load, value):
    with pytest.raises(RecipeError, match="not YAML"):
        load("{name: magface}", "--classifier.margin.lengths", value)


def test_a_recipe_made_in_python_is_checked_when_its_margin_is_built():
    assert build_margin(MarginRecipe("magface", options={"lengths": (5, 50)})).lengths == (5.0, 50.0)
    with pytest.raises(RecipeError, match=r"no field classifier\.margin\.length;"):
        build_margin(MarginRecipe("magface", options={"length": (5, 50)}))
    with pytest.raises(RecipeError, match=r"margin is 4\.0, expected an angle"):
        build_margin(MarginRecipe("arcface", margin=4.0))
