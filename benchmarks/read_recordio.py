"""Reading and decoding RecordIO to uint8 RGB, against MXNet, Pillow, and the JPEG decoder alone.

    python benchmarks/read_recordio.py packed --mxnet /path/to/venv/bin/python

The same file and the same order for all, candidates in turn, medians of the rounds. MXNet wants an old Python
environment of its own (mxnet==1.9.1 and numpy==1.23.5): its rows are left out where --mxnet, or the variable
COREFACE_MXNET_PYTHON, names none.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context

import cv2
import numpy as np

from coreface.data import FaceSource, RecordReader, RecordSource
from coreface.runs.folder import environment

MXNET = """
import sys, time
import mxnet as mx
path, count = sys.argv[1], int(sys.argv[2])
keys = [int(word) for word in sys.stdin.readline().split()]
reader = mx.recordio.MXIndexedRecordIO(path[:-4] + ".idx", path, "r")
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    for key in keys:
        header, image = mx.recordio.unpack(reader.read_idx(key))
        mx.image.imdecode(image).asnumpy()
    print(time.perf_counter() - start, flush=True)
"""


def timed(read: Callable[[int], object], order: list[int]) -> float:
    start = time.perf_counter()
    for index in order:
        read(index)
    return time.perf_counter() - start


def pillow_read(reader: RecordReader, positions: list[int]) -> Callable[[int], object]:
    from PIL import Image

    def read(index: int) -> object:
        return np.asarray(Image.open(io.BytesIO(reader[positions[index]].image)).convert("RGB"))

    return read


class Pair:
    """Two workers, each with half of the images of every round."""

    def __init__(self, source: FaceSource, order: list[int]) -> None:
        context = get_context("fork")
        self._pipes = []
        for part in (order[::2], order[1::2]):
            here, there = context.Pipe()
            context.Process(target=self._work, args=(source, part, there), daemon=True).start()
            self._pipes.append(here)

    @staticmethod
    def _work(source: FaceSource, order: list[int], pipe: object) -> None:
        while True:
            pipe.recv()  # type: ignore[attr-defined]
            timed(source.__getitem__, order)
            pipe.send(None)  # type: ignore[attr-defined]

    def round(self) -> float:
        start = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(None)
        for pipe in self._pipes:
            pipe.recv()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a .rec, or the folder that holds it")
    parser.add_argument("--images", type=int, default=3000, help="how many, drawn over the file")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--mxnet", default=os.environ.get("COREFACE_MXNET_PYTHON"), help="a Python that has MXNet")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    source = RecordSource(options.path)
    reader = RecordReader(options.path)
    order = np.random.default_rng(0).permutation(len(source))[: options.images].tolist()
    positions = [reader.position(int(source.locate(i).split("key ")[1].split()[0])) for i in range(len(source))]
    stored = {index: np.frombuffer(source.encoded(index), np.uint8) for index in order}
    for index in order[:100]:
        if not np.array_equal(source[index][0], cv2.imdecode(stored[index], cv2.IMREAD_COLOR_RGB)):
            sys.exit(f"{source.locate(index)}: the decoder alone gives other pixels")
    pair = Pair(source, order)
    runs: dict[str, Callable[[], float]] = {
        "coreface": lambda: timed(source.__getitem__, order),
        "coreface, two workers": pair.round,
        "JPEG decoder alone (OpenCV, from memory)": lambda: timed(
            lambda index: cv2.imdecode(stored[index], cv2.IMREAD_COLOR_RGB), order
        ),
    }
    try:
        read = pillow_read(reader, positions)
        runs["Pillow"] = lambda: timed(read, order)
    except ImportError:
        print("Pillow is not installed: left out")
    if options.mxnet:
        words = [options.mxnet, "-c", MXNET, str(reader.path), str(len(order))]
        mxnet = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        ask, answer = mxnet.stdin, mxnet.stdout
        assert ask is not None
        assert answer is not None
        ask.write(" ".join(str(reader.key(positions[index])) for index in order) + "\n")
        if answer.readline() != "ready\n":
            sys.exit("MXNet did not start")

        def mxnet_round() -> float:
            ask.write("go\n")
            return float(answer.readline())

        runs["MXNet (MXIndexedRecordIO, imdecode)"] = mxnet_round
    else:
        print("no Python with MXNet given (--mxnet): left out")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if number:  # the first round warms the caches
                times[name].append(seconds)
    described = environment()
    print(f"{described['processor']}, OpenCV {described['opencv']}; {len(order)} images of {reader.path.name}")
    for name, seconds in times.items():
        pairs = [other / own for own, other in zip(times["coreface"], seconds, strict=True)]
        print(
            f"{name:42} {len(order) / statistics.median(seconds):8.0f} images/s   coreface is "
            f"{statistics.median(pairs):.3f} times as fast ({min(pairs):.3f} to {max(pairs):.3f})"
        )


if __name__ == "__main__":
    main()
