"""`coreface embed`: the embeddings of many photographs in a file."""

import argparse
from typing import TYPE_CHECKING, Any

from coreface.cli.embedding_options import given_preprocessing
from coreface.cli.pipeline_options import add_detector_options, add_face_options, add_model_options
from coreface.cli.terminal import add_command, show_progress
from coreface.errors import InputError

if TYPE_CHECKING:
    from coreface.recognition.embed_parts import Embedded, EmbedSettings


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
    embed.add_argument("--workers", type=int, default=1, metavar="N", help="processes, or Ray's actors (default: 1)")
    text = "embed share I of N only, into FILE.shard-I-of-N.npz; run the others elsewhere, then --merge"
    embed.add_argument("--shard", metavar="I/N", help=text)
    text = "the paths are the files of all shards: check them, and write one file"
    embed.add_argument("--merge", action="store_true", help=text)
    text = "what runs the workers: processes, or ray, on the cluster at RAY_ADDRESS or here (default: processes)"
    embed.add_argument("--engine", choices=("processes", "ray"), default="processes", help=text)
    add_model_options(embed)
    add_face_options(embed, ("largest", "centre", "only", "all"))
    add_detector_options(embed)


def _embed(options: argparse.Namespace) -> None:
    from coreface.recognition.embed_folder import count_photographs, embed_paths
    from coreface.recognition.embed_shards import Shard, merge_shards

    if options.merge:
        if options.shard:
            raise InputError("--merge joins shards, --shard makes one: expected one of them")
        _print(merge_shards(options.paths, options.out))
        return
    shard = None if options.shard is None else Shard.parse(options.shard)
    with show_progress("embedding", count_photographs(options.paths, shard)) as progress:
        found = embed_paths(
            options.paths,
            options.out,
            embed_settings(options, flip=not options.no_flip),
            workers=options.workers,
            progress=progress,
            shard=shard,
            engine=options.engine,
        )
    _print(found)


def embed_settings(options: argparse.Namespace, **more: Any) -> "EmbedSettings":
    """Return the pipeline that the options describe."""
    from coreface.recognition.embed_parts import EmbedSettings

    chosen = {
        "max_side": options.max_side,
        "rotations": options.rotations,
        "alignment": options.alignment,
        "preprocessing": given_preprocessing(options),
        "face": options.face,
        "min_eyes": options.min_eyes,
        **more,
    }
    return EmbedSettings(options.model, options.detector, chosen, tuple(options.imports))


def _print(found: "Embedded") -> None:
    before = f", {found.done_before} of them done before" if found.done_before else ""
    print(f"{found.file}: {found.embedded} of {found.photographs} photographs embedded{before}")
    for reason, count in found.reasons.items():
        print(f"  {count} not: {reason}")
