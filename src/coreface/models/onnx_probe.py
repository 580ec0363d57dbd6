"""Run an ONNX file once, in a separate process: `python -m coreface.models.onnx_probe FILE RUNTIME SIZE`.

Native parsers may crash, hang or use up all memory on a damaged file. Only this process is affected.
"""

import sys
from pathlib import Path

import numpy as np

from coreface.errors import ModelError
from coreface.models.onnx_file import read_onnx
from coreface.models.onnx_runtime import first_line, open_network

_MEMORY = 4 * 2**30  # bytes of address space on top of eight times the file: activations, and the runtime itself
_SECONDS = 100  # of CPU time


def main(path: str, runtime: str, image_size: int) -> None:
    """Load a model and run it on one grey image.

    Raises:
        ModelError: it cannot be loaded.
    """
    content = Path(path).read_bytes()
    _limit(len(content))
    described = read_onnx(content)
    run, fixed = open_network(content, described, runtime, threads=1)
    wide, batch = described.inputs[0].dtype == "uint8", fixed or 1
    shape = (batch, image_size, image_size, 3) if wide else (batch, 3, image_size, image_size)
    run(np.full(shape, 1, np.uint8 if wide else np.float32))


def _limit(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's time limit still applies
        return
    for kind, limit in ((resource.RLIMIT_AS, _MEMORY + 8 * size), (resource.RLIMIT_CPU, _SECONDS)):
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except ModelError as error:
        sys.exit(str(error))
    except Exception as error:  # the exception's type depends on the runtime and on the model
        sys.exit(first_line(error))
