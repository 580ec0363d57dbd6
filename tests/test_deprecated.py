"""Modules of 0.1.0 that have moved give the same objects under their old names, and say where they are."""

import importlib
import subprocess
import sys

import pytest

from coreface._deprecated import MOVED

NAMES = {
    "coreface.losses.gradients": ["clip_gradients"],
    "coreface.models.sync_batchnorm": ["synchronise_batchnorm"],
    "coreface.scaling": ["Setting", "Trunk", "bytes_sent", "flops", "memory"],
}


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_has_the_objects_of_the_new_one(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}"):
        module = importlib.import_module(old)
    for name in NAMES[old]:
        assert getattr(module, name) is getattr(importlib.import_module(MOVED[old]), name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def test_the_warning_names_the_line_that_imports():
    program = "import warnings\nwarnings.simplefilter('always')\nfrom coreface.scaling import Trunk\nprint(Trunk())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "<string>:3: DeprecationWarning" in done.stderr
    assert done.stdout.startswith("Trunk(")


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("coreface.nothing")
