"""Migration of a gallery to another encoder: the stored crops are embedded again, then all are replaced at once."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coreface.errors import ContractError, GalleryError
from coreface.images.load import load_image
from coreface.plurals import counted
from coreface.recognition.gallery_contract import check_contract
from coreface.recognition.gallery_faces import unit
from coreface.recognition.gallery_store import GalleryStore
from coreface.recognition.pipeline import FacePipeline

_BATCH = 32  # crops per batch
_ROUNDS = 5  # passes over what was enrolled in the meantime
_OF_CROPS = ("alignment", "detector")  # parts of a contract that determine the crops


def migrate(store: GalleryStore, pipeline: FacePipeline, progress: Callable[[int], None] | None) -> int:
    """Embed all crops of a gallery with another pipeline, then store embeddings and contract in one transaction.

    Images enrolled in the meantime are embedded as well. Until the end the gallery does not change.

    Returns:
        The number of templates.

    Raises:
        ContractError: the other pipeline makes other crops: alignment, size or detector differ.
        GalleryError: some templates have no crop.
    """
    record, new = store.record(), pipeline.contract
    check_contract(
        store.place, {key: record.contract.get(key) for key in _OF_CROPS}, {key: new[key] for key in _OF_CROPS}
    )
    if record.contract == new:
        raise ContractError(f"{store.place} already belongs to this pipeline")
    embedded: dict[str, NDArray[np.float32]] = {}
    for _ in range(_ROUNDS):
        _embed_missing(store, pipeline, embedded, progress)
        with store.transaction():
            there = store.template_ids()
            if there <= embedded.keys():
                chosen = {id: embedded[id] for id in there}
                size = pipeline.encoder.embedding_size
                store.replace_embeddings(chosen, replace(record, contract=new, embedding_size=size))
                store.log("migrate", None, {"templates": len(chosen)})
                return len(chosen)
    raise GalleryError(f"{store.place}: images are enrolled faster than they can be migrated: pause the enrolment")


def _embed_missing(
    store: GalleryStore,
    pipeline: FacePipeline,
    embedded: dict[str, NDArray[np.float32]],
    progress: Callable[[int], None] | None,
) -> None:
    """Add the embeddings of crops without one."""
    _, templates, with_crop = store.counts()  # of one moment: others go on enrolling
    if without := templates - with_crop:
        raise GalleryError(
            f"{store.place}: no crop was kept of {counted(without, 'template')}: enrol those people again into a new "
            "gallery, or delete them"
        )
    missing = sorted(store.template_ids() - embedded.keys())
    for start in range(0, len(missing), _BATCH):
        crops = {id: crop for id in missing[start : start + _BATCH] if (crop := store.crop(id)) is not None}
        if crops:
            images = [load_image(crop) for crop in crops.values()]
            rows = pipeline.encoder.embed(images, flip=pipeline.flip)
            embedded |= {id: unit(row, len(row)) for id, row in zip(crops, rows, strict=True)}
        if progress:
            progress(len(embedded))
