"""`coreface compare`: two encoders on the same pairs."""

import argparse
import json
from typing import TYPE_CHECKING

from coreface.cli.embedding_options import (
    add_embedding_options,
    open_embeddings,
    open_faces_or_held_out,
    require_taker,
    warn_of_trained,
)
from coreface.cli.reader_options import add_reader_options, reader_options
from coreface.cli.terminal import add_command, progress_console
from coreface.errors import RecipeError

if TYPE_CHECKING:
    from coreface.data.source import FaceSource


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    compare = add_command(
        commands, "compare", _compare, "compare two encoders on the same pairs: differences, intervals, p-values"
    )
    for name in ("a", "b"):
        compare.add_argument(name, metavar=name.upper(), help="a run, a saved encoder, or a .npz of embeddings")
    compare.add_argument("--pairs", action="append", default=[], metavar="FILE[:IMAGES]", help="a set of pairs")
    compare.add_argument("--faces", metavar="PATH", help="people: every image against every other; default: A held out")
    compare.add_argument("--replicates", type=int, metavar="N", help="of the bootstrap")
    add_reader_options(compare)
    add_embedding_options(compare)
    compare.add_argument("--json", action="store_true", help="print all numbers as JSON")


def _compare(options: argparse.Namespace) -> None:
    from coreface.data.pairs.pair_set import PairSet
    from coreface.evaluation.comparison import compare
    from coreface.evaluation.protocols.pairs import ONE_FOLD, image_identities, open_named_pairs
    from coreface.models.open import is_weights
    from coreface.reports.tables import print_comparison

    if options.replicates is not None and options.replicates < 1:
        raise RecipeError(f"--replicates is {options.replicates}, expected 1 or more")
    require_taker(options, options.a, options.b)
    sources: dict[str, FaceSource | PairSet] = {text: open_named_pairs(text) for text in options.pairs}
    if options.faces or not sources:
        sources[options.faces or "held out"] = open_faces_or_held_out(
            options.faces, options.a, **reader_options(options)
        )
    for name, source in sources.items():
        if isinstance(source, PairSet):
            for model in (options.a, options.b):
                warn_of_trained(image_identities(source)[1] or (), name, model)
        else:  # A has been looked at when the faces were opened
            warn_of_trained(source.identity_names, name, options.b)
    if options.backbone and not (is_weights(options.a) or is_weights(options.b)):
        raise RecipeError("--backbone goes with a weight file, and neither A nor B is one")
    a, b = (open_embeddings(model, options) for model in (options.a, options.b))
    plain = []
    for name, source in sources.items():
        found = compare(a, b, source, replicates=options.replicates, console=progress_console())
        if options.json:
            rates = {
                rate: {"a": one, "b": other, **difference.to_dict()} for rate, (one, other, difference) in found.items()
            }
            plain.append({"set": name, "rates": rates})
        else:
            notes = (ONE_FOLD,) if isinstance(source, PairSet) and source.folds == 1 else ()
            print_comparison(name, found, (options.a, options.b), notes)
    if options.json:
        print(json.dumps({"a": options.a, "b": options.b, "sets": plain}, indent=2, allow_nan=False))
