"""Photographs of requests to faces and embeddings: decoded and searched in threads, embedded in batches."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from coreface.errors import CoreFaceError
from coreface.images.headers import image_size
from coreface.images.load import load_image
from coreface.recognition.crops import Choice, Crop, Cropper
from coreface.recognition.detection import Detector, Face
from coreface.recognition.pipeline import FacePipeline
from coreface.serving.batching import Batcher
from coreface.serving.problems import Problem, problem_of
from coreface.serving.settings import Limits

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Photograph:
    """What is seen in an image of a request.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        faces: all faces, the most confident first, where all were asked for.
        crops: of the faces that are meant, where these were asked for.
    """

    width: int
    height: int
    faces: tuple[Face, ...] = ()
    crops: tuple[Crop, ...] = ()


class FaceEngine:
    """Works on the images of many requests; one image is one piece of work, so requests of many do not block others.

    Args:
        pipeline: how faces are found and embedded.
        limits: of images.
        threads: that decode and look for faces.
        new_detector: makes a detector for each thread, for one runs one image at a time; None shares the pipeline's.
        on_batch: told the number of crops of each batch.
    """

    def __init__(
        self,
        pipeline: FacePipeline,
        limits: Limits,
        threads: int = 2,
        new_detector: Callable[[], Detector] | None = None,
        on_batch: Callable[[int], None] = lambda crops: None,
    ) -> None:
        self.pipeline, self._limits, self._new_detector = pipeline, limits, new_detector
        self._threads = ThreadPoolExecutor(threads, "coreface-images")
        self._own = threading.local()
        self._batcher = Batcher(lambda crops: pipeline.encoder.embed(crops, flip=pipeline.flip), on_batch=on_batch)

    async def detect(self, data: bytes, field: str) -> Photograph:
        """Return all faces of an image.

        Args:
            data: the encoded image.
            field: what the request calls it.

        Raises:
            Problem: it is too large, or cannot be read.
        """

        def look() -> Photograph:
            image = self._decoded(data)
            faces = self._cropper().detector.detect(image)
            return Photograph(image.shape[1], image.shape[0], faces=tuple(faces))

        return await self._in_thread(look, field)

    async def crops(self, data: bytes, field: str, face: Choice = "largest") -> Photograph:
        """Return the crops of the faces that are meant, at least one.

        Raises:
            Problem: the image is too large, cannot be read, or shows no face that can be used.
        """

        def cut() -> Photograph:
            image = self._decoded(data)
            crops = replace(self._cropper(), face=face).crops(image)
            return Photograph(image.shape[1], image.shape[0], crops=tuple(crops))

        return await self._in_thread(cut, field)

    async def embed(self, crops: list[Crop]) -> NDArray[np.float32]:
        """Return (n, embedding_size), unit length, for crops."""
        return await self._batcher.embed([crop.image for crop in crops])

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run something that takes a while beside the answering of requests."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._batcher.close()

    async def _in_thread(self, work: Callable[[], T], field: str) -> T:
        try:
            return await self.in_thread(work)
        except CoreFaceError as error:
            raise problem_of(error, field) from error

    def _decoded(self, data: bytes) -> NDArray[np.uint8]:
        limits = self._limits
        if len(data) > limits.image_bytes:
            message = f"the image has {len(data)} bytes, expected at most {limits.image_bytes}"
            raise Problem("image-too-large", message)
        width, height, _ = image_size(data)
        if width * height > limits.image_pixels:
            message = f"the image has {width} x {height} pixels, expected at most {limits.image_pixels} in all"
            raise Problem("image-too-large", message)
        return load_image(data, max_bytes=limits.image_bytes, max_pixels=limits.image_pixels)

    def _cropper(self) -> Cropper:
        if self._new_detector is None:
            return self.pipeline.cropper
        if not hasattr(self._own, "cropper"):
            self._own.cropper = replace(self.pipeline.cropper, detector=self._new_detector())
        found: Cropper = self._own.cropper
        return found
