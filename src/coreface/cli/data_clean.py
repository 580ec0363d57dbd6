"""`coreface data clean`: list what may be wrong with labels, or apply such a list."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coreface.cli.embedding_options import add_embedding_options, open_embeddings, warn_of_crops
from coreface.cli.listing import print_left_out, print_some
from coreface.cli.reader_options import add_reader_options, reader_options
from coreface.cli.terminal import add_command, progress_console, show_progress
from coreface.errors import InputError
from coreface.plurals import counted

if TYPE_CHECKING:
    from coreface.data import FaceSource
    from coreface.evaluation.cleaning import LabelReport

_TEXT = (
    "list images, identities and duplicates whose labels may be wrong, as a CSV and a page with the faces; "
    "--apply writes new faces by the list, and nothing else changes anything"
)


def add_clean(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", path: str, storages: tuple[str, ...]
) -> None:
    """Add the command to those of `coreface data`."""
    clean = add_command(actions, "clean", _clean, _TEXT)
    clean.add_argument("path", metavar="PATH", help=path)
    add_reader_options(clean)
    text = "a run, a saved encoder, an .onnx file, sface, or a .npz of embeddings; best one not trained on these labels"
    clean.add_argument("--model", metavar="MODEL", help=text)
    text = "for each kind of finding, the expected share of the good ones that is listed (default: %(default)s)"
    clean.add_argument("--good-lost", type=float, default=0.005, metavar="X", help=text)
    text = "correlation from which images are near duplicates; 2 lists equal images only (default: %(default)s)"
    clean.add_argument("--near-duplicates", type=float, default=0.98, metavar="X", help=text)
    text = "of the wrong labels that are made for comparison (default: %(default)s)"
    clean.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    clean.add_argument("--list", metavar="FILE", help="the CSV to write (default: <name of PATH>-clean.csv here)")
    clean.add_argument("--page", metavar="FILE", help="the page to write (default: <name of PATH>-clean.html here)")
    add_embedding_options(clean)
    clean.add_argument("--apply", metavar="LIST", help="instead: write PATH as this list says, to --out")
    clean.add_argument("--out", metavar="NEW", help="with --apply: the folder to write")
    clean.add_argument("--to", choices=storages, help="with --apply: storage to write (default: that of PATH)")


def _clean(options: argparse.Namespace) -> None:
    if options.apply is not None:
        if options.out is None or options.model is not None:
            raise InputError("--apply LIST needs --out NEW, and no --model: what to change is in the list")
        _apply(options)
        return
    if options.model is None or options.out is not None or options.to is not None:
        raise InputError("expected --model MODEL to list what may be wrong, or --apply LIST --out NEW to correct it")
    _list(options)


def _list(options: argparse.Namespace) -> None:
    from coreface.data import open_faces, require_identities
    from coreface.data.corrections import write_corrections
    from coreface.data.near_duplicates import require_likeness
    from coreface.evaluation.cleaning import find_duplicates, find_label_errors
    from coreface.evaluation.label_noise import require_share
    from coreface.evaluation.suggested_corrections import suggest_corrections
    from coreface.reports.cleaning_page import write_cleaning_page

    require_share(options.good_lost)
    require_likeness(options.near_duplicates)
    stem = f"{Path(options.path).resolve().stem}-clean"
    listed, page = Path(options.list or f"{stem}.csv"), Path(options.page or f"{stem}.html")
    for path in (listed, page):
        if not path.parent.is_dir():
            raise InputError(f"{path} cannot be written: there is no folder {path.parent}")
    source = open_faces(options.path, **reader_options(options))
    require_identities(source, 2, "cleaning")
    embeddings = open_embeddings(options.model, options)
    if embeddings.encoder is not None:
        warn_of_crops(source, options.path, embeddings.encoder.preprocessing.alignment)
    embedded = embeddings.embed(source, progress_console())
    with show_progress("searching duplicates", len(source)) as progress:
        duplicates = find_duplicates(source, least=options.near_duplicates, progress=progress)
    report = find_label_errors(source, embedded, duplicates, good_lost=options.good_lost, seed=options.seed)
    for message in report.unreadable:
        print(f"coreface: not compared: {message}", file=sys.stderr)
    corrections = suggest_corrections(report)
    write_corrections(listed, corrections)
    summary = (
        f"{counted(len(source), 'image')} of {counted(source.num_identities, 'identity')}, compared by "
        f"{embeddings.provenance.name} ({embeddings.provenance.description}).",
        f"Nothing has been changed. Edit the actions in {listed.name} (keep, drop, move or merge), then apply the list "
        "with coreface data clean PATH --apply LIST --out NEW.",
    )
    write_cleaning_page(report, f"{options.path}: labels that may be wrong", summary, page)
    _print(report, options.good_lost)
    print(f"list: {listed}, {counted(len(corrections), 'line')}")
    print(f"page: {page}")


def _print(report: "LabelReport", good_lost: float) -> None:
    from coreface.evaluation.cleaning import KINDS

    for kind, words in KINDS.items():
        count = len(report.of_kind(kind))
        print(f"{count:>7} {words}")
        cut = report.cuts.get(kind)
        if cut is None or cut.threshold is None or cut.precision is None:
            continue
        side = ">=" if kind == "one person" else "<="
        print(
            f"        score {side} {cut.threshold:.4f}: expected are {cut.good_lost:.2%} of the good ones (at most "
            f"{good_lost:.2%} were asked for); {cut.precision:.0%} of those listed are wrong; {cut.share_wrong:.2%} "
            f"of {cut.scored} are wrong in all"
        )


def _apply(options: argparse.Namespace) -> None:
    from coreface.data import convert_faces, open_faces
    from coreface.data.convert import storage_of
    from coreface.data.corrections import apply_corrections

    source = open_faces(options.path, **reader_options(options))
    corrected = apply_corrections(source, Path(options.apply))
    faces: FaceSource = corrected.faces
    storage = options.to or storage_of(source)
    with show_progress("writing", len(faces)) as progress:
        convert_faces(faces, options.out, storage, progress=progress)
    for noun, what, items in (
        ("image", "left out", corrected.dropped),
        ("image", "moved to another identity", corrected.moved),
        ("identity", "merged into another", corrected.merged),
        ("identity", "left without an image", corrected.emptied),
    ):
        if items:
            print_some(f"{counted(len(items), noun)} {what}", items, all_by=f"{options.apply} has all")
    print_left_out(source)
    print(f"{options.out}: {storage}, {counted(len(faces), 'image')} of {counted(faces.num_identities, 'identity')}")
