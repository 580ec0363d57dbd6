"""How often the consistent face of a group picture is the right one, against the largest face.

python benchmarks/group_pictures.py PHOTOS STRANGERS --kept FOLDER

PHOTOS holds people with several photographs each (PHOTOS/<person>/<photograph>), STRANGERS one photograph each of other
people. Group pictures are made up of embeddings: beside the face of a share of the photographs stands another one, that
of a stranger or that of a friend, one stranger for each person, whose embedding gets noise of a cosine of about 0.8 to
itself. Each of the two is the larger one in half of them. A choice is wrong if it is the other face. EER is that of the
faces chosen; undecided pictures are left out of it.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from photograph_embeddings import embed_folder

from coreface.evaluation.verification import verify
from coreface.recognition.consistent_faces import consistent_faces
from coreface.recognition.pipeline import FacePipeline

NOISE = 0.75  # length of a friend's noise, in lengths of the embedding


def measure(
    embeddings: NDArray[np.float32],
    people: NDArray[np.str_],
    strangers: NDArray[np.float32],
    share: float,
    friend: float,
) -> str:
    """Return a row: so large a share of group pictures, of which that of ``friend`` show the same other person."""
    rng = np.random.default_rng(1)
    size = embeddings.shape[1]
    albums, largest = [], []
    for person in np.unique(people):
        companion = strangers[rng.integers(len(strangers))]
        album, first = [], []
        for row in embeddings[people == person]:
            if rng.random() >= share:
                album.append(row[None])
                first.append(0)
                continue
            other = strangers[rng.integers(len(strangers))]
            if rng.random() < friend:
                other = companion + NOISE * rng.normal(size=size) / np.sqrt(size)
                other = other / np.linalg.norm(other)
            album.append(np.stack([row, other]).astype(np.float32))
            first.append(int(rng.integers(2)))
        albums.append(album)
        largest.append(first)
    chosen, _ = consistent_faces(albums)
    cells = [
        (person, faces, index, choice.index)
        for person, (album, first, choices) in enumerate(zip(albums, largest, chosen, strict=True))
        for faces, index, choice in zip(album, first, choices, strict=True)
    ]
    groups = [cell for cell in cells if len(cell[1]) == 2]
    wrong_largest = sum(index for _, _, index, _ in groups)
    wrong = sum(choice == 1 for *_, choice in groups)
    undecided = sum(choice is None for *_, choice in groups)
    by_size = [(person, faces[index]) for person, faces, index, _ in cells]
    consistent = [(person, faces[choice]) for person, faces, _, choice in cells if choice is not None]
    eers = [
        verify(np.stack([row for _, row in rows]), np.array([person for person, _ in rows]), replicates=0).eer.eer
        for rows in (by_size, consistent)
    ]
    return (
        f"{100 * share:5.0f} %   {100 * friend:5.0f} %   {len(groups):6}   "
        f"largest {100 * wrong_largest / len(groups):5.1f} %   consistent {100 * wrong / len(groups):4.1f} %   "
        f"undecided {100 * undecided / len(groups):4.1f} %   EER {100 * eers[0]:5.2f} -> {100 * eers[1]:5.2f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("strangers", type=Path)
    parser.add_argument("--kept", type=Path, required=True, help="folder where embeddings are kept")
    options = parser.parse_args()
    pipeline = FacePipeline.from_pretrained("sface")
    photos = embed_folder(pipeline, options.photos, options.kept / "yunet_photos.npz")
    strangers = embed_folder(pipeline, options.strangers, options.kept / "yunet_strangers.npz")
    print("groups   friend    pictures   wrong choices")
    for share in (0.3, 0.5, 0.8):
        for friend in (0.0, 0.5, 1.0):
            print(measure(photos.embeddings, photos.people, strangers.embeddings, share, friend))


if __name__ == "__main__":
    main()
