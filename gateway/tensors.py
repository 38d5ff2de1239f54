"""Tensors of the Open Inference Protocol: JSON, and its binary extension.

    request    JSON; or, with the header Inference-Header-Content-Length, so many bytes
               of JSON, then the data of each tensor that has `binary_data_size`
    answer     likewise, as each output or the request asked

Numbers are little-endian; BYTES are elements behind a length of four bytes.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from privacy.encoding import Json, parse_object
from privacy.errors import FormatError

_FORMATS = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
NUMBERS = tuple(_FORMATS)
_RANK = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """An inference request, read but not yet held against a model.

    Attributes:
        rows: The input.
        outputs: Which outputs to give, and whether as binary; None for all.
        binary: Outputs that say nothing else come as binary.
        request_id: Sent back.
    """

    rows: list[list[float]]
    outputs: dict[str, bool] | None
    binary: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of an answer, its elements row by row."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[Any]


def parse_request(body: bytes, header_bytes: int | None, *, name: str) -> Asked:
    """Return what a request asks.

    Args:
        body: The whole body.
        header_bytes: Of the JSON in front of binary data; None if all is JSON.
        name: Of the one input there is.

    Raises:
        FormatError: Not such a request.
    """
    size = len(body) if header_bytes is None else header_bytes
    if not 0 <= size <= len(body):
        raise _bad(f"the JSON has {size} bytes, the body {len(body)}")
    head = parse_object(body[:size], what="request")
    inputs = head.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise _bad(f"inputs is not a list of one tensor, {name}")
    tensor = _object(inputs[0], "the input")
    if tensor.get("name") != name:
        raise _bad(f"the input is not named {name}")
    shape = _shape(tensor.get("shape"))
    values = _values(tensor, shape, body[size:])
    width = shape[1]
    rows = [values[i : i + width] for i in range(0, len(values), width)]
    parameters = _object(head.get("parameters", {}), "parameters")
    request_id = head.get("id", "")
    if not isinstance(request_id, str):
        raise _bad("id is not a string")
    return Asked(
        rows=rows,
        outputs=_outputs(head.get("outputs")),
        binary=parameters.get("binary_data_output") is True,
        request_id=request_id,
    )


def make_answer(asked: Asked, outputs: list[Output], head: Json) -> tuple[bytes, int]:
    """Return the body of an answer and how many bytes of it are JSON.

    Args:
        asked: The request.
        outputs: Every tensor that could be given.
        head: The other members of the answer.

    Raises:
        FormatError: An output is asked for that there is not.
    """
    known = {o.name: o for o in outputs}
    chosen = dict.fromkeys(known, asked.binary)
    if asked.outputs is not None:
        if unknown := set(asked.outputs) - set(known):
            raise _bad(f"{len(unknown)} outputs are none of {', '.join(known)}")
        chosen = asked.outputs
    described, binary = [], b""
    for name, as_binary in chosen.items():
        output = known[name]
        tensor: Json = {
            "name": name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if as_binary:
            raw = _packed(output)
            tensor["parameters"] = {"binary_data_size": len(raw)}
            binary += raw
        else:
            tensor["data"] = list(output.data)
        described.append(tensor)
    text = json.dumps({**head, "outputs": described}, allow_nan=False).encode()
    return text + binary, len(text)


def _values(tensor: Json, shape: tuple[int, int], binary: bytes) -> list[float]:
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in _FORMATS:
        raise _bad(f"the input's datatype is none of {', '.join(NUMBERS)}")
    parameters = _object(tensor.get("parameters", {}), "the input's parameters")
    if "binary_data_size" in parameters:
        one = "<" + _FORMATS[datatype]
        if parameters["binary_data_size"] != len(binary) or len(
            binary
        ) % struct.calcsize(one):
            raise _bad("the binary data has another size than it says")
        values = [float(v) for (v,) in struct.iter_unpack(one, binary)]
    else:
        if binary:
            raise _bad("there is binary data that no tensor says it has")
        values = [_number(v) for v in _flat(tensor.get("data"))]
    if len(values) != shape[0] * shape[1]:
        raise _bad(f"the input has {len(values)} elements, its shape says otherwise")
    if not all(math.isfinite(v) for v in values):
        raise _bad("the input holds values that are not finite")
    return values


def _shape(value: object) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != _RANK
        or not all(type(n) is int and 0 < n < 1 << 20 for n in value)
    ):
        raise _bad("the input's shape is not [rows, columns]")
    return value[0], value[1]


def _flat(data: object) -> list[Any]:
    if not isinstance(data, list):
        raise _bad("the input's data is not a list")
    if data and all(isinstance(row, list) for row in data):
        return [value for row in data for value in row]
    return data


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad("the input's data holds something that is not a number")
    try:
        return float(value)
    except OverflowError:
        raise _bad("the input holds values that are not finite") from None


def _outputs(value: object) -> dict[str, bool] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise _bad("outputs is not a list of tensors")
    chosen = {}
    for item in value:
        tensor = _object(item, "an output")
        parameters = _object(tensor.get("parameters", {}), "an output's parameters")
        if not isinstance(tensor.get("name"), str):
            raise _bad("an output has no name")
        chosen[tensor["name"]] = parameters.get("binary_data") is True
    return chosen


def _packed(output: Output) -> bytes:
    if output.datatype == "BYTES":
        texts = [str(v).encode() for v in output.data]
        return b"".join(struct.pack("<I", len(t)) + t for t in texts)
    return struct.pack(f"<{len(output.data)}{_FORMATS[output.datatype]}", *output.data)


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise _bad(f"{what} is not an object")
    return value


def _bad(why: str) -> FormatError:
    return FormatError(f"not an inference request: {why}", code="invalid-request")
