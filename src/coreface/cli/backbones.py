"""`coreface backbones`: what networks there are."""

import argparse

from coreface.cli.terminal import add_command


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    add_command(commands, "backbones", _backbones, "list the backbones")


def _backbones(options: argparse.Namespace) -> None:
    from coreface.models.registry import backbones
    from coreface.reports.terminal_table import Column, print_table

    rows = [[name, text] for name, text in backbones().items()]
    columns = (Column("backbone", left=True), Column("size and use", left=True))
    print_table(columns, rows, notes=("Parameters: at an image size of 112 pixels.",))
