"""How many exchanged labels `coreface data clean` finds: precision, recall, and whether its promise is kept.

python benchmarks/clean_labels.py fiw/train.rec --holdout 0.1 --write work          # writes work/dirty and others
coreface train recipes/fiw_small.yaml --data.train work/dirty --evaluation.faces work/heldout --run runs/dirty
python benchmarks/clean_labels.py fiw/train.rec --holdout 0.1 --model runs/dirty    # the same labels are exchanged

A share of the images, drawn by the seed, pass their labels round among themselves, so that each of them is wrong. With
--write, the faces with these labels (dirty), with those they had (true), and the people held out of both (heldout) are
written as RecordIO. With --model, for each --good-lost one row says what is listed, and with --list FILE the list of
the first one is written, for `coreface data clean work/dirty --apply FILE --out work/cleaned`.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreface.data import convert_faces, open_faces, split_by_identity
from coreface.data.corrections import write_corrections
from coreface.data.source import FaceSource, Selection
from coreface.evaluation.cleaning import find_label_errors
from coreface.evaluation.suggested_corrections import suggest_corrections
from coreface.runs.evaluation import open_source


def exchange(identities: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Return labels of which a share is passed round among images of different identities."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(identities), round(share * len(identities)), replace=False)
    passed = rng.permutation(identities[chosen])
    while (same := np.flatnonzero(passed == identities[chosen])).size:
        for place in same:
            other = rng.integers(len(chosen))
            passed[[place, other]] = passed[[other, place]]
    exchanged = identities.copy()
    exchanged[chosen] = passed
    return exchanged


def with_labels(source: FaceSource, labels: NDArray[np.int64]) -> Selection:
    """Return the faces under other labels, identity by identity."""
    order = np.argsort(labels, kind="stable")
    return Selection(source, order, labels[order], source.identity_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="the faces, whose labels are taken to be right")
    parser.add_argument("--share", type=float, default=0.03, help="of the labels that are exchanged (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the exchange (%(default)s)")
    parser.add_argument("--holdout", type=float, default=0, help="share of the people held out first (%(default)s)")
    parser.add_argument("--write", metavar="DIR", help="write dirty, true and heldout here")
    parser.add_argument("--model", help="an encoder, or embeddings of the dirty faces in their order")
    parser.add_argument("--good-lost", type=float, nargs="+", default=[0.005, 0.001, 0.002, 0.01, 0.02])
    parser.add_argument("--list", metavar="FILE", help="write the list here")
    options = parser.parse_args()
    source, heldout = open_faces(options.faces), None
    if options.holdout:
        source, heldout = split_by_identity(source, options.holdout, seed=0)
    labels = exchange(source.identities, options.share, options.seed)
    dirty = with_labels(source, labels)
    truth = source.identities[np.argsort(labels, kind="stable")]
    wrong = dirty.identities != truth
    print(f"{len(dirty)} images of {dirty.num_identities} identities, {wrong.sum()} with a label of somebody else")
    if options.write:
        parts = {"dirty": dirty, "true": with_labels(source, source.identities), "heldout": heldout}
        for name, part in parts.items():
            if part is not None:
                convert_faces(part, Path(options.write) / name, "recordio")
    if options.model is None:
        return
    embedded = open_source(options.model).embed(dirty)
    print(
        "good lost at most   listed  precision (expected)   recall  good lost (expected)  wrong in all (expected)  to"
    )
    for number, good_lost in enumerate(options.good_lost):
        report = find_label_errors(dirty, embedded, good_lost=good_lost)
        cut = report.cuts["wrong image"]
        others = {finding.images[0]: finding.other for finding in report.of_kind("wrong image")}
        listed = np.isin(np.arange(len(dirty)), list(others))
        found = np.flatnonzero(listed & wrong).tolist()
        named = sum(others[index] == truth[index] for index in found)
        print(
            f"{good_lost:17.3%} {listed.sum():8} {len(found) / max(listed.sum(), 1):10.1%} ({cut.precision or 0:8.1%}) "
            f"{len(found) / max(wrong.sum(), 1):8.1%} {(listed & ~wrong).sum() / (~wrong).sum():10.2%} "
            f"({cut.good_lost:8.2%}) {wrong.mean():13.2%} ({cut.share_wrong:8.2%}) {named / max(len(found), 1):5.0%}"
        )
        if options.list and number == 0:
            write_corrections(Path(options.list), suggest_corrections(report))


if __name__ == "__main__":
    main()
