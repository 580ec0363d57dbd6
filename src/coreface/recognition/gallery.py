"""Galleries: people are enrolled, identified and deleted, at thresholds that depend on the number of people."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import numpy as np

from coreface.errors import CoreFaceError, GalleryError, InputError, UnknownPersonError
from coreface.evaluation.gallery_calibration import threshold_of_templates
from coreface.evaluation.template_scores import POOLINGS, Pooling
from coreface.recognition import gallery_enrolment
from coreface.recognition.crops import Choice
from coreface.recognition.gallery_answers import Answer, Candidate, PersonDecision
from coreface.recognition.gallery_decisions import candidates, checked_cosine, decide, gallery_threshold
from coreface.recognition.gallery_enrolment import Expected, checked_id, new_person
from coreface.recognition.gallery_faces import Sample, failure_of, listed, read_samples
from coreface.recognition.gallery_management import ManagedGallery
from coreface.recognition.gallery_matrix import pooled
from coreface.recognition.gallery_open import open_store
from coreface.recognition.gallery_records import Enrolment
from coreface.recognition.gallery_store import Found, GalleryRecord, now
from coreface.recognition.pipeline import FacePipeline
from coreface.recognition.quality import LimitsName, QualityLimits

_TRIES = 20  # attempts at a search that is disturbed by deletions, before the gallery is considered damaged


class Gallery(ManagedGallery):
    """People and the embeddings of their faces, in a store. Open one with `Gallery.open`.

    A gallery may be used by several threads, and its store by several processes: each search sees all changes
    made before it began. A forked process must open the gallery again.

    Attributes:
        pipeline: computes embeddings and decides; None if the gallery was opened without one.
        store: the place where it is stored.
    """

    @classmethod
    def open(
        cls,
        place: str | os.PathLike[str],
        pipeline: FacePipeline | None = None,
        name: str = "default",
        *,
        pooling: Pooling | None = None,
        index: Literal["exact", "hnsw"] | None = None,
        create: bool = True,
        timeout: float = 5.0,
    ) -> "Gallery":
        """Open a gallery, or create it.

        Args:
            place: a file, ``sqlite:///file``, or ``postgresql://user:password@host/database``.
            pipeline: computes embeddings. The gallery is tied to its contract: encoder, alignment, detector with its
                width, mirrored image, size of crops. Without one people can be listed, renamed, deleted, exported and
                imported.
            name: of the gallery, since a store may contain several.
            pooling: of a new gallery: ``mean`` (the default) compares with the mean of a person's templates, ``best``
                with each of them. None accepts either for an existing gallery.
            index: of a new gallery in PostgreSQL: ``exact`` (the default), or ``hnsw``, an approximate search.
            create: create the gallery if it does not exist and there is a pipeline.
            timeout: seconds to wait for another writer.

        Raises:
            GalleryError: there is no such gallery, it is damaged, or has another pooling.
            ContractError: it belongs to another pipeline; the message says what differs.
            StorageError: the store cannot be opened.
            MissingExtraError: a package is not installed.
            InputError: an argument is out of range.
        """
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"pooling is {pooling!r}, expected {' or '.join(POOLINGS)}")
        if not timeout >= 0:
            raise InputError(f"timeout is {timeout}, expected 0 seconds or more")
        new = None
        if pipeline is not None and create:
            new = GalleryRecord(pipeline.contract, pipeline.encoder.embedding_size, pooling or "mean", now())
        store = open_store(place, checked_id(name), new, timeout, index)
        try:
            gallery = cls(store, pipeline)
            found = store.record().pooling
            if pooling not in (None, found):
                raise GalleryError(
                    f"{store.place}: the gallery pools by {found}, not by {pooling}: that cannot be changed"
                )
        except BaseException:
            store.close()
            raise
        return gallery

    def enrol(
        self,
        person: str,
        images: Any,
        *,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retain_until: datetime | None = None,
        keep_crops: bool = False,
        allow_similar: bool = False,
        fpir: float = 0.01,
        expect: Expected | None = None,
        quality: LimitsName | QualityLimits | None = None,
    ) -> Enrolment:
        """Enrol images of a person; images that cannot be used are refused, the others are enrolled.

        Content that was enrolled for the person before is not enrolled again. All changes are made together.

        Args:
            person: the caller's id of the person, new or known.
            images: one or several: photographs (paths, encoded bytes, PIL images, arrays), crops of the pipeline's
                cropper, or embeddings of the pipeline, (D,), (n, D), `FaceEmbeddings` or `EmbeddedFace`. Of a
                photograph the face chosen by the pipeline is used; the largest if the pipeline uses all.
            name: a display name; None keeps it, and uses the id for a new one.
            metadata: JSON values; None keeps them.
            retain_until: when `purge` deletes the person, with a time zone; None keeps it.
            keep_crops: store the crops, which `migrate` needs.
            allow_similar: enrol a person who resembles another one.
            fpir: the rate at which resemblance to another person is judged.
            expect: ``new`` or ``known`` refuses a person who is not so at the moment of the change, whatever other
                processes have done while the images were read: a person who is deleted meanwhile does not come back.
            quality: limits of the faces in photographs; None uses the pipeline's. Crops and embeddings are not
                checked.

        Returns:
            What was enrolled, and why the rest was refused. A new person is stored only if something was enrolled.

        Raises:
            InputError: an argument cannot be stored, or there are no images.
            UnknownPersonError: the person was expected to be known.
            PersonExistsError: the person was expected to be new.
            ContractError: another process has migrated the gallery.
            StorageError: it cannot be written, or another process is writing for too long.
        """
        pipeline = self._needed_pipeline()
        if expect not in (None, "new", "known"):
            raise InputError(f"expect is {expect!r}, expected 'new', 'known' or None")
        new = new_person(person, name, metadata, retain_until)
        fields = {"name": name, "metadata": metadata, "retain_until": retain_until}
        given = {field: getattr(new, field) for field, value in fields.items() if value is not None}
        found = listed(images)
        if not found:
            raise InputError(f"there are no images of {new.id}, expected at least one")
        choice = pipeline.cropper.face
        samples, refused = read_samples(pipeline, found, "largest" if choice == "all" else choice, quality)
        with self.store.transaction():
            self._check(self.store.record())
            return gallery_enrolment.enrol(
                self.store,
                pipeline,
                new,
                given,
                samples,
                refused,
                fpir=fpir,
                keep_crops=keep_crops,
                allow_similar=allow_similar,
                expect=expect,
            )

    def identify(self, image: Any, top: int = 5, fpir: float = 0.01, *, threshold: float | None = None) -> Answer:
        """Identify the people in a photograph.

        Each usable face has an answer, the largest first. A person is assigned to at most one face. The threshold is
        the calibration's for a gallery of this size.

        Args:
            image: a photograph, crop or embedding, or several crops or embeddings of one photograph.
            top: number of candidates for each face.
            fpir: requested false positive identification rate: the share of unknown faces that are taken for somebody.
            threshold: a cosine to use instead of the calibration's threshold.

        Raises:
            ImageError: the photograph cannot be read.
            FaceError: it shows no face that can be used.
            ModelError: there is neither a calibration nor a threshold.
            InputError: an argument is out of range.
            ContractError: another process has migrated the gallery.
        """
        items = listed(image)
        faces, failure = self._probes(items)
        if failure is not None:
            raise failure
        (answer,) = self._answers([faces], top, fpir, threshold)
        return answer

    def identify_many(
        self, images: Iterable[Any], top: int = 5, fpir: float = 0.01, *, threshold: float | None = None
    ) -> list[Answer]:
        """Identify the people in several photographs, as `identify` does, in one search.

        A photograph without a usable face has an answer without faces, whose ``failure`` says why. Embeddings (n, D)
        are n photographs.
        """
        probes = [self._probes(listed(image)) for image in listed(images)]
        answers = self._answers([faces for faces, _ in probes], top, fpir, threshold)
        return [
            answer if failure is None else replace(answer, failure=failure)
            for answer, (_, failure) in zip(answers, probes, strict=True)
        ]

    def verify(self, person: str, image: Any, fmr: float = 1e-3, *, threshold: float | None = None) -> PersonDecision:
        """Decide whether a photograph shows a person of the gallery.

        Args:
            person: the id of the person.
            image: a photograph, of which the face selected by the pipeline is used; a crop or an embedding.
            fmr: requested rate of false matches.
            threshold: a cosine to use instead of the calibration's threshold.

        Raises:
            UnknownPersonError: the person is not in the gallery, or has no templates.
            ImageError, FaceError, ModelError, InputError, ContractError: as for `identify`.
        """
        pipeline = self._needed_pipeline()
        calibration = None if threshold is not None else pipeline.require_calibration()
        if threshold is not None:
            checked_cosine(threshold)
        choice = pipeline.cropper.face
        faces, failure = self._probes(listed(image), "largest" if choice == "all" else choice)
        if failure is not None:
            raise failure
        if len(faces) != 1:
            raise InputError(f"verify compares one face with a person, got {len(faces)}")
        with self.store.snapshot():
            record = self.store.record()
            self._check(record)
            number, found = self._known(person)
            own = np.array([stored.embedding for _, stored in self.store.stored(number)])
        if not len(own):
            raise UnknownPersonError(f"{found.id} has no templates: enrol images first")
        rows = pooled(own.sum(axis=0)[None]) if record.pooling == "mean" else own
        score = float((rows @ faces[0].embedding).max())
        if calibration is None:
            assert threshold is not None
            decision = score >= threshold, found.id, score, threshold, None, None, None
            return PersonDecision(*decision, "given", faces[0].face)
        if len(own) == 1:
            at = calibration.threshold(fmr)
            expected = at.fmr, at.fmr_low, at.fmr_high
        else:  # one person with that many images is a gallery of size one
            at = threshold_of_templates(calibration, {len(own): 1}, record.pooling, fmr)
            expected = at.fpir, at.fpir_low, at.fpir_high
        match = None if at.threshold is None or at.standing == "undecidable" else score >= at.threshold
        return PersonDecision(match, found.id, score, at.threshold, *expected, at.standing, faces[0].face)

    def search(self, embeddings: Any, top: int = 5) -> list[list[Candidate]]:
        """Return the most similar people, the best first, without a decision: there is always a most similar one.

        Args:
            embeddings: (D,) or (n, D) float, of the pipeline of the gallery, or `EmbeddedFace`.
            top: number of people for each.

        Returns:
            The candidates for each embedding, in the order given.
        """
        samples, refused = read_samples(self._needed_pipeline(), listed(embeddings), "largest")
        if refused:
            raise failure_of(refused[0])
        return self._search(samples, top)[0]

    def _needed_pipeline(self) -> FacePipeline:
        if self.pipeline is None:
            raise InputError("the gallery was opened without a pipeline: Gallery.open(place, pipeline) can do this")
        return self.pipeline

    def _probes(self, items: Sequence[Any], choice: Choice = "all") -> tuple[list[Sample], CoreFaceError | None]:
        """Return the faces, the largest first, and the error if there is none."""
        samples, refused = read_samples(self._needed_pipeline(), items, choice)
        if refused and (not samples or len(items) > 1):
            return [], failure_of(refused[0])
        area = [0.0 if sample.face is None else sample.face.area for sample in samples]
        order = sorted(range(len(samples)), key=lambda number: -area[number])
        return [samples[number] for number in order], None

    def _search(self, samples: Sequence[Sample], top: int) -> tuple[list[list[Candidate]], Found]:
        """Return the candidates of each face, and the state of the gallery."""
        if top < 1:
            raise InputError(f"top is {top}, expected 1 or more")
        pipeline = self._needed_pipeline()
        size = pipeline.encoder.embedding_size
        probes = np.array([sample.embedding for sample in samples], np.float32).reshape(len(samples), size)
        for _ in range(_TRIES):
            found = self.store.search(probes, top)
            self._check(found.record)
            people = self.store.people_by_number({number for hits in found.hits for number, _ in hits})
            if all(number in people for hits in found.hits for number, _ in hits):
                return [candidates(hits, people, pipeline.calibration, found) for hits in found.hits], found
            # Somebody was deleted in the meantime and must not be found.
        raise GalleryError(
            f"{self.store.place}: a search finds people who are not in the gallery, which is damaged: coreface gallery "
            "check says more; restore a backup"
        )

    def _answers(
        self, photographs: Sequence[Sequence[Sample]], top: int, fpir: float, threshold: float | None
    ) -> list[Answer]:
        pipeline = self._needed_pipeline()
        samples = [sample for faces in photographs for sample in faces]
        most = max((len(faces) for faces in photographs), default=1)
        rows, found = self._search(samples, top + max(0, most - 1))
        at = gallery_threshold(pipeline, found, fpir, threshold)
        answers, start = [], 0
        for faces in photographs:
            part = rows[start : start + len(faces)]
            start += len(faces)
            decided = decide(part, [sample.face for sample in faces], at, top)
            answers.append(Answer(decided, fpir, at.value, at.derived, at.calibrated, found.size))
        return answers
