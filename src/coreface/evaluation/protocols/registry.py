"""The table of protocols: name, help and options of each.

A protocol is a file in this folder and an entry of the table below, which imports a protocol only when it is used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from coreface.errors import InputError
from coreface.registry import Registry

if TYPE_CHECKING:
    from coreface.evaluation.protocols.protocol import EvaluationProtocol
    from coreface.evaluation.results import Result

_Builder = TypeVar("_Builder", bound="Callable[..., EvaluationProtocol[Result]]")


@dataclass(frozen=True)
class ProtocolOption:
    """An option of a protocol: a keyword in Python, ``--keyword`` on the command line.

    Attributes:
        keyword: its name in Python.
        metavar: what its value is, in capitals.
        help: one line.
        parse: makes the value of a word of the command line.
        minimum: the smallest value; None where there is none.
    """

    keyword: str
    metavar: str
    help: str
    parse: Callable[[str], Any] = str
    minimum: int | None = None

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--" + self.keyword.replace("_", "-")


@dataclass(frozen=True)
class RegisteredProtocol:
    """A protocol of the table.

    Attributes:
        name: as in ``--protocol NAME:TARGET``.
        target: what it evaluates on, in capitals.
        help: one line.
        builder: returns the protocol of a target and options; or its place in this folder, ``"file:Class"``.
        options: which options it takes.
        flag: a command-line option that is short for ``--protocol NAME:``; None for none.
        fixed: what the builder gets besides.
    """

    name: str
    target: str
    help: str
    builder: "Callable[..., EvaluationProtocol[Result]] | str"
    options: tuple[ProtocolOption, ...] = ()
    flag: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def build(self, target: str, **options: Any) -> "EvaluationProtocol[Result]":
        """Return the protocol, ready to evaluate on ``target``.

        Raises:
            DataError: what it evaluates on cannot be read.
        """
        builder = self.builder
        if isinstance(builder, str):
            file, _, name = builder.partition(":")
            builder = getattr(import_module(f"{__package__}.{file}"), name)
        return builder(target, **self.fixed, **options)


#: Names that `coreface evaluate` uses itself, so that no option of a protocol may have them.
RESERVED = frozenset(
    (
        *("help", "import", "imports", "model", "embeddings", "protocol", "backbone", "no_flip", "cache", "no_cache"),
        *("preprocessing", "runtime", "precision", "threads", "batch_size"),
        *("quality", "detector", "alignment", "json", "report", "rest", "run_command", "takes_more"),
    )
)

_REPLICATES = ProtocolOption("replicates", "N", "replicates of the bootstrap; 0 for no intervals", int, minimum=0)
_FACES = (
    ProtocolOption("label", "PLACE", "place of the labels in tar shards: cls, txt or json:FIELD"),
    ProtocolOption("identity_level", "N", "depth of the identities in a folder of faces", int, 1),
)
_VERIFICATION = (
    _REPLICATES,
    ProtocolOption("groups", "CSV", "identity,label: error rates by label at one threshold"),
    ProtocolOption("group_column", "NAME", "which label (default: the second column)"),
)
_OPEN_SET = (
    ProtocolOption("distractors", "FOLDER", "distractors for the galleries of open-set:FOLDER"),
    ProtocolOption("seed", "N", "of the open-set split (default: 0)", int, minimum=0),
    *_FACES,
)
_PAIRS_HELP = "a set of pairs: .bin, pairs.txt or .csv, and the folder of its images"
_PEOPLE_HELP = "people: every image against every other (default: those that the run held out)"
_OPEN_SET_HELP = "identification on a folder of people"
_IJBB, _IJBC = {"dataset": "ijbb"}, {"dataset": "ijbc"}

_TABLE = (
    RegisteredProtocol("pairs", "FILE[:IMAGES]", _PAIRS_HELP, "pairs:Pairs", _VERIFICATION, "--pairs"),
    RegisteredProtocol("people", "PATH", _PEOPLE_HELP, "people:People", (*_VERIFICATION, *_FACES), "--faces"),
    RegisteredProtocol("open-set", "FOLDER", _OPEN_SET_HELP, "open_set:OpenSetIdentification", _OPEN_SET),
    RegisteredProtocol("ijbb", "FOLDER", "IJB-B, 1:1", "ijb:IjbVerification", (_REPLICATES,), fixed=_IJBB),
    RegisteredProtocol("ijbc", "FOLDER", "IJB-C, 1:1", "ijb:IjbVerification", (_REPLICATES,), fixed=_IJBC),
    RegisteredProtocol("ijbb-1n", "FOLDER", "IJB-B, 1:N", "ijb:IjbIdentification", fixed=_IJBB),
    RegisteredProtocol("ijbc-1n", "FOLDER", "IJB-C, 1:N", "ijb:IjbIdentification", fixed=_IJBC),
)

PROTOCOLS: Registry[RegisteredProtocol] = Registry("protocol", InputError)
for _entry in _TABLE:
    PROTOCOLS.add(_entry.name, _entry, _entry.help)


def register_protocol(
    name: str, target: str, help: str, *, options: tuple[ProtocolOption, ...] = (), flag: str | None = None
) -> Callable[[_Builder], _Builder]:
    """Add a protocol to the table, as a decorator of its class: `coreface evaluate` then knows it.

    Args:
        name: as in ``--protocol NAME:TARGET``.
        target: what it evaluates on, in capitals, such as ``"FOLDER"``.
        help: one line.
        options: which options it takes, as keywords beside the target.
        flag: an option that is short for ``--protocol NAME:``, such as ``"--pairs"``.

    Raises:
        InputError: the name is taken or is not a plain word; an option differs from another protocol's option of that
            name; or an option or the flag is already one of `coreface evaluate`.
    """
    flags = {entry.flag: entry.name for entry in protocols() if entry.flag and entry.name != name}
    if flag is not None and (flag in flags or flag.removeprefix("--").replace("-", "_") in RESERVED):
        raise InputError(f"{name}: coreface evaluate already has an option {flag}; choose another flag")
    for option in options:
        if option.keyword in RESERVED or option.flag in (*flags, flag):
            raise InputError(f"{name}: coreface evaluate already has an option {option.flag}; choose another keyword")
    known = {option.keyword: option for option in protocol_options()}
    for option in options:
        if known.get(option.keyword, option) != option:
            raise InputError(f"{name}: {option.flag} is another protocol's option; expected the same or a new one")

    def add(builder: _Builder) -> _Builder:
        PROTOCOLS.add(name, RegisteredProtocol(name, target, help, builder, options, flag), help)
        return builder

    return add


def protocols() -> tuple[RegisteredProtocol, ...]:
    """Return the table."""
    return tuple(PROTOCOLS[name] for name in PROTOCOLS)


def protocol_options() -> tuple[ProtocolOption, ...]:
    """Return the options of all protocols, each once."""
    return tuple({option.keyword: option for entry in protocols() for option in entry.options}.values())
