"""`coreface evaluate`: error rates of an encoder, or of embeddings made elsewhere."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coreface.cli.embedding_options import (
    add_embedding_options,
    cache_folder,
    open_faces_or_held_out,
    open_subject,
    warn_of_crops,
    warn_of_trained,
)
from coreface.cli.terminal import add_command, print_evaluation, progress_console
from coreface.errors import RecipeError

if TYPE_CHECKING:
    from coreface.evaluation.embedding_sources import Subject
    from coreface.evaluation.results import MeasuredSearches, MeasuredSet

_OPEN_SET = "open-set:"
_TEMPLATES = ("ijbb", "ijbc")
_TEMPLATE_SEARCHES = {f"{name}-1n": name for name in _TEMPLATES}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    evaluate = add_command(
        commands, "evaluate", _evaluate, "measure an encoder: on people, on sets of pairs, by protocols"
    )
    evaluate.add_argument("model", nargs="?", metavar="MODEL", help="a run, a saved encoder, an .onnx file, or sface")
    evaluate.add_argument("--embeddings", metavar="FILE", help="instead of MODEL: a .npz of embeddings made elsewhere")
    evaluate.add_argument(
        "--pairs",
        action="append",
        default=[],
        metavar="FILE[:IMAGES]",
        help="a set of pairs: .bin, pairs.txt or .csv, and the folder of its images; may be given again",
    )
    evaluate.add_argument("--faces", metavar="PATH", help="people: every image against every other; default: held out")
    evaluate.add_argument(
        "--protocol",
        action="append",
        default=[],
        metavar="NAME:FOLDER",
        help="open-set:FOLDER, identification on a folder of people; ijbb:FOLDER, ijbc:FOLDER, 1:1; ijbb-1n:FOLDER, "
        "ijbc-1n:FOLDER, 1:N; may be given again",
    )
    evaluate.add_argument("--distractors", metavar="FOLDER", help="strangers for the galleries of open-set:FOLDER")
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of the open-set split (default: 0)")
    evaluate.add_argument("--groups", metavar="CSV", help="identity,label: error rates by label at one threshold")
    evaluate.add_argument("--group-column", metavar="NAME", help="which label (default: the second column)")
    evaluate.add_argument("--replicates", type=int, metavar="N", help="of the bootstrap; 0 for no intervals")
    add_embedding_options(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print all numbers as JSON")
    evaluate.add_argument("--report", metavar="FILE", help="write a page with plots and the worst mistakes")


def _evaluate(options: argparse.Namespace) -> None:
    _check(options)
    from coreface.models.open import is_onnx

    onnx = options.model is not None and is_onnx(options.model)
    if not (onnx or options.embeddings or options.pairs or options.protocol or options.groups):
        _evaluate_people(options)
        return
    from coreface.evaluation.embedding_sources import EmbeddingFile
    from coreface.evaluation.protocols.groups import read_labels
    from coreface.reports.tables import print_groups, print_searches, print_verification

    labels = read_labels(Path(options.groups), options.group_column) if options.groups else None
    subject = EmbeddingFile(Path(options.embeddings)) if options.embeddings else open_subject(options.model, options)
    sets, searches = _measured(subject, options, labels)
    unreadable = [(one.name, one.unreadable) for one in sets] + [(one.name, one.unreadable) for one in searches]
    for name, messages in unreadable:
        for message in messages:
            print(f"coreface: {name}: not embedded: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps(_plain(subject, sets, searches), indent=2, allow_nan=False))
    else:
        for one in sets:
            print_verification(one.verification, name=one.name, notes=one.notes)
            if one.groups:
                print_groups(one.groups)
        for search in searches:
            print_searches(search.name, search.identification, search.distractors)
    if options.report:
        from coreface.reports.result_sections import write_set_report

        write_set_report(subject, sets, searches, Path(options.report))
        print(f"report: {options.report}", file=sys.stderr if options.json else sys.stdout)


def _measured(
    subject: "Subject", options: argparse.Namespace, labels: dict[str, str] | None
) -> "tuple[list[MeasuredSet], list[MeasuredSearches]]":
    from coreface.data import open_faces
    from coreface.evaluation.embedding_sources import EmbeddingFile, EncoderSubject
    from coreface.evaluation.protocols import people as protocols
    from coreface.evaluation.protocols.pairs import image_identities

    console = progress_console()
    opened = [(text, protocols.open_named_pairs(text)) for text in options.pairs]  # a wrong path is found out first
    for text, pairs in opened:
        warn_of_trained(image_identities(pairs)[1] or (), text, options.model)
        if isinstance(subject, EncoderSubject):
            warn_of_crops(pairs, text, subject.encoder.preprocessing.alignment)
    chosen: dict[str, Any] = {"replicates": options.replicates, "labels": labels, "console": console}
    sets = [protocols.measure_pairs(subject, pairs, protocols.short_name(text), **chosen) for text, pairs in opened]
    for text in options.protocol:
        name, _, path = text.partition(":")
        if name in _TEMPLATES:
            measured = protocols.measure_templates(subject, name, path, replicates=options.replicates, console=console)
            sets.append(measured)
    if options.faces or (options.model and not (options.pairs or options.protocol)):
        faces = open_faces_or_held_out(options.faces, options.model or "")
        if isinstance(subject, EncoderSubject):
            warn_of_crops(faces, options.faces or "held out", subject.encoder.preprocessing.alignment)
        sets.append(protocols.measure_faces(subject, faces, options.faces or "held out", **chosen))
    searches = []
    for text in options.protocol:
        name, _, path = text.partition(":")
        if text.startswith(_OPEN_SET):
            distractors, seed = options.distractors, options.seed
            for searched in (path, distractors):
                if searched:
                    warn_of_trained(open_faces(searched).identity_names, searched, options.model)
            found = protocols.measure_open_set(subject, path, seed=seed, distractors=distractors, console=console)
            searches.append(found)
        elif name in _TEMPLATE_SEARCHES:
            full = _TEMPLATE_SEARCHES[name]
            searches.append(protocols.measure_template_searches(subject, full, path, console=console))
    if not sets and not searches and isinstance(subject, EmbeddingFile):
        sets.append(protocols.measure_file(subject, replicates=options.replicates))
    return sets, searches


def _evaluate_people(options: argparse.Namespace) -> None:
    from coreface.reports.page import write_report
    from coreface.runs.evaluation import evaluate, run_page

    evaluation = evaluate(
        options.model,
        open_faces_or_held_out(options.faces, options.model) if options.faces else None,
        flip=not options.no_flip,
        replicates=options.replicates,
        cache=cache_folder(options),
        console=progress_console(),
    )
    for message in evaluation.embedded.unreadable.values():
        print(f"coreface: left out: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps(evaluation.to_dict(), indent=2, allow_nan=False))
    else:
        print_evaluation(evaluation)
    if options.report:
        write_report(run_page(Path(options.model), evaluation), Path(options.report))
        print(f"report: {options.report}", file=sys.stderr if options.json else sys.stdout)


def _plain(subject: "Subject", sets: "list[MeasuredSet]", searches: "list[MeasuredSearches]") -> dict[str, Any]:
    return {
        "name": subject.name,
        "encoder": subject.digest,
        "embeddings": subject.way,
        "sets": [measured.to_dict() for measured in sets],
        "identification": [measured.to_dict() for measured in searches],
    }


def _check(options: argparse.Namespace) -> None:
    if options.replicates is not None and options.replicates < 0:
        raise RecipeError(f"--replicates is {options.replicates}, expected 0 or more")
    if (options.model is None) == (options.embeddings is None):
        raise RecipeError("expected one of MODEL and --embeddings FILE: say what to measure")
    for text in options.protocol:
        name, _, path = text.partition(":")
        if name not in ("open-set", *_TEMPLATES, *_TEMPLATE_SEARCHES) or not path:
            raise RecipeError(
                f"--protocol is {text}, expected open-set:FOLDER, ijbb:FOLDER, ijbc:FOLDER, ijbb-1n:FOLDER or "
                "ijbc-1n:FOLDER"
            )
    if options.distractors and not any(text.startswith(_OPEN_SET) for text in options.protocol):
        raise RecipeError("--distractors goes with --protocol open-set:FOLDER, which says who is searched for")
    if options.group_column and not options.groups:
        raise RecipeError("--group-column goes with --groups CSV, which holds the column")
