"""`coreface backbones`: what networks there are."""

import argparse

from coreface.cli.terminal import add_command


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    add_command(commands, "backbones", _backbones, "list the backbones")


def _backbones(options: argparse.Namespace) -> None:
    from coreface.models.registry import backbones

    for name, text in backbones().items():
        print(f"{name:14} {text}")
