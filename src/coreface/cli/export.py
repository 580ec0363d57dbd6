"""`coreface export`: an encoder as an ONNX file, checked against torch."""

import argparse
import json
from typing import TYPE_CHECKING

from coreface.cli.terminal import add_command

if TYPE_CHECKING:
    from coreface.runs.export import Export


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    text = (
        "write an encoder as an ONNX file: uint8 RGB images (batch, size, size, 3) in, unit-length embeddings out; it "
        "is checked against torch on faces, and written only if it passes"
    )
    export = add_command(commands, "export", _export, text)
    export.add_argument("model", metavar="RUN", help="a run, a saved encoder, or a weight file with --backbone")
    export.add_argument("out", metavar="FILE", help="the .onnx to write")
    export.add_argument("--flip", action="store_true", help="add the mirrored image's embedding inside the model")
    text = (
        "static: int8 products, fastest; float16: weights in half the bytes; dynamic: uint8 weights, no faces needed; "
        "each needs a new calibration afterwards"
    )
    export.add_argument("--quantize", choices=("static", "float16", "dynamic"), help=text)
    text = "faces on which the scales of --quantize static are measured (default: training images of the run)"
    export.add_argument("--calibration-faces", metavar="PATH", help=text)
    text = "the network alone: float (batch, 3, size, size) in, embeddings of any length out"
    export.add_argument("--raw", action="store_true", help=text)
    text = "faces on which the export is checked (default: the run's held-out people, or the ORL faces)"
    export.add_argument("--faces", metavar="PATH", help=text)
    text = "largest number of faces on which a quantised export is checked (default: 500)"
    export.add_argument("--check-images", type=int, metavar="N", help=text)
    export.add_argument("--licence", metavar="TEXT", help="a note on the terms of the weights, kept in the file")
    text = "the network of a weight file (.pth), such as iresnet50"
    export.add_argument("--backbone", metavar="NAME", help=text)
    export.add_argument("--json", action="store_true", help="print the result of the check as JSON")


def _export(options: argparse.Namespace) -> None:
    from coreface.runs.export import export_onnx

    names = ("flip", "raw", "quantize", "calibration_faces", "faces", "check_images", "licence", "backbone")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    written = export_onnx(options.model, options.out, **chosen)
    if options.json:
        found = {"path": str(written.path), "size": written.size, "digest": written.digest}
        print(json.dumps({**found, "check": written.check.to_dict()}, indent=2))
    else:
        _print(written, options.quantize)


def _print(written: "Export", quantize: str | None) -> None:
    check = written.check
    sizes = ", ".join(map(str, check.batch_sizes))
    print(f"{written.path}: {written.size / 1e6:.1f} MB, {quantize or 'float32'}, digest {written.digest[:12]}")
    print(f"checked on {check.images} images of {check.identities} people ({check.faces})")
    print(f"  largest difference to torch {check.largest_difference:.1e} (batch sizes {sizes})")
    print(f"  cosine to torch: smallest {check.smallest_cosine:.5f}, median {check.median_cosine:.5f}")
    if check.tar is not None:
        tar, interval = check.tar, ""
        if tar.low is not None and tar.high is not None:
            interval = f" (95 % interval {100 * tar.low:+.2f} to {100 * tar.high:+.2f})"
        rates = f"{100 * tar.export:.2f} %, torch {100 * tar.source:.2f} %"
        print(f"  TAR at FAR 1e-2: {rates}, change in points {100 * tar.difference:+.2f}{interval}")
    elif check.tar_note:
        print(f"  change of TAR: not measured ({check.tar_note})")
    by_opencv = check.opencv if isinstance(check.opencv, str) else f"largest difference {check.opencv:.1e}"
    print(f"  OpenCV: {by_opencv}")
    if quantize:
        print("the thresholds of its source do not apply to it: calibrate it with coreface calibrate")
