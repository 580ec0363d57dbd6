"""`coreface evaluate`: error rates of an encoder, or of embeddings from elsewhere, by any protocol."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreface.cli.embedding_options import (
    add_embedding_options,
    open_embeddings,
    require_taker,
    warn_of_crops,
    warn_of_foreign,
    warn_of_trained,
)
from coreface.cli.terminal import add_command, progress_console
from coreface.errors import RecipeError
from coreface.evaluation.protocols.registry import protocol_options, protocols

if TYPE_CHECKING:
    from coreface.data.pairs.pair_set import PairSet
    from coreface.data.source import FaceSource
    from coreface.evaluation.embedding_sources import EmbeddingSource
    from coreface.evaluation.protocols.protocol import EvaluationProtocol
    from coreface.evaluation.results import Result

_TEXT = "evaluate an encoder: on people, on sets of pairs, by protocols"


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser. The table of protocols says what it evaluates by, and with which options."""
    parser = add_command(commands, "evaluate", _evaluate, _TEXT)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a run, a saved encoder, an .onnx file, or sface")
    parser.add_argument("--embeddings", metavar="FILE", help="instead of MODEL: a .npz of embeddings from elsewhere")
    table = protocols()
    for entry in table:
        if entry.flag:
            text = f"{entry.help}; may be given again"
            parser.add_argument(entry.flag, **_chosen(entry.target), help=text, type=f"{entry.name}:{{}}".format)
    listed = "; ".join(f"{entry.name}:{entry.target}, {entry.help}" for entry in table if not entry.flag)
    parser.add_argument("--protocol", **_chosen("NAME:TARGET"), help=f"{listed}; may be given again")
    for option in protocol_options():
        parser.add_argument(option.flag, metavar=option.metavar, help=option.help, type=option.parse)
    add_quality_options(parser)
    add_embedding_options(parser)
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    parser.add_argument("--report", metavar="FILE", help="write a page with plots and the worst mistakes")


def add_quality_options(parser: argparse.ArgumentParser) -> None:
    """Add what draws error-versus-discard curves, which needs photographs and a detector."""
    text = (
        "photographs <identity>/<photograph>: how well size, sharpness, pose and other measures of quality predict the "
        "errors; may be given again"
    )
    parser.add_argument("--quality", action="append", default=[], metavar="PHOTOS", help=text)
    text = "of --quality: yunet, centerface, or its .onnx file (default: yunet)"
    parser.add_argument("--detector", metavar="NAME", help=text)
    text = "of --quality, for an encoder that does not record its alignment: arcface"
    parser.add_argument("--alignment", metavar="NAME", help=text)


def _chosen(metavar: str) -> dict[str, Any]:
    return {"action": "append", "default": [], "dest": "protocol", "metavar": metavar}


