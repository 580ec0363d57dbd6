"""From the images of requests to faces and embeddings: decoding and detection in threads, embedding in batches."""

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
    """An image of a request, after detection.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        faces: all faces, the most confident first, if requested.
        crops: of the selected faces, if requested.
    """

    width: int
    height: int
    faces: tuple[Face, ...] = ()
    crops: tuple[Crop, ...] = ()


class FaceEngine:
    """Processes the images of many requests, one task per image, so that large requests do not block others.

    Args:
        pipeline: detects and embeds faces.
        limits: of images.
        threads: number of threads that decode and detect.
        new_detector: creates a detector for each thread, since a detector processes one image at a time; None shares
            the pipeline's.
        on_batch: called with the number of crops of each batch.
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
            field: its field in the request.

        Raises:
            Problem: it is too large, or cannot be read.
        """

        def look() -> Photograph:
            image = self._decoded(data)
            faces = self._cropper().detector.detect(image)
            return Photograph(image.shape[1], image.shape[0], faces=tuple(faces))

        return await self._in_thread(look, field)

    async def crops(self, data: bytes, field: str, face: Choice = "largest") -> Photograph:
        """Return the crops of the selected faces, at least one.

        Raises:
            Problem: the image is too large, cannot be read, or shows no usable face.
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
        """Run a function in a thread, while other requests are answered."""
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
