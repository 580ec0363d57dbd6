"""Modules of 0.1.0 that have moved: the old names work for one more version, with a DeprecationWarning."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: where a module was -> where what it held is now
MOVED = {
    "coreface.losses.gradients": "coreface.distributed.gradient_norm",
    "coreface.models.sync_batchnorm": "coreface.distributed.sync_batchnorm",
    "coreface.scaling": "coreface.training.step_cost",
}


class _MovedModules(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        place = MOVED[module.__name__]
        warnings.warn(
            f"{module.__name__} has moved to {place}; the old name works in this version only",
            DeprecationWarning,
            stacklevel=2,
        )
        now = importlib.import_module(place)
        module.__dict__["__getattr__"] = lambda name: getattr(now, name)


def install() -> None:
    """Let the modules be found under their old names."""
    sys.meta_path.append(_MovedModules())
