"""How a path of faces is read where its storage leaves that open: the place of labels, the level of identities."""

import argparse
from typing import Any


def add_reader_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `coreface.data.open.open_faces`."""
    text = "of tar shards: where the labels are, cls, txt or json:FIELD (default: cls)"
    parser.add_argument("--label", metavar="PLACE", help=text)
    text = (
        "of a folder: how many folders below it the identities are, 1 for <identity>/<session>/<image> (default: the "
        "folders that hold images)"
    )
    parser.add_argument("--identity-level", type=int, metavar="N", help=text)


def reader_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `open_faces` takes beside the path."""
    return {"label": options.label, "identity_level": options.identity_level}
