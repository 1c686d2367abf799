"""ONNX graphs as bytes: the few fields of onnx.proto that our graphs need, written by hand.

The graphs of a model follow from its config.json (:mod:`codec.graphs`), so the runtime writes them itself and needs
neither the ``onnx`` package nor graph files. Field numbers are those of onnx.proto; encoding:
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

IR_VERSION, OPSET = 8, 17  # ONNX 1.12, mid 2022: read by every ONNX Runtime since 1.12
FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7  # TensorProto.DataType
_EXTERNAL = 1  # TensorProto.DataLocation


class Graph:
    """A graph in the making: each call of :meth:`add` appends a node and returns the name of its output."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.weights: dict[str, tuple[int, ...]] = {}  # name -> shape of external initialisers
        self.inputs: dict[str, tuple[int | str, ...]] = {}  # name -> shape
        self._nodes: list[bytes] = []
        self._constants: dict[str, bytes] = {}
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Declare an input, once; a str in the shape is a size that is known at run time. Returns its name."""
        if name not in self.inputs:
            self.inputs[name] = tuple(shape)
            self._inputs.append(_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, shape: Sequence[int | str]) -> None:
        """Declare a value to be an output called ``name``."""
        self._nodes.append(_text(1, value) + _text(2, name) + _text(4, "Identity"))
        self._outputs.append(_value_info(name, kind, shape))

    def weight(self, name: str, shape: Sequence[int]) -> str:
        """Declare a float32 initialiser that the session is given as an array. Returns its name."""
        self.weights[name] = tuple(shape)
        return name

    def integers(self, *values: int) -> str:
        """Constant int64 (len(values),); equal ones are stored once. Returns its name."""
        name = "i" + "_".join(map(str, values))
        self._constants[name] = _tensor(name, INT64, [len(values)], struct.pack(f"<{len(values)}q", *values))
        return name

    def number(self, value: float) -> str:
        """Constant float32 scalar. Returns its name."""
        name = f"f{value}"
        self._constants[name] = _tensor(name, FLOAT, [], struct.pack("<f", value))
        return name

    def add(self, operator: str, *inputs: str, **attributes: int | float | str | Sequence[int]) -> str:
        """Append a node with one output, whose name is returned. Attributes are int, float, str or lists of int."""
        output = f"t{len(self._nodes)}"
        node = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator)
        node += b"".join(_bytes(5, _attribute(name, value)) for name, value in attributes.items())
        self._nodes.append(node)
        return output

    def serialise(self) -> bytes:
        """The ModelProto."""
        graph = b"".join(_bytes(1, node) for node in self._nodes) + _text(2, self.name)
        graph += b"".join(_bytes(5, constant) for constant in self._constants.values())
        graph += b"".join(_bytes(5, _tensor(name, FLOAT, shape)) for name, shape in self.weights.items())
        graph += b"".join(_bytes(11, value) for value in self._inputs)
        graph += b"".join(_bytes(12, value) for value in self._outputs)
        opset = _integer(2, OPSET)  # of the default domain
        return _integer(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _value_info(name, kind, shape):
    dims = b"".join(_bytes(1, _text(2, n) if isinstance(n, str) else _integer(1, n)) for n in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _integer(1, kind) + _bytes(2, dims)))


def _tensor(name, kind, shape, data=None):
    """TensorProto; without data, an external one whose location is never opened."""
    tensor = b"".join(_integer(1, n) for n in shape) + _integer(2, kind) + _text(8, name)
    if data is not None:
        return tensor + _bytes(9, data)
    location = _text(1, "location") + _text(2, "weights.safetensors")
    return tensor + _bytes(13, location) + _integer(14, _EXTERNAL)


def _attribute(name, value):
    """AttributeProto: its field 20 says which of the others holds the value."""
    if isinstance(value, float):
        body = _key(2, 5) + struct.pack("<f", value) + _integer(20, 1)
    elif isinstance(value, int):
        body = _integer(3, value) + _integer(20, 2)
    elif isinstance(value, str):
        body = _text(4, value) + _integer(20, 3)
    else:
        body = b"".join(_integer(8, v) for v in value) + _integer(20, 7)
    return _text(1, name) + body


def _varint(value):
    value &= (1 << 64) - 1  # negative numbers as two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(field, wire):
    return _varint(field << 3 | wire)


def _integer(field, value):
    return _key(field, 0) + _varint(value)


def _bytes(field, value):
    return _key(field, 2) + _varint(len(value)) + value


def _text(field, value):
    return _bytes(field, value.encode())
