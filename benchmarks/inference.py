"""Images embedded in a second, whatever runs the encoder: torch, onnxruntime and OpenCV side by side, in turn.

    python benchmarks/inference.py [--encoders iresnet50 sface] [--batches 1 16 64] [--rounds 5] [--no-compile]

Encoders have random weights (except sface), images are noise, the mirror image is left out. Each line: the median over
the rounds, the share of the matrix peak in the precision of the products (int8 is held against float32), and the
speed-up over torch in float32, in the same rounds. torch.compile needs a C++ compiler. Nothing else may run beside it.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timing import alternate, machine, matrix_peak, ratio
from torch.utils.flop_counter import FlopCounterMode

import coreface as cf
from coreface.distributed.device import has_bf16_units
from coreface.errors import CoreFaceError
from coreface.images.preprocessing import to_network_input
from coreface.models import onnx_properties as properties
from coreface.models.onnx import OnnxEncoder
from coreface.models.onnx_export import onnx_model
from coreface.models.onnx_quantize import quantized
from coreface.models.onnx_runtime import OnnxRuntime

CPU = torch.device("cpu")
ENCODERS = ("iresnet18", "iresnet50", "iresnet100", "mobilefacenet", "sface")
Candidates = dict[str, Callable[[], object]]


def of_onnx(path: Path | str, runtime: OnnxRuntime, images: NDArray[np.uint8]) -> Callable[[], object]:
    encoder = OnnxEncoder(path, runtime=runtime, threads=torch.get_num_threads())
    return lambda: encoder.embed(images, flip=False, batch_size=len(images))


def exported(encoder: cf.FaceEncoder, folder: Path) -> dict[str, Path]:
    """Write what is compared: float32, float16 and static int8."""
    size = encoder.image_size
    faces = np.random.default_rng(1).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    content = onnx_model(encoder)
    models = {
        "float32": content,
        "float16": quantized(content, "float16"),
        "static int8": quantized(content, "static", faces),
    }
    texts = {
        properties.PREPROCESSING: json.dumps(encoder.preprocessing.to_dict()),
        properties.OUTPUT: "unit",
    }
    paths = {name: folder / f"{name.replace(' ', '_')}.onnx" for name in models}
    for name, path in paths.items():
        path.write_bytes(properties.with_properties(models[name], texts))
    return paths


def compiled(encoder: cf.FaceEncoder, images: NDArray[np.uint8]) -> Callable[[], object]:
    network = torch.compile(encoder)
    pixels = torch.from_numpy(images)

    def run() -> object:
        with torch.inference_mode():
            return torch.nn.functional.normalize(network(to_network_input(pixels))).numpy()

    run()  # compiles, or says why it cannot
    return run


def candidates(
    encoder: cf.FaceEncoder, paths: dict[str, Path], images: NDArray[np.uint8], *, with_compile: bool
) -> Candidates:
    count = len(images)
    found: Candidates = {"torch float32": lambda: encoder.embed(images, flip=False, batch_size=count)}
    if has_bf16_units(CPU):
        found["torch bf16"] = lambda: encoder.embed(images, flip=False, batch_size=count, precision="bf16")
    if with_compile:
        try:
            found["torch.compile"] = compiled(encoder, images)
        except Exception as error:  # whatever the compiler of the machine says
            print(f"  torch.compile: left out ({(str(error).splitlines() or ['no message'])[0][:100]})")
    for name, path in paths.items():
        found[f"onnxruntime {name}"] = of_onnx(path, "onnxruntime", images)
    found["OpenCV float32"] = of_onnx(paths["float32"], "opencv", images)
    return found


def report(name: str, batch: int, operations: int, times: dict[str, list[float]], peaks: dict[str, float]) -> None:
    reference = "torch float32" if "torch float32" in times else next(iter(times))
    print(f"\n{name}, batch {batch}, {len(next(iter(times.values())))} rounds")
    for candidate, taken in times.items():
        middle, peak = statistics.median(taken), peaks["bf16" if candidate.endswith("bf16") else "float32"]
        share = f"{operations * batch / middle / peak:6.1%} of {peak / 1e9:.0f} GFLOP/s" if operations else "-"
        print(
            f"  {candidate:24} {batch / middle:9.1f} images/s  {1000 * middle / batch:8.2f} ms an image  {share:>22}  "
            f"{reference} / this {ratio(times, reference, candidate)}"
        )


def measure(name: str, batches: list[int], size: int, rounds: int, *, with_compile: bool) -> None:
    peaks = {"float32": matrix_peak(torch.float32, CPU)}
    if has_bf16_units(CPU):
        peaks["bf16"] = matrix_peak(torch.bfloat16, CPU)
    rng = np.random.default_rng(0)
    if name == "sface":
        for batch in batches:
            images = rng.integers(0, 256, (batch, 112, 112, 3), dtype=np.uint8)
            runs: Candidates = {
                "OpenCV int8 weights": of_onnx("sface", "opencv", images),
                "onnxruntime int8 weights": of_onnx("sface", "onnxruntime", images),
            }
            report(name, batch, 0, alternate(runs, rounds), peaks)
        return
    encoder = cf.FaceEncoder(name, image_size=size).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder(torch.zeros(1, 3, size, size))
    with tempfile.TemporaryDirectory() as folder:
        paths = exported(encoder, Path(folder))
        sizes = ", ".join(f"{kind} {path.stat().st_size / 1e6:.1f} MB" for kind, path in paths.items())
        print(f"\n{name}: {counter.get_total_flops() / 1e9:.2f} GFLOP an image; {sizes}")
        for batch in batches:
            images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
            runs = candidates(encoder, paths, images, with_compile=with_compile)
            report(name, batch, counter.get_total_flops(), alternate(runs, rounds), peaks)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64], metavar="N")
    parser.add_argument("--size", type=int, default=112, help="side of the images in pixels (default: 112)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    print(machine())
    for encoder_name in options.encoders:
        try:
            measure(encoder_name, options.batches, options.size, options.rounds, with_compile=not options.no_compile)
        except CoreFaceError as error:
            parser.error(f"{encoder_name}: {error}")
