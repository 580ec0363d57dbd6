"""Registries of objects that are selected by name: backbones, margins, readers of faces, protocols.

A decorator adds an entry when the module that contains it is imported. coreface never imports a module because a file
names it, only because of ``--import MODULE`` on the command line.
"""

import difflib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from coreface.errors import CoreFaceError, InputError

Entry = TypeVar("Entry")
Added = TypeVar("Added")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Registry(Generic[Entry]):
    """Entries by name, each with one line of help, in the order in which they were added.

    Args:
        kind: what an entry is, for messages: "backbone".
        error: what an unknown name raises.
    """

    def __init__(self, kind: str, error: type[CoreFaceError]) -> None:
        self.kind = kind
        self._error = error
        self._entries: dict[str, tuple[Entry, str]] = {}

    def add(self, name: str, entry: Entry, help: str) -> None:
        """Add an entry. The same definition may be added again, as when the cell of a notebook is run twice.

        Raises:
            InputError: the name is taken or not a plain word, or the help is not one line.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{self.kind} name is {name!r}, expected letters, digits, '_', '-' and '.'")
        if not help or "\n" in help:
            raise InputError(f"help of {self.kind} {name} is {help!r}, expected one line of text")
        if name in self._entries and _definition(self._entries[name][0]) != _definition(entry):
            raise InputError(f"{self.kind} {name!r} is already registered by {self.module(name)}: choose another name")
        self._entries[name] = (entry, help)

    def remove(self, name: str) -> None:
        """Forget an entry."""
        del self._entries[name]

    def decorator(self, name: str, help: str) -> Callable[[Added], Added]:
        """Return a decorator that adds the decorated object and returns it unchanged."""

        def add(entry: Added) -> Added:
            self.add(name, entry, help)  # type: ignore[arg-type]  # the public decorators say what they take
            return entry

        return add

    def __getitem__(self, name: str) -> Entry:
        """Return an entry. An unknown name raises the registry's error, which suggests the nearest one."""
        if name not in self._entries:
            near = difflib.get_close_matches(str(name), self._entries, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(self._entries)}."
            raise self._error(
                f"there is no {self.kind} {name!r}: {advice} If your own module registers it, give --import MODULE, "
                "or import it in Python"
            )
        return self._entries[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def help(self) -> dict[str, str]:
        """Return the line of help of every name."""
        return {name: text for name, (_, text) in self._entries.items()}

    def module(self, name: str) -> str:
        """Return the module that defines an entry."""
        return _definition(self._entries[name][0])[0]

    def is_own(self, name: str) -> bool:
        """Return whether an entry is defined by coreface."""
        return self.module(name).startswith("coreface.")


def import_module(name: str) -> None:
    """Import a module for what it registers, from the current folder too, as ``python -m`` does.

    Raises:
        InputError: there is no such module, or it raises an error itself.
    """
    if (here := os.getcwd()) not in sys.path and "" not in sys.path:  # noqa: PTH109 (sys.path holds text)
        sys.path.insert(0, here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(f"--import {name}: it imports {error.name}, which is not installed") from error
        advice = f"give {name[:-3].replace('/', '.')}, without .py" if name.endswith(".py") else "give its name"
        raise InputError(
            f"--import {name}: no such module in the current folder or in this Python: {advice}"
        ) from error
    except CoreFaceError as error:
        raise InputError(f"--import {name}: {error}") from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"--import {name}: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
        ) from error


def _definition(entry: object) -> tuple[str, str]:
    """Return (module, name in it); of a partial, those of what it calls, with its arguments."""
    inner = getattr(entry, "func", entry)
    arguments = repr(getattr(entry, "args", "")) if inner is not entry else ""
    return str(inner.__module__), getattr(inner, "__qualname__", repr(inner)) + arguments
