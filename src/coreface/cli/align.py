"""`coreface align`: photographs of people become aligned crops."""

import argparse
from pathlib import Path

from coreface.cli.pipeline_options import add_detector_options, add_face_options, add_quality_option
from coreface.cli.terminal import add_command, show_progress


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    align = add_command(commands, "align", _align, "find and align the faces of people; resumes after an interruption")
    align.add_argument("photographs", metavar="PHOTOS", help="a folder <identity>/<photograph>")
    align.add_argument("aligned", metavar="ALIGNED", help="the folder to fill: crops, rejects.csv, samples.png")
    add_face_options(align, ("largest", "only", "centre", "all", "consistent"))
    text = "of --face consistent, which resembles the person's others: a run, a saved encoder, an .onnx file, or sface"
    align.add_argument("--model", metavar="MODEL", help=text)
    add_quality_option(align)
    align.add_argument("--size", type=int, default=112, metavar="N", help="side of a crop in pixels (default: 112)")
    text = "how crops are stored (default: jpg, one file each)"
    align.add_argument("--format", choices=("jpg", "png", "recordio", "shards"), default="jpg", help=text)
    text = "fill outside the photograph: black, as for public weights, or replicate its edge (default: black)"
    align.add_argument("--border", choices=("black", "replicate"), default="black", help=text)
    align.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    add_detector_options(align)


def _align(options: argparse.Namespace) -> None:
    from coreface.images.alignment import Alignment
    from coreface.recognition.align_folder import AlignSettings, align_folder, list_photographs

    settings = AlignSettings(
        options.detector,
        options.face,
        options.min_eyes,
        options.size,
        Alignment(border=options.border),
        options.max_side,
        options.rotations,
        options.format,
        options.quality,
        options.model,
        tuple(options.imports),
    )
    # Every photograph is looked at twice for the consistent face.
    total = len(list_photographs(Path(options.photographs))) * (2 if options.model else 1)
    with show_progress("aligning", total) as progress:
        found = align_folder(options.photographs, options.aligned, settings, workers=options.workers, progress=progress)
    before = f", {found.done_before} of them done before" if found.done_before else ""
    print(f"{options.aligned}: {found.crops} crops of {found.photographs} photographs{before}")
    if found.rejects:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.rejects.items())
        print(f"without a crop: {sum(found.rejects.values())} ({reasons}), listed in rejects.csv")