def _evaluate(options: argparse.Namespace) -> None:
    from coreface.evaluation.embedding_sources import EmbeddingFile
    from coreface.evaluation.results import document
    from coreface.models.open import is_weights
    from coreface.reports.tables import print_result

    if (options.model is None) == (options.embeddings is None):
        raise RecipeError("expected one of MODEL and --embeddings FILE")
    if options.backbone and not (options.model and is_weights(options.model)):
        raise RecipeError(f"--backbone is {options.backbone}, expected only with a MODEL that is a weight file")
    require_taker(options, options.model)
    given = _given(options)
    source = EmbeddingFile(Path(options.embeddings)) if options.embeddings else open_embeddings(options.model, options)
    chosen = _chosen_protocols(options.model or source, options, given)  # a wrong path is found out first
    evaluated = [entry for protocol in chosen for entry in protocol.photographs().items()]
    for place, photographs in evaluated:
        _warn(photographs, place, options.model, source)
    for place, photographs in evaluated[:1]:  # the first tell enough of a foreign encoder
        warn_of_foreign(source, photographs, place)
    console = progress_console()
    results = [protocol.evaluate(source, console) for protocol in chosen]
    for result in results:
        for message in result.unreadable:
            print(f"coreface: {result.name}: not embedded: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps(document(source.provenance, results), indent=2, allow_nan=False))
    else:
        for result in results:
            print_result(result)
    if options.report:
        from coreface.reports.page import write_page
        from coreface.runs.report import evaluation_page

        run = Path(options.model) if options.model else None
        write_page(evaluation_page(source.provenance, results, run), Path(options.report))
        print(f"report: {options.report}", file=sys.stderr if options.json else sys.stdout)


def _warn(photographs: "FaceSource | PairSet", place: str, model: str | None, source: "EmbeddingSource") -> None:
    from coreface.data.pairs.pair_set import PairSet
    from coreface.evaluation.protocols.pairs import image_identities

    if isinstance(photographs, PairSet):
        names: Sequence[str] = image_identities(photographs)[1] or ()
        notices = photographs.notices()
    else:
        names = photographs.identity_names
        notices = [notice for notice in photographs.storage_notices() if notice.loses]
    for notice in notices:
        print(f"coreface: note: {place}: {notice.message}, such as {notice.items[0]}", file=sys.stderr)
    warn_of_trained(names, place, model)
    if source.encoder is not None:
        warn_of_crops(photographs, place, source.encoder.preprocessing.alignment)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of protocols that were given, and check that a protocol takes each of them."""
    entries = {entry.name: entry for entry in protocols()}
    names = [text.partition(":")[0] for text in options.protocol]
    for name, text in zip(names, options.protocol, strict=True):
        if name not in entries or text == f"{name}:" or ":" not in text:
            expected = ", ".join(f"{entry.name}:{entry.target}" for entry in entries.values() if not entry.flag)
            raise RecipeError(f"--protocol is {text}, expected {expected}")
    default = [] if options.quality else ["people"]
    used = {option for name in names or default for option in entries[name].options}
    if options.quality:
        used |= {option for option in protocol_options() if option.keyword == "replicates"}
    given = {}
    for option in protocol_options():
        value = getattr(options, option.keyword)
        if value is None:
            continue
        if option.minimum is not None and value < option.minimum:
            raise RecipeError(f"{option.flag} is {value}, expected {option.minimum} or more")
        if option not in used:
            takers = [entry for entry in entries.values() if option in entry.options]
            places = " or ".join(entry.flag or f"--protocol {entry.name}:{entry.target}" for entry in takers)
            raise RecipeError(f"{option.flag} is an option of {places}")
        given[option.keyword] = value
    return given


def _chosen_protocols(
    model: "EmbeddingSource | str", options: argparse.Namespace, given: dict[str, Any]
) -> "list[EvaluationProtocol[Result]]":
    from coreface.runs.evaluation import default_protocol

    quality = _quality_protocols(options, given.get("replicates"))
    if not options.protocol and not quality:
        if astray := [
            option for option in protocol_options() if option.keyword in given.keys() & {"label", "identity_level"}
        ]:
            raise RecipeError(
                f"{astray[0].flag} goes with --faces PATH; the recipe of a run says how its faces are read"
            )
        return [default_protocol(model, **given)]
    entries = {entry.name: entry for entry in protocols()}
    built = []
    for text in options.protocol:
        name, _, target = text.partition(":")
        takes = {option.keyword for option in entries[name].options}
        built.append(entries[name].build(target, **{word: given[word] for word in given.keys() & takes}))
    return built + quality


def _quality_protocols(options: argparse.Namespace, replicates: int | None) -> "list[EvaluationProtocol[Result]]":
    astray = [f"--{name}" for name in ("detector", "alignment") if getattr(options, name) is not None]
    if astray and not options.quality:
        raise RecipeError(f"{astray[0]} goes with --quality PHOTOS, whose faces it finds and aligns")
    if not options.quality:
        return []
    from coreface.recognition.quality_evaluation import QualityOfPhotographs

    chosen = {"detector": options.detector or "yunet", "alignment": options.alignment, "replicates": replicates}
    return [QualityOfPhotographs(path, **chosen) for path in options.quality]
