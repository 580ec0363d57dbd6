"""`coreface cluster`: photographs without names into people."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from coreface.cli.embed import embed_settings
from coreface.cli.pipeline_options import add_detector_options, add_face_options, add_model_options
from coreface.cli.terminal import add_command, show_progress
from coreface.plurals import counted

if TYPE_CHECKING:
    from coreface.recognition.cluster_folder import Clusters


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = "group the faces of photographs without names into people; run again with more photographs to add them"
    cluster = add_command(commands, "cluster", _cluster, text)
    text = "a folder of photographs, at any depth; an image; a .txt with a path a line; RecordIO; a .npz of embed"
    cluster.add_argument("paths", nargs="+", metavar="PATH", help=text)
    text = "the folder to fill: groups.csv (write names into it), faces.csv, groups.html, faces.npz"
    cluster.add_argument("--out", required=True, metavar="FOLDER", help=text)
    text = "false match rate of two single faces, for the thresholds of the calibration (default: 1e-5)"
    cluster.add_argument("--fmr", type=float, default=1e-5, metavar="RATE", help=text)
    text = "of this model and detector (default: next to the model)"
    cluster.add_argument("--calibration", metavar="FILE", help=text)
    cluster.add_argument("--threshold", type=float, metavar="COSINE", help="a cosine to use instead of a calibration")
    text = "faces of one photograph are never one person"
    cluster.add_argument("--once-a-picture", action="store_true", help=text)
    cluster.add_argument("--regroup", action="store_true", help="dissolve the groups without a name, and group again")
    text = "compare the groups with known names: folders, where a photograph's folder is the name of its largest face"
    cluster.add_argument("--names", choices=("folders",), help=text)
    text = "also fill FOLDER/people/NAME-OR-NUMBER/ with links to the photographs, or copies"
    cluster.add_argument("--folders", action="store_true", help=text)
    cluster.add_argument("--json", action="store_true", help="print the groups as JSON")
    cluster.add_argument("--workers", type=int, default=1, metavar="N", help="processes that embed (default: 1)")
    add_model_options(cluster)
    add_face_options(cluster, ("largest", "centre", "only", "all"), default="all")
    add_detector_options(cluster)


def _cluster(options: argparse.Namespace) -> None:
    from coreface.recognition.cluster_files import described, summary_of, write_groups_page, write_people
    from coreface.recognition.cluster_folder import cluster_photographs, count_new

    with show_progress("embedding", count_new(options.paths, options.out)) as progress:
        found = cluster_photographs(
            options.paths,
            options.out,
            embed_settings(options, calibration=options.calibration),
            fmr=options.fmr,
            threshold=options.threshold,
            once=options.once_a_picture,
            regroup=options.regroup,
            workers=options.workers,
            progress=progress,
        )
    folder = Path(options.out)
    lines = [summary_of(found.table), _thresholds(found)]
    if options.names:
        lines.append(_agreement(found))
    page = write_groups_page(found.table, "Groups of faces", lines, folder)
    placed = write_people(found.table, folder) if options.folders else None
    if options.json:
        named = {"agreement": _agreement_values(found)} if options.names else {}
        print(json.dumps({**described(found.table), **named}, indent=2))
        return
    print(f"{folder}: {lines[0]}; {counted(found.added, 'new photograph')}")
    for line in lines[1:]:
        print(line)
    if placed is not None:
        print(f"people: {folder / 'people'}, {placed} photographs")
    print(f"page: {page}")
    print(f"names: write them into {folder / 'groups.csv'}, and run the command again")


def _thresholds(found: "Clusters") -> str:
    grouping = found.table.grouping
    given = "as given" if grouping["fmr"] is None else f"that of an FMR of {grouping['fmr']:g}"
    once = ", one face of a person at most in a photograph" if grouping["once"] else ""
    return f"Groups are merged from a mean cosine of {grouping['threshold']:.3f} on, {given}{once}"


def _agreement(found: "Clusters") -> str:
    def percent(share: float | None) -> str:
        return "unknown" if share is None else f"{100 * share:.2f} %"

    agreement = found.agreement
    return (
        f"Pairwise precision {percent(agreement.precision)} ({agreement.right} of {agreement.grouped} pairs in one "
        f"group have one name), recall {percent(agreement.recall)} (of {agreement.genuine} pairs of one name)"
    )


def _agreement_values(found: "Clusters") -> dict[str, float | int | None]:
    agreement = found.agreement
    return {**vars(agreement), "precision": agreement.precision, "recall": agreement.recall}
