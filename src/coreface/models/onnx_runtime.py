"""The runtimes of ONNX models, onnxruntime and OpenCV, and a child process that first tries files of unknown origin."""

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import CoreFaceError, InputError, MissingExtraError, ModelError
from coreface.images.load import silent_opencv
from coreface.models.onnx_file import OnnxFile, without_weights_as_inputs

OnnxRuntime: TypeAlias = Literal["auto", "onnxruntime", "opencv"]
#: A batch -> the wanted outputs, in the order of the file.
Run: TypeAlias = Callable[[NDArray[Any]], list[NDArray[np.float32]]]

PROBE_SECONDS: Final = 120


def chosen_runtime(runtime: str, known: bool) -> str:
    """Return the runtime of a model; ``auto`` selects OpenCV for known weights and where onnxruntime is not installed.

    Raises:
        InputError: there is no such runtime.
        MissingExtraError: onnxruntime is requested and not installed.
    """
    installed = importlib.util.find_spec("onnxruntime") is not None
    if runtime == "auto":
        return "onnxruntime" if installed and not known else "opencv"
    if runtime not in ("onnxruntime", "opencv"):
        raise InputError(f"runtime is {runtime!r}, expected auto, onnxruntime or opencv")
    if runtime == "onnxruntime" and not installed:
        raise MissingExtraError("onnxruntime is not installed: pip install 'coreface[export]', or use opencv")
    return runtime


def open_network(
    content: bytes, described: OnnxFile, runtime: str, threads: int | None = None, *, outputs: int = 1
) -> tuple[Run, int]:
    """Load a model; return a function that runs it, and its fixed batch size (0 for any).

    Args:
        content: of the file.
        described: the description of the file.
        runtime: ``onnxruntime`` or ``opencv``.
        threads: number of threads; None uses the runtime's default. OpenCV has one setting for the whole process.
        outputs: the number of outputs to return, from the first on.

    Raises:
        ModelError: the runtime cannot load it.
    """
    name, fixed = described.inputs[0].name, described.inputs[0].shape[0] or 0
    names = [output.name for output in described.outputs]
    try:
        if runtime == "opencv":
            if threads is not None:
                cv2.setNumThreads(threads)
            with silent_opencv():
                net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
            lock = threading.Lock()  # a network keeps its input between the two calls

            def run_opencv(batch: NDArray[Any]) -> list[NDArray[np.float32]]:
                with lock:
                    net.setInput(batch, name)
                    return [np.asarray(output) for output in net.forward(names)]  # it returns all or none

            return run_opencv, fixed
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(
            without_weights_as_inputs(content), options, providers=["CPUExecutionProvider"]
        )
        return lambda batch: [np.asarray(output) for output in session.run(names[:outputs], {name: batch})], fixed
    except CoreFaceError:
        raise
    except Exception as error:  # the exception's type depends on the runtime and on the model
        raise ModelError(f"{runtime} cannot load it ({first_line(error)})") from error


def probe(path: Path, runtime: str, image_size: int) -> None:
    """Run a file once in a child process, under limits of memory and time.

    Raises:
        ModelError: the runtime crashes, hangs or fails on it.
    """
    command = [sys.executable, "-m", "coreface.models.onnx_probe", str(path), runtime, str(image_size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path}: {runtime} did not finish in {PROBE_SECONDS} s; the file is damaged") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        how = f"crashed (signal {-done.returncode})" if done.returncode < 0 else f"failed: {said[:200]}"
        raise ModelError(f"{path}: {runtime} {how}; the file is damaged, or not a face encoder")


def first_line(error: Exception) -> str:
    """Return the first line of a runtime's message, for a message of our own."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
