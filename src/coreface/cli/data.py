"""`coreface data`: inspect, check, split, convert and clean faces, and draw pairs of them."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from coreface.cli.data_clean import add_clean
from coreface.cli.embedding_options import warn_of_crops
from coreface.cli.listing import print_left_out, print_some
from coreface.cli.reader_options import add_reader_options, reader_options
from coreface.cli.terminal import add_command, show_progress
from coreface.errors import InputError
from coreface.plurals import counted

if TYPE_CHECKING:
    from coreface.data import Check, FaceSource, PairSet, Storage, Survey

_PATH = "a folder <identity>/<image>, a RecordIO .rec or its folder, a tar shard or a folder of them, or orl"
_STORAGES = ("folder", "recordio", "shards")
_PAIRS = (".bin", ".csv", ".txt")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = "inspect, check, split, convert and clean faces, and draw pairs of them"
    data = commands.add_parser("data", help=text, description=text)
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")

    info = add_command(
        actions, "info", _info, "describe what is found at a path, from its index and some of its images"
    )
    info.add_argument("path", metavar="PATH", help=f"{_PATH}; or pairs: a .bin, .csv or pairs.txt")
    add_reader_options(info)
    info.add_argument("--samples", metavar="FILE", help="write the first images to this .png")
    info.add_argument("--images", metavar="DIR", help="folder of the images of a list of pairs")
    info.add_argument("--json", action="store_true", help="print the facts as JSON")

    check = add_command(
        actions,
        "check",
        _check,
        "decode every image; list what cannot be read, duplicates, small identities, odd sizes; exit with 1 if any; "
        "stray files are listed as notes",
    )
    check.add_argument("path", metavar="PATH", help=_PATH)
    add_reader_options(check)
    check.add_argument("--least", type=int, default=2, metavar="N", help="images an identity should have (%(default)s)")
    check.add_argument("--json", action="store_true", help="print everything as JSON, not only examples")

    split = add_command(actions, "split", _split, "write two sources without common identities: OUT/train and OUT/test")
    split.add_argument("path", metavar="PATH", help=_PATH)
    add_reader_options(split)
    split.add_argument("--by-identity", action="store_true", required=True, help="split people, not images (required)")
    split.add_argument("--test", type=float, default=0.1, metavar="X", help="share of the people, or their number")
    split.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: %(default)s)")
    split.add_argument(
        "--family", metavar="REGEX", help="people stay together if this matches the same text in their names"
    )
    split.add_argument("--out", metavar="DIR", help="folder to write (default: <name of PATH>-split here)")
    split.add_argument("--to", choices=_STORAGES, help="storage to write (default: that of PATH)")

    convert = add_command(actions, "convert", _convert, "write faces in another storage, images byte for byte")
    convert.add_argument("path", metavar="A", help=_PATH)
    add_reader_options(convert)
    convert.add_argument("target", metavar="B", help="the folder to write")
    convert.add_argument(
        "--to", choices=_STORAGES, help="storage to write (default: recordio; a folder if A is RecordIO)"
    )
    convert.add_argument("--per-shard", type=int, default=10_000, metavar="N", help="images per shard (%(default)s)")
    convert.add_argument("--shuffle", type=int, metavar="SEED", help="write shards in random order, as training needs")

    add_clean(actions, _PATH, _STORAGES)

    pairs = add_command(actions, "pairs", _pairs, "make a verification set of genuine and impostor pairs, as .bin")
    pairs.add_argument("path", metavar="PATH", help=f"{_PATH}; or pairs to write again: a .bin, .csv or pairs.txt")
    add_reader_options(pairs)
    pairs.add_argument("--out", required=True, metavar="FILE", help="the .bin to write")
    pairs.add_argument("--count", type=int, metavar="N", help="pairs in all (default: 6000, or what is possible)")
    pairs.add_argument("--folds", type=int, default=10, metavar="N", help="of different people (default: %(default)s)")
    pairs.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: %(default)s)")
    pairs.add_argument("--images", metavar="DIR", help="folder of the images of a list of pairs")


def _info(options: argparse.Namespace) -> None:
    from coreface.data import open_faces, open_pairs, sample_sheet, survey_faces
    from coreface.files import write_atomically

    if _is_pairs(options.path):
        if options.samples:
            raise InputError("--samples goes with faces; a list of pairs has no first images of its own")
        _info_of_pairs(open_pairs(options.path, options.images), options)
        return
    source = open_faces(options.path, **reader_options(options))
    survey = survey_faces(source)
    notices = [notice.message for notice in source.notices()]
    if options.samples:
        write_atomically(Path(options.samples), sample_sheet(source))
    if options.json:
        facts = {"format": _format(source), **survey.to_dict(), "notices": notices, "samples": options.samples}
        print(json.dumps(facts, indent=2))
        return
    _print_survey(options.path, source, survey)
    for notice in notices:
        print(f"note: {notice}")
    if options.samples:
        print(f"samples: {options.samples}")


def _print_survey(path: str, source: "FaceSource", survey: "Survey") -> None:
    fewest, median, most = survey.images_per_identity
    print(f"{path}: {_format(source)}, {counted(survey.images, 'image')} of {counted(survey.identities, 'identity')}")
    print(f"images per identity: {fewest} to {most}, median {median:g}")
    widest = max(count for _, _, count in survey.histogram)
    for low, high, count in survey.histogram:
        bar = "#" * round(40 * count / widest)
        print(f"{low if low == high else f'{low} to {high}':>14} | {count:>7} {bar}".rstrip())
    read = survey.looked_at - survey.unreadable
    sizes = ", ".join(f"{size} ({count})" for size, count in list(survey.sizes.items())[:5])
    more = f" and {len(survey.sizes) - 5} other sizes" if len(survey.sizes) > 5 else ""
    looked_at = counted(survey.looked_at, "image")
    print(f"of {looked_at} looked at: {sizes or 'none readable'}{more}; {survey.grey} of {read} are grey")
    if survey.unreadable:
        print(f"{survey.unreadable} of them cannot be read: see coreface data check")


def _info_of_pairs(pairs: "PairSet", options: argparse.Namespace) -> None:
    genuine = int(pairs.same.sum())
    notices = pairs.notices()
    facts = {
        "format": "pairs",
        "pairs": len(pairs),
        "genuine": genuine,
        "impostor": len(pairs) - genuine,
        "folds": pairs.folds,
        "images": pairs.num_images,
        "notices": [{"message": notice.message, "items": notice.items} for notice in notices],
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    of = f"{counted(len(pairs), 'pair')} of {counted(pairs.num_images, 'image')}"
    print(f"{options.path}: {of}, {counted(pairs.folds, 'fold')}")
    print(f"{genuine} genuine, {len(pairs) - genuine} impostor")
    for notice in notices:
        print_some(f"note: {notice.message}", notice.items, file=sys.stderr)


def _check(options: argparse.Namespace) -> int:
    from coreface.data import check_faces, open_faces

    source = open_faces(options.path, **reader_options(options))
    warn_of_crops(source, options.path, source.alignment)
    with show_progress("checking", len(source)) as progress:
        found = check_faces(source, least=options.least, progress=progress)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        _print_check(found)
    return 0 if found.good else 1


def _print_check(found: "Check") -> None:
    of = f"{counted(found.images, 'image')} of {counted(found.identities, 'identity')}"
    print(f"{of}, most of them {found.size or 'unreadable'}")
    for noun, which, lines in (
        ("image", "that cannot be read", found.unreadable),
        ("group", "of the same image within one identity", [" = ".join(group) for group in found.duplicates_within]),
        ("group", "of the same image in several identities", [" = ".join(group) for group in found.duplicates_across]),
        ("identity", "with too few images", [f"{name}: {count}" for name, count in found.small]),
        ("image", "of another size", [f"{place}: {size}" for place, size in found.other_sizes]),
    ):
        if lines:
            print_some(f"{counted(len(lines), noun)} {which}", lines)
    for notice in found.notices:
        print_some(f"note: {notice.message}", notice.items)
    if found.good:
        print("nothing is wrong")


def _split(options: argparse.Namespace) -> None:
    from coreface.data import convert_faces, open_faces, split_by_identity
    from coreface.data.convert import new_folder, storage_of

    source = open_faces(options.path, **reader_options(options))
    test = int(options.test) if options.test >= 1 and options.test == int(options.test) else options.test
    parts = dict(
        zip(("train", "test"), split_by_identity(source, test, seed=options.seed, family=options.family), strict=True)
    )
    storage: Storage = options.to or storage_of(source)
    out = Path(options.out or f"{Path(options.path).stem}-split")
    with new_folder(out) as folder:
        for name, part in parts.items():
            with show_progress(f"writing {name}", len(part)) as progress:
                convert_faces(part, folder / name, storage, progress=progress)
    print_left_out(source)
    for name, part in parts.items():
        print(f"{out / name}: {counted(len(part), 'image')} of {counted(part.num_identities, 'identity')}")


def _convert(options: argparse.Namespace) -> None:
    from coreface.data import convert_faces, open_faces
    from coreface.data.convert import storage_of

    source = open_faces(options.path, **reader_options(options))
    storage: Storage = options.to or ("folder" if storage_of(source) == "recordio" else "recordio")
    with show_progress("converting", len(source)) as progress:
        convert_faces(
            source,
            options.target,
            storage,
            per_shard=options.per_shard,
            shuffle=options.shuffle,
            progress=progress,
        )
    print_left_out(source)
    print(
        f"{options.target}: {storage}, {counted(len(source), 'image')} of {counted(source.num_identities, 'identity')}"
    )


def _pairs(options: argparse.Namespace) -> None:
    from coreface.data import draw_pairs, open_faces, open_pairs, write_bin
    from coreface.data.pairs.pair_set import FOLDS

    out = Path(options.out)
    if out.suffix != ".bin":
        raise InputError(f"--out is {options.out}, expected a name that ends in .bin")
    if _is_pairs(options.path):
        pairs = open_pairs(options.path, options.images)
    else:
        source = open_faces(options.path, **reader_options(options))
        pairs = draw_pairs(source, options.count, folds=options.folds, seed=options.seed)
    write_bin(pairs, out)
    genuine = int(pairs.same.sum())
    of = f"{counted(len(pairs), 'pair')} of {counted(pairs.num_images, 'image')}"
    print(f"{out}: {of}, {genuine} genuine, {counted(pairs.folds, 'fold')}")
    if pairs.folds != FOLDS:
        print(f"note: a .bin does not store its folds; readers assume {FOLDS}", file=sys.stderr)


def _is_pairs(path: str) -> bool:
    return Path(path).suffix.lower() in _PAIRS and not Path(path).is_dir()


def _format(source: "FaceSource") -> str:
    """Return the name of the reader that opened a source."""
    from coreface.data.open import READERS

    return next((name for name in READERS if READERS[name] is type(source)), "folder")
