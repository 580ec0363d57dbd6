"""`coreface embed`: the embeddings of many photographs in a file."""

import argparse

from coreface.cli.embedding_options import given_preprocessing
from coreface.cli.pipeline_options import add_detector_options, add_face_options, add_model_options
from coreface.cli.terminal import add_command, show_progress


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = "embed photographs into a .npz, one row each, with the reason if it failed; resumes after an interruption"
    embed = add_command(commands, "embed", _embed, text)
    embed.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="an image, a folder of images or of people, RecordIO, tar shards, or a .txt with one path per line",
    )
    embed.add_argument("--out", required=True, metavar="FILE", help="the .npz to write")
    embed.add_argument("--no-flip", action="store_true", help="do not add the mirrored image's embedding")
    embed.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    add_model_options(embed)
    add_face_options(embed, ("largest", "centre", "only"))
    add_detector_options(embed)


def _embed(options: argparse.Namespace) -> None:
    from coreface.recognition.embed_folder import EmbedSettings, count_photographs, embed_paths

    chosen = {
        "max_side": options.max_side,
        "rotations": options.rotations,
        "alignment": options.alignment,
        "preprocessing": given_preprocessing(options),
        "face": options.face,
        "min_eyes": options.min_eyes,
        "flip": not options.no_flip,
    }
    settings = EmbedSettings(options.model, options.detector, chosen, tuple(options.imports))
    with show_progress("embedding", count_photographs(options.paths)) as progress:
        found = embed_paths(options.paths, options.out, settings, workers=options.workers, progress=progress)
    before = f", {found.done_before} of them done before" if found.done_before else ""
    print(f"{options.out}: {found.embedded} of {found.photographs} photographs embedded{before}")
    for reason, count in found.reasons.items():
        print(f"  {count} not: {reason}")
