"""The description of an ONNX file: inputs, outputs, metadata and requirements. Nothing is executed.

The protocol buffer is parsed by the lengths of its fields: no allocation exceeds the size of the file. Source:
onnx.proto (field numbers) and the encoding of protocol buffers (wire types).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from coreface.errors import ModelError

_GRAPH, _METADATA, _OPSETS = 7, 14, 8  # of a ModelProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12  # of a GraphProto
_STANDARD_DOMAINS: Final = ("", "ai.onnx", "com.microsoft")  # the last one is onnxruntime's own, always built in
_TYPES: Final = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 11: "float64"}


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, its type, and its shape, with None for a dimension of any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join('any' if side is None else str(side) for side in self.shape)})"


@dataclass(frozen=True)
class OnnxFile:
    """The description of a model.

    Attributes:
        inputs: those that are used and are not weights.
        outputs: in the order of the file.
        metadata: properties by name.
        opset: version of the standard operators.
        domains: of non-standard operators.
        external: other files that contain weights.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    opset: int
    domains: tuple[str, ...]
    external: tuple[str, ...]


def read_onnx(content: bytes) -> OnnxFile:
    """Read the description of an ONNX model.

    Raises:
        ModelError: it is damaged, or not an ONNX model.
    """
    try:
        model = list(_fields(memoryview(content)))
        graph = list(_fields(next(value for number, value in model if number == _GRAPH)))
        weights, external = set(), set()
        for number, value in graph:
            if number == _INITIALIZER:
                fields = list(_fields(value))
                weights.add(_text(_last(fields, 8, b"")))
                external |= {_pair(entry)[1] for at, entry in fields if at == 13 and _pair(entry)[0] == "location"}
        inputs = [_tensor(value) for number, value in graph if number == _INPUT]
        nodes = [list(_fields(value)) for number, value in graph if number == _NODE]
        domains = {_text(_last(node, 7, b"")) for node in nodes}
        # Quantisers leave the name of an unused weight among the inputs.
        taken = {_text(name) for node in nodes for at, name in node if at == 1} - weights
        opsets = [list(_fields(value)) for number, value in model if number == _OPSETS]
        standard = [int(_last(entry, 2, 0)) for entry in opsets if _text(_last(entry, 1, b"")) in ("", "ai.onnx")]
        return OnnxFile(
            tuple(tensor for tensor in inputs if tensor.name in taken),
            tuple(_tensor(value) for number, value in graph if number == _OUTPUT),
            dict(_pair(value) for number, value in model if number == _METADATA),
            max(standard, default=0),
            tuple(sorted(domains - set(_STANDARD_DOMAINS))),
            tuple(sorted(external)),
        )
    except (ValueError, StopIteration, TypeError, RecursionError) as error:
        raise ModelError(f"damaged, or not an ONNX model ({error or 'it has no graph'})") from error


def without_weights_as_inputs(content: bytes) -> bytes:
    """Return the model without the inputs that are weights: older exporters list them, and onnxruntime rejects some.

    Raises:
        ModelError: it is damaged, or not an ONNX model.
    """
    kept = {tensor.name for tensor in read_onnx(content).inputs}
    model = b""
    for number, value in _fields(memoryview(content)):
        if number == _GRAPH:
            value = b"".join(
                _encoded(at, part) for at, part in _fields(value) if at != _INPUT or _tensor(part).name in kept
            )
        model += _encoded(number, value)
    return model


def property_field(name: str, text: str) -> bytes:
    """Return the bytes that, appended to a model, add a property."""
    return _encoded(_METADATA, _encoded(1, name.encode()) + _encoded(2, text.encode()))


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of every field: an int, or a view of bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if number == 0 or position + length > len(data):
            raise ValueError("it is cut off")
        yield number, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is too long")


def _encoded(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    return _number(number << 3 | 2) + _number(len(value)) + bytes(value)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _last(fields: list[tuple[int, Any]], number: int, default: Any) -> Any:
    return next((value for at, value in reversed(fields) if at == number), default)


def _text(value: Any) -> str:
    return bytes(value).decode()


def _pair(entry: Any) -> tuple[str, str]:
    fields = list(_fields(entry))
    return _text(_last(fields, 1, b"")), _text(_last(fields, 2, b""))


def _tensor(entry: Any) -> Tensor:
    fields = list(_fields(entry))
    described = list(_fields(_last(list(_fields(_last(fields, 2, b""))), 1, b"")))
    shape = []
    for number, dimension in _fields(_last(described, 2, b"")):
        if number == 1:
            side = _last(list(_fields(dimension)), 1, 0)
            shape.append(int(side) if 0 < side < 2**31 else None)
    kind = int(_last(described, 1, 0))
    return Tensor(_text(_last(fields, 1, b"")), _TYPES.get(kind, f"type {kind}"), tuple(shape))
