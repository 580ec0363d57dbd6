"""The properties that an export writes into an ONNX file, and a checksum that detects any changed byte."""

import hashlib
from collections.abc import Mapping
from typing import Final

from coreface.errors import ModelError
from coreface.models.onnx_file import property_field, read_onnx

PREPROCESSING: Final = "coreface.preprocessing"  #: a ``preprocess.json``
FLIP: Final = "coreface.flip"  #: ``inside`` if the model itself adds the mirrored image, else ``outside``
OUTPUT: Final = "coreface.output"  #: ``unit``, with the norms as a second output, or ``raw``
DIGEST: Final = "coreface.digest"  #: of the exported encoder, if the check found both equal
QUANTIZATION: Final = "coreface.quantization"  #: ``none``, ``static``, ``float16`` or ``dynamic``
SOURCE: Final = "coreface.source"  #: JSON: the exported encoder, and the versions of the packages
CHECK: Final = "coreface.check"  #: JSON: the result of the comparison with the source
CALIBRATION: Final = "coreface.calibration"  #: a ``calibration.json``
LICENCE: Final = "coreface.licence"  #: what is known about the terms of the weights
_CHECKSUM: Final = "coreface.checksum"  # SHA-256 of all bytes before it; it is the last field of the file


def with_properties(content: bytes, properties: Mapping[str, str]) -> bytes:
    """Return an ONNX model with properties added, and a checksum of the whole."""
    content += b"".join(property_field(name, text) for name, text in properties.items())
    return content + _checksum(content)


def checked_properties(content: bytes) -> dict[str, str]:
    """Return the properties of an ONNX file.

    Those that coreface wrote are used only if the checksum is right: a digest must belong to the bytes next to it.

    Raises:
        ModelError: the file is not an ONNX model, or it was changed after the export.
    """
    properties = read_onnx(content).metadata
    if _CHECKSUM not in properties:
        return {name: text for name, text in properties.items() if name != DIGEST}
    end = len(content) - len(_checksum(b""))
    if content[end:] != _checksum(content[:end]):
        raise ModelError(
            "it was changed or damaged after coreface exported it: its checksum differs; export it again, or remove "
            f"the property {_CHECKSUM} if the change is meant, which makes it another encoder"
        )
    return properties


def _checksum(content: bytes) -> bytes:
    return property_field(_CHECKSUM, hashlib.sha256(content).hexdigest())
