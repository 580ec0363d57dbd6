"""`coreface models`: lists public weights that are known by name, and their paths."""

import argparse
import json

from coreface.cli.terminal import add_command
from coreface.errors import CoreFaceError


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    models = add_command(commands, "models", _models, "list the known public weights, and whether they are installed")
    models.add_argument("--json", action="store_true", help="print all as JSON")


def _models(options: argparse.Namespace) -> None:
    from coreface.models.known import KNOWN, locate, read

    rows = []
    for name, weights in KNOWN.items():
        try:
            read(name)
            state, path = "installed", str(locate(name))
        except CoreFaceError as error:
            state, path = str(error), None
        described = weights.preprocessing.to_dict() if weights.preprocessing else None
        rows.append({**vars(weights), "preprocessing": described, "path": path, "state": state})
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['name']}: {row['kind']}, {row['size'] / 1e6:.1f} MB, licence {row['licence']}")
        print(f"    training data: {row['training_data']}" + (f"; {row['note']}" if row["note"] else ""))
        print(f"    {row['path'] or row['state']}")
