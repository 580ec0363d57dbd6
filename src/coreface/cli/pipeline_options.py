"""What the commands on photographs have in common: the encoder, the detector, the alignment."""

import argparse
from typing import TYPE_CHECKING, Any

from coreface.cli.embedding_options import PREPROCESSING_HELP, given_preprocessing

if TYPE_CHECKING:
    from coreface.recognition.pipeline import FacePipeline


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add how faces are found."""
    parser.add_argument(
        "--detector", default="yunet", metavar="NAME", help="yunet, centerface, or its .onnx file (default: yunet)"
    )
    text = "longest side in pixels of the detector's input (default: 640)"
    parser.add_argument("--max-side", type=int, default=640, metavar="N", help=text)
    parser.add_argument("--rotations", action="store_true", help="try photographs in four orientations")


def add_face_options(parser: argparse.ArgumentParser, choices: tuple[str, ...], default: str = "largest") -> None:
    """Add which faces are meant, and which are good enough."""
    text = f"which face of a photograph is used (default: {default})"
    parser.add_argument("--face", choices=choices, default=default, help=text)
    text = "pixels between the eyes of the smallest face that is used (default: 20)"
    parser.add_argument("--min-eyes", type=float, default=20.0, metavar="N", help=text)


def add_quality_option(parser: argparse.ArgumentParser) -> None:
    """Add by which limits a face is good enough."""
    text = (
        "limits of the faces that are used: off, standard or strict, as docs/quality.md defines them (default: off, "
        "--min-eyes alone)"
    )
    parser.add_argument("--quality", choices=("off", "standard", "strict"), default="off", help=text)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what embeds."""
    parser.add_argument(
        "--model",
        default="sface",
        metavar="MODEL",
        help="a run, a saved encoder, an .onnx file, or sface (the default)",
    )
    parser.add_argument("--preprocessing", metavar="FILE", help=PREPROCESSING_HELP)
    text = "alignment of the encoder's training crops, if it is not recorded: arcface"
    parser.add_argument("--alignment", metavar="NAME", help=text)


def open_pipeline(options: argparse.Namespace, **more: Any) -> "FacePipeline":
    """Open the pipeline that the options describe."""
    from coreface.recognition.pipeline import FacePipeline

    return FacePipeline.from_pretrained(
        options.model,
        options.detector,
        max_side=options.max_side,
        rotations=options.rotations,
        alignment=options.alignment,
        preprocessing=given_preprocessing(options),
        **more,
    )
