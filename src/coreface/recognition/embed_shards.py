"""Shares of a list of photographs for several machines, and how their files become one."""

import hashlib
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coreface.errors import DataError, InputError
from coreface.recognition.embed_parts import PART, Arrays, Embedded, npz_path, write_npz
from coreface.recognition.gallery_contract import differences

_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of a list of photographs.

    Attributes:
        number: of the shard, from 1 on.
        of: how many there are.

    Raises:
        InputError: there is no such shard.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise InputError(f"the shard is {self}, expected a number from 1 to {self.of}, such as 1/{max(self.of, 1)}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``2/4``. Raises `InputError` if it is something else."""
        found = _SHARD.fullmatch(text)
        if not found:
            raise InputError(f"the shard is {text!r}, expected NUMBER/OF, such as 2/4")
        return cls(int(found[1]), int(found[2]))

    def share(self, starts: range) -> range:
        """Return the consecutive parts, by their first photographs, that belong to the shard."""
        return starts[(self.number - 1) * len(starts) // self.of : self.number * len(starts) // self.of]

    def file(self, out: Path) -> Path:
        """Return the file of the shard, next to that of the whole: ``people.shard-2-of-4.npz``."""
        return out.with_name(f"{out.stem}.shard-{self.number}-of-{self.of}.npz")

    def described(self, names: list[str]) -> str:
        """Return what the file says of the shard and of the whole list of photographs, JSON."""
        digest = hashlib.sha256(json.dumps([PART, names]).encode()).hexdigest()
        return json.dumps({"shard": self.number, "of": self.of, "photographs": len(names), "list": digest})


def merge_shards(files: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Embedded:
    """Join the files of all shards into the file that one process would have written.

    Args:
        files: in any order.
        out: the ``.npz`` to write.

    Raises:
        DataError: a file is no shard, a shard is missing or occurs twice, one is of other photographs or of another
            pipeline, or no photograph could be embedded.
        InputError: ``out`` is not a ``.npz``, or is one of the files.
        OSError: it cannot be written.
    """
    target, paths = npz_path(out), [Path(file) for file in files]
    if any(path.resolve() == target.resolve() for path in paths):
        raise InputError(f"{target} is a shard and the output: choose another name for the output")
    shards = [_ShardFile.read(path) for path in paths]
    if not shards:
        raise DataError("there are no shards to merge: give the files that coreface embed --shard has written")
    ordered = _complete(shards)
    arrays: Arrays = {}
    for name in ordered[0].arrays:
        pieces = [shard.arrays[name] for shard in ordered]
        arrays[name] = pieces[0] if name == "contract" else np.concatenate(pieces)
    found = Embedded.of(target, arrays)
    found.require_some()
    write_npz(target, arrays)
    return found


@dataclass(frozen=True, eq=False)
class _ShardFile:
    """A shard as read from its file."""

    path: Path
    shard: Shard
    photographs: int
    names_digest: str
    arrays: Arrays

    @classmethod
    def read(cls, path: Path) -> "_ShardFile":
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content.items())
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: expected a file of coreface embed --shard") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise DataError(f"{path} cannot be read ({error}): make this shard again") from error
        if "shard" not in arrays:
            raise DataError(f"{path} is no shard: expected a file of coreface embed --shard")
        try:
            about = json.loads(str(arrays.pop("shard")))
            shard = Shard(int(about["shard"]), int(about["of"]))
            found = cls(path, shard, int(about["photographs"]), str(about["list"]), arrays)
            json.loads(found.contract)
            counts = {name: len(array) for name, array in arrays.items() if name != "contract"}
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is damaged ({error!r}): make this shard again") from error
        if len(set(counts.values())) != 1:
            raise DataError(f"{path} is damaged (rows by array: {counts}): make this shard again")
        return found

    @property
    def contract(self) -> str:
        return str(self.arrays["contract"])

    @property
    def whole(self) -> tuple[object, ...]:
        """What the shards of one list have in common."""
        return self.shard.of, self.names_digest, self.photographs, self.contract, frozenset(self.arrays)


def _complete(shards: Sequence[_ShardFile]) -> list[_ShardFile]:
    """Return the shards in order; what most of them agree on is the rule for all."""
    rule = Counter(shard.whole for shard in shards).most_common(1)[0][0]
    model = next(shard for shard in shards if shard.whole == rule)
    for shard in shards:
        if shard.whole != rule:
            raise DataError(f"{shard.path} does not belong to {model.path}: {_foreign(shard, model)}")
    by_number: dict[int, _ShardFile] = {}
    for shard in shards:
        other = by_number.setdefault(shard.shard.number, shard)
        if other is not shard:
            raise DataError(f"shard {shard.shard} occurs twice, in {other.path} and {shard.path}: leave one out")
    count = model.shard.of
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in by_number]
    if missing:
        those = f"shard {missing[0]} is" if len(missing) == 1 else f"shards {', '.join(missing)} are"
        raise DataError(f"{those} missing: make it with the same coreface embed command and --shard {missing[0]}")
    return [by_number[number] for number in range(1, count + 1)]


def _foreign(shard: _ShardFile, model: _ShardFile) -> str:
    if shard.shard.of != model.shard.of:
        return f"it is one of {shard.shard.of} shards, the other one of {model.shard.of}"
    if shard.contract != model.contract:
        phrases = differences(json.loads(model.contract), json.loads(shard.contract), of="the other")
        return f"it was made by another pipeline ({'; '.join(phrases)})"
    if shard.names_digest != model.names_digest:
        return f"its list has other photographs ({shard.photographs}, the other {model.photographs})"
    return f"it holds {', '.join(sorted(shard.arrays))}, the other {', '.join(sorted(model.arrays))}"
