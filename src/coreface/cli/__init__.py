"""The command line: parse, call, print. One module a command; nothing heavy is imported before a command needs it."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from coreface._version import __version__
from coreface.cli import (
    align,
    backbones,
    calibrate,
    cluster,
    compare,
    data,
    demo,
    embed,
    evaluate,
    export,
    faces,
    gallery,
    info,
    models,
    report,
    runs,
    serve,
    study,
    train,
    verify,
)
from coreface.cli.terminal import add_import_option
from coreface.distributed.launch import ignore_termination, is_leader, launched
from coreface.errors import MACHINE_FAILED, CoreFaceError, InputError, TrainingStopped
from coreface.registry import import_module

_BAD_INPUT, _FAILED, _SIGNAL = 2, 1, 128
_COMMANDS = (
    *(train, evaluate, calibrate, compare, study, runs, report),
    *(align, faces, verify, gallery, serve, embed, cluster, export, info, data, demo, backbones, models),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; or the command's own status (1 if a check found faults); 2 for bad input, explained in one line on standard
        error; 1 if the machine failed (a full disk) or training diverged; 130 after Ctrl-C; 141 if the reader of
        standard output has closed it; 143 after SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal's encoding may lack characters of a file name
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        for module in _imports(words):
            import_module(module)
        options = _parsed(words)
        found = options.run_command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at exit
        return _SIGNAL + signal.SIGPIPE
    except CoreFaceError as error:
        _say(error)
        return _FAILED if isinstance(error, MACHINE_FAILED) else _BAD_INPUT
    except OSError as error:
        _say(error)
        return _FAILED
    except TrainingStopped as error:
        if is_leader():
            print(f"coreface: {error}", file=sys.stderr)
        return _SIGNAL + error.signal
    except KeyboardInterrupt:
        print("coreface: interrupted", file=sys.stderr)
        return _SIGNAL + signal.SIGINT
    return int(found or 0)


def _say(error: BaseException) -> None:
    """Print an error, in the first of several processes that fails."""
    silent = getattr(error, "silent", None)
    if silent is None:  # the processes have not connected
        silent = not _is_first_to_fail()
    if not silent:
        cause = "; the current folder has been deleted: change to another one" if _folder_is_gone() else ""
        print(f"coreface: {error}{cause}", file=sys.stderr)


def _folder_is_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _is_first_to_fail() -> bool:
    try:
        if launched().world_size == 1:
            return True
    except InputError:
        return True
    ignore_termination()  # torchrun sends SIGTERM as soon as another process has failed
    from coreface.distributed.rendezvous import first_to_fail  # imports torch

    return first_to_fail()


def _imports(words: list[str]) -> list[str]:
    """Return the modules to import before parsing, since the protocols they register may have options."""
    parser = argparse.ArgumentParser(prog="coreface", add_help=False, allow_abbrev=False)
    add_import_option(parser)
    imports: list[str] = parser.parse_known_args(words)[0].imports
    return imports


def _parsed(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and not options.takes_more:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coreface",
        description="Train face encoders with CoReFace, evaluate them on people not in the training set, and use them.",
    )
    parser.add_argument("--version", action="version", version=f"coreface {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_to(commands)
    return parser
