"""Every program in benchmarks/ runs, here on something tiny, and prints the rows that it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from coreface.data import RecordWriter
from coreface.data.orl import OrlSource
from support import toy_images

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SECONDS = 1200  # more than any of them takes on a busy machine
TIME, RATIO = r"\d+\.\d+ s", r"\d+\.\d+ \(\d+\.\d+ to \d+\.\d+\)"
SPEED = r"\d+\.\d images/s +\d+\.\d+ ms an image"


class Run(NamedTuple):
    """A program, its arguments, and patterns of its rows.

    In the arguments FACES stands for a folder of images, RECORDS for a .rec, KEPT for a folder of embeddings.
    """

    program: str
    arguments: str
    rows: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.program} {self.arguments}"


def with_precisions(program, arguments, *rows):
    """Return a run in float32 and one in bf16; the heading names the dtype."""
    return [
        Run(program, f"{arguments} --precision {precision}", (rf".*\btorch\.{dtype}\b", *rows))
        for precision, dtype in (("float32", "float32"), ("bf16", "bfloat16"))
    ]


def classifier(option, dtype):
    return Run(
        "classifier_memory_speed.py",
        f"--identities 600 --rounds 1 {option}",
        (
            rf"600 identities, batch 128, 2 views, torch\.{dtype}, 1 rounds",
            *(rf"  {name} +{TIME} +-?\d+\.\d+ GiB" for name in ("dense", "dense, joined", "coreface", "3 sub-centres")),
            rf"  products +{TIME}",
            rf"  coreface / products +{RATIO} +goal",
            rf"  3 sub-centres / coreface +{RATIO} +goal 3.2 +memory by docs",
            *(rf"  {name} / coreface +{RATIO} +goal 5 +memory" for name in ("dense", "dense, joined")),
        ),
    )


STEP = "--backbone mobilefacenet --batch 2 --rounds 1"
RUNS = [
    *with_precisions(
        "method_overhead.py",
        f"--batches 128 {STEP}",
        rf"  batch +128 +bare +\d+\.\d+ ms +CoReFaceLoss +\d+\.\d+ ms +ratio {RATIO} +bound 3\.00: (kept|EXCEEDED)",
        rf"  ArcFace +{TIME} +\d+\.\d images/s",
        rf"  CoReFace +{TIME} +\d+\.\d images/s",
        rf"  CoReFace / ArcFace +{RATIO} +bound 1\.03: (kept|EXCEEDED)",
    ),
    *with_precisions(
        "train_throughput.py",
        "--backbones mobilefacenet --batch 2 --rounds 1",
        rf"  naive +{TIME} +\d+\.\d images/s +\d+\.\d% of \d+ GFLOP/s +naive / this {RATIO}",
        rf"  coreface +{TIME} +\d+\.\d images/s +\d+\.\d% of \d+ GFLOP/s +naive / this {RATIO}",
        *(
            rf"    {re.escape(part)} +{TIME} +\d+\.\d%"
            for part in (
                "data (decode, collate)",
                "trunk, forward",
                "trunk, both ways",
                "embedding layer",
                "classifier and loss",
                "clip and optimizer",
            )
        ),
    ),
    *with_precisions(
        "checkpoint_cost.py",
        STEP,
        rf"  a step alone +{TIME}",
        rf"  the copy, while the training waits +{TIME}",
        rf"  until it is on the disk, beside it +{TIME}",
        r"  the steps beside it take longer by +-?\d+\.\d+ s",
        rf"  until it is on the disk, waiting +{TIME}",
        r"  asynchronous +\d+\.\d+ % \(\d+\.\d+ to \d+\.\d+\) +goal 1",
        r"  synchronous +\d+\.\d+ % \(\d+\.\d+ to \d+\.\d+\)",
    ),
    *with_precisions(
        "loader_wait.py",
        "FACES --backbone mobilefacenet --batch 2 --workers 1 --steps 2",
        rf"mobilefacenet, batch 2, torch.\w+, 1 workers: a step {TIME} \(\d+\.\d images/s\); waiting \d+\.\d+% of it",
        r"  loader alone, flips only +\d+\.\d images/s",
        r"  loader alone, everything of data\.augment +\d+\.\d images/s",
        rf"  rate with everything / with flips only +{RATIO} +goal 0\.5",
    ),
    Run(
        "demo_combinations.py",
        "--precisions float32 --threads 1 --seeds 1 --folds 0 --epochs 1",
        (
            r"raw pixels +6\.\d\d +mean",
            r"float32, 1 threads, seed 1 +\d+\.\d\d +mean +\d+\.\d\d +\d+\.\d s",
            r"mean / raw pixels \d+\.\d+ +goal 0\.65",
            r"single folds below raw pixels [01] of 1",
        ),
    ),
    Run(
        "few_people.py",
        "orl --draws 0 --groups 1 --optimizer.epochs 1 --optimizer.warmup_epochs 0",
        (r"draw 0: EER \d+\.\d\d %, raw pixels \d+\.\d\d %, ratio \d+\.\d+; \d+\.\d s of the processor",),
    ),
    classifier("", "float32"),
    classifier("--bf16", "bfloat16"),
    Run(
        "evaluation_speed.py",
        "--small --rounds 1",
        (
            r"10 folds of 6 000 pairs",
            r"TAR at 6 FARs of 157000 scores",
            r"4700 images into 230 templates \(50 of them by masks\)",
            r"open-set search of 195 probes in 35 entries",
            rf"  straightforward / ours +{RATIO} +goal",
            rf"  ours / bare product +{RATIO} +goal <= 1\.3",
        ),
    ),
    Run(
        "interval_coverage.py",
        "--trials 2 --identities 20 --replicates 20",
        tuple(
            rf" +20 +{name} +{kind} +\d+\.\d % +\d+\.\d % +\d+\.\d % +\d+\.\d+"
            for name in ("FMR at a threshold", "FNMR at a threshold", r"TAR at FAR 0\.01")
            for kind in ("ours", "percentile", "independent pairs")
        ),
    ),
    Run(
        "study_coverage.py",
        "--trials 2 --seeds 3",
        tuple(
            row
            for spread in ("seeds", "mixed", "people", "people in a seed")
            for row in (rf"{spread} +3( +\d+\.\d % \(\d+\.\d+\)){{3}}", rf"{spread} +3 +\d+\.\d % +\d+\.\d %")
        ),
    ),
    Run(
        "open_index.py",
        "--records 2000 --rounds 1",
        (
            rf"RecordReader +{TIME} +[+-]\d+\.\d MiB +\(\d+ long\)",
            rf"RecordSource, by its index of identities +{TIME} +[+-]\d+\.\d MiB +\(\d+ long\)",
            rf"RecordSource, by the headers of all records +{TIME} +[+-]\d+\.\d MiB +\(2000 long\)",
        ),
    ),
    Run(
        "read_recordio.py",
        "RECORDS --images 8 --rounds 1",
        tuple(
            rf"{name} +\d+ images/s +coreface is \d+\.\d+ times as fast"
            for name in ("coreface", "coreface, two workers", r"JPEG decoder alone \(OpenCV, from memory\)", "Pillow")
        ),
    ),
    Run(
        "step_cost.py",
        "",
        tuple(
            rf"\| {count} \| {world_size} (\| [\d.]+ ){{7}}\|"
            for count in ("85 742", "100 M")
            for world_size in (1, 512)
        ),
    ),
    Run(
        "gallery_promise.py",
        "KEPT --splits 1",
        tuple(
            rf" +{size} +{kind} +{asked}( +-?\d+\.\d+%){{6}}"
            for size in (30, 300, 1030)
            for kind in ("1 mean", "5 mean", "5 best")
            for asked in (r"T=0\.363", "10 %", "5 %")
        ),
    ),
    Run(
        "gallery.py",
        "OUT.db --people 300 --size 32 --rounds 2",
        (
            r"300 people x 32 numbers",
            r"store all of them +\d+\.\d s",
            r"identify one +\d+\.\d+ ms, \d+\.\d+ of the bare product",
            r"identify 200 at once +\d+\.\d+ ms each, .* right \d+\.\d %",
            r"memory above the process +-?\d+\.\d+ GB",
            r"enrol one +\d+\.\d+ ms",
            r"delete one +\d+\.\d+ ms",
        ),
    ),
    Run(
        "cluster.py",
        "--faces 300 --size 32 --fmr 1e-4",
        (
            r"FMR 0\.0001: cosine 0\.\d+",
            r"300 faces x 32 +\d+\.\d s, .* precision \d+\.\d\d %, recall \d+\.\d\d %  \d+ groups of \d+ people",
            r"  30 of them added +\d+\.\d s, .* precision \d+\.\d\d %",
        ),
    ),
    Run(
        "forget.py",
        "FORGET.db --tries 2",
        (
            r"2 deletions in \d+ s",
            r"found afterwards through the other service: 0$",
            r"pieces of 16 bytes left: 0 of [1-9]\d+; .* before the deletion: 0$",
        ),
    ),
    Run(
        "serve_mixed.py",
        "--requests 80",
        (
            r" +80 requests +\d+\.\d MiB",
            r"POST +/v1/verify +200 +\d+",
            r"0 answers of 500 or more except 503; memory at the end \d\.\d{3} of",
        ),
    ),
    Run("kill_gallery.py", "KILLED.db --kills 2", (r" +1  \d+ changes done  as promised", r"2 of 2 as promised; \d+")),
    Run(
        "calibrate_sface.py",
        "PHOTOS PHOTOS --kept KEPT --out OUT",
        (r"\d+ photographs that show somebody else", r"target 0\.001  fmr [\d.e-]+ .* false_non_matches \d+"),
    ),
    Run(
        "inference.py",
        "--encoders mobilefacenet sface --batches 1 2 --size 16 --rounds 1 --no-compile",
        (
            r"mobilefacenet: \d+\.\d+ GFLOP an image; float32 \d+\.\d MB, float16 \d+\.\d MB, static int8 \d+\.\d MB",
            *(
                rf"  {name} +{SPEED} +\d+\.\d% of \d+ GFLOP/s +torch float32 / this {RATIO}"
                for name in ("torch float32", "onnxruntime float16", "onnxruntime static int8", "OpenCV float32")
            ),
            rf"  onnxruntime int8 weights +{SPEED} +- +OpenCV int8 weights / this {RATIO}",
        ),
    ),
    Run(
        "pipeline.py",
        "PORTRAITS --count 8 --rounds 1",
        (
            *(
                rf"{re.escape(way)} +\d+\.\d photographs/s, .*; EER .*; to the loop at 640: smallest cosine"
                for way in ("plain loop, full size", "plain loop, 640", "pipeline", "coreface embed, 2 workers")
            ),
            r"shares: decode \d+\.\d ms .*, detect .*, align .*, embed ",
        ),
    ),
    Run(
        "pipeline_accuracy.py",
        "PORTRAITS --kept KEPT",
        (
            r"yunet: \d+ embedded, not any; EER ",
            r"without alignment: 8 embedded, not any; EER ",
            r"left and right exchanged: 8 embedded, not any; EER ",
            r"  align refuses 8 of these 8",
        ),
    ),
    Run(
        "kill_runs.py",
        "--runs 1",
        (r"undisturbed: .* \d+ steps, \d+ checkpoints", r" 1  identical", r"1 of 1 identical"),
    ),
    Run("null_studies.py", "--studies 1", (r"study +difference of the EER", r"[01] of 1 p-values below 0\.05")),
    Run(
        "kill_study.py",
        "orl_small --kills 1 --seeds 1 --data.image_size 16 --optimizer.epochs 27",
        (r"kill 1: after \d+ of \d+ rows", r"the same result to the last bit"),
    ),
    Run(
        "group_pictures.py",
        "PHOTOS PHOTOS --kept KEPT",
        (r"   50 %      50 % +\d+   largest +\d+\.\d %   consistent +\d+\.\d %   undecided .* EER .* -> ",),
    ),
    Run(
        "quality_curves.py",
        "PORTRAITS --kept KEPT --replicates 20",
        (
            r"8 photographs are damaged for the second set",
            r"as they are, sface",
            r"graded damage, sface",
            r"eyes +(-|\d+\.\d{3}) ",
            r"  strict +\d+\.\d %",
            r"  sharpness +\d+\.\d{3}",
        ),
    ),
    Run(
        "near_duplicates.py", "FACES FACES", (r"12 test images against 12 training images", r"at least 0\.99: +12 test")
    ),
    Run(
        "clean_labels.py",
        "orl --share 0.05 --model PEOPLE --good-lost 0.01",
        (
            r"400 images of 40 identities, 20 with a label of somebody else",
            r" +1\.000% +\d+ +\d+\.\d% \( +\d+\.\d%\) +\d+\.\d% +\d\.\d\d% \( +\d\.\d\d%\) +5\.00% \( +\d+\.\d\d%\)",
        ),
    ),
    Run("kill_processes.py", "--runs 1", (r" 1  1-2-4-1  same batches", r"1 of 1 as promised")),
    Run(
        "serve_load.py",
        "--seconds 1 --clients 2",
        tuple(
            rf"  2 clients  {name} +\d+\.\d requests/s  p50 \d+ ms  p95 \d+ ms  p99 \d+ ms  \d+ MB  refused 0"
            for name in ("naive", "coreface serve")
        ),
    ),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return what stands for the names in the arguments: faces of four people, as files and as records."""
    folder = tmp_path_factory.mktemp("faces")
    files = [folder / f"person{i // 3}" / f"{i % 3}.jpg" for i in range(12)]
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(toy_images.encode(toy_images.noise(str(path.name), 112, 112), ".jpg"))
    records = tmp_path_factory.mktemp("records") / "train.rec"
    with RecordWriter(records, identities=True) as writer:
        for i, path in enumerate(files):
            writer.write(path.read_bytes(), i // 3)
    kept = tmp_path_factory.mktemp("kept")
    write_embeddings(kept / "yunet_photos.npz", [f"person{i // 6}/{i % 6}.jpg" for i in range(480)], 6)
    write_embeddings(kept / "yunet_strangers.npz", [f"stranger{i}.jpg" for i in range(2990)], 1)
    portraits = tmp_path_factory.mktemp("portraits")
    for person in range(4):
        (portraits / f"s{person}").mkdir()
        for image in range(2):
            face = OrlSource()[10 * person + image][0]
            picture = np.pad(np.repeat(np.repeat(face, 2, 0), 2, 1), ((30, 30), (60, 60), (0, 0)), constant_values=110)
            (portraits / f"s{person}" / f"{image}.jpg").write_bytes(toy_images.encode(picture, ".jpg"))
    people = tmp_path_factory.mktemp("people") / "people.npz"
    np.savez(people, embeddings=np.random.default_rng(0).standard_normal((40, 32)).repeat(10, axis=0) + 0.1)
    return {
        "FACES": str(folder),
        "PORTRAITS": str(portraits),
        "RECORDS": str(records),
        "KEPT": str(kept),
        "PHOTOS": str(folder),
        "OUT": str(kept / "calibration.json"),
        "OUT.db": str(kept / "gallery.db"),
        "KILLED.db": str(kept / "killed.db"),
        "FORGET.db": str(kept / "forget.db"),
        "PEOPLE": str(people),
    }


def write_embeddings(path, names, photographs):
    """Keep unit vectors of so many photographs a person, near each other, as calibrate_sface.py does."""
    rng = np.random.default_rng(len(names))
    people = rng.standard_normal((len(names) // photographs, 32)).repeat(photographs, axis=0)
    embeddings = people + 0.3 * rng.standard_normal(people.shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    none = np.array([], dtype=np.str_)
    np.savez(path, names=np.array(names), embeddings=embeddings.astype(np.float32), failed=none, reasons=none)


def test_every_program_has_a_run():
    programs = {path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert programs == {run.program for run in RUNS}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_tiny_run_prints_its_rows(run, places):
    words = [places.get(word, word) for word in run.arguments.split()]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / run.program), *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for row in run.rows:
        assert re.search(f"^{row}", done.stdout, re.MULTILINE), f"no row {row!r} in:\n{done.stdout}"
