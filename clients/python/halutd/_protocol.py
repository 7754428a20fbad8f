"""What both clients share: values to requests and replies to values. No sockets, no clocks."""

from __future__ import annotations

import array
import ast
import dataclasses
import io
import json
import os
import random
import struct
import sys
import zlib
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union
from urllib.parse import quote, urlencode, urlsplit

Json = Any

# ---- Errors ----


class Error(Exception):
    """Base of all that this package raises on purpose."""


class ConnectionFailed(Error):
    """The server could not be reached, or went away before its answer was complete."""


class TimedOut(Error):
    """No complete answer within the time allowed, retries included."""


class RequestError(Error):
    """The server refused the request; `status` is the HTTP status, the text is the server's."""

    def __init__(self, status: int, message: str, retry_after: Optional[float] = None) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status
        self.message = message
        self.retry_after = retry_after


class NotFound(RequestError):
    """No such model, version or path."""


class ServerBusy(RequestError):
    """The queue is full or the server is starting or stopping, still so after all retries."""


class LearningFailed(Error):
    """A learning job ended without a model; `job` says how."""

    def __init__(self, job: "Job") -> None:
        super().__init__(f"job {job.id} ({job.name}): {job.error or job.state}")
        self.job = job


# ---- Results ----


@dataclasses.dataclass(frozen=True)
class Label:
    label: str
    index: int
    probability: float


@dataclasses.dataclass(frozen=True)
class Classification:
    model: str
    backend: str
    top: List[Label]
    timing_us: Dict[str, float]
    raw: Dict[str, Json]  # the whole reply


@dataclasses.dataclass(frozen=True)
class Product:
    """`c` is a NumPy array if `a` was one, else nested lists."""

    c: Any
    rows: int
    columns: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A learning job: `state` is queued, running, done, failed or cancelled, `progress` 0..1 of the whole;
    `result` has the model's name, version, nmse, r2 and more once it is done."""

    id: str
    name: str
    state: str
    stage: str
    progress: float
    seconds: float
    error: Optional[str]
    result: Optional[Dict[str, Json]]

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")


# Names on the wire: bytes of an element, struct/array code.
_TYPES: Dict[str, Tuple[int, str]] = {
    "BOOL": (1, "?"), "UINT8": (1, "B"), "UINT16": (2, "H"), "UINT32": (4, "I"),
    "UINT64": (8, "Q"), "INT8": (1, "b"), "INT16": (2, "h"), "INT32": (4, "i"),
    "INT64": (8, "q"), "FP16": (2, "e"), "FP32": (4, "f"), "FP64": (8, "d"),
}
_NUMPY_KINDS = {"b1": "BOOL", "u1": "UINT8", "u2": "UINT16", "u4": "UINT32", "u8": "UINT64",
                "i1": "INT8", "i2": "INT16", "i4": "INT32", "i8": "INT64", "f2": "FP16",
                "f4": "FP32", "f8": "FP64"}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the Open Inference Protocol; `data` is flat, row-major. BYTES elements are bytes."""

    datatype: str
    shape: List[int]
    data: Sequence[Any]

    def to_list(self) -> Any:
        """Nested lists of the tensor's shape."""
        values = list(self.data)
        for size in reversed(self.shape[1:]):
            values = [values[i:i + size] for i in range(0, len(values), size)] if size else []
        return values

    def to_numpy(self) -> Any:
        import numpy

        if self.datatype == "BYTES":
            return numpy.array(list(self.data), dtype=object).reshape(self.shape)
        kind = {v: k for k, v in _NUMPY_KINDS.items()}[self.datatype]
        return numpy.array(list(self.data), dtype=numpy.dtype("<" + kind)).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class InferResult:
    model_name: str
    model_version: Optional[str]
    id: Optional[str]
    parameters: Dict[str, Json]
    outputs: Dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Retry:
    """How often and how patiently a request that met a busy server or a broken connection is sent
    again. Only the start of learning is not, after a broken connection: it may have been queued."""

    attempts: int = 5
    first_delay: float = 0.05  # seconds; doubles each time, with jitter
    longest_delay: float = 2.0

    def delay(self, attempt: int, retry_after: Optional[float]) -> float:
        """Seconds to wait after the `attempt`-th failure (from 1)."""
        longest = min(self.longest_delay, self.first_delay * 2.0 ** (attempt - 1))
        own = longest * (0.5 + 0.5 * random.random())
        return max(own, min(retry_after, self.longest_delay)) if retry_after is not None else own


# ---- Requests and replies ----


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    repeatable: bool = True  # False: sending it twice would do it twice


@dataclasses.dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Json:
        try:
            return json.loads(self.body)
        except ValueError:
            raise Error(f"the server's answer is not JSON: {self.body[:80]!r}") from None


def check(reply: Reply) -> Reply:
    """The reply if it is a success; raises what it says otherwise."""
    if 200 <= reply.status < 300:
        return reply
    try:
        message = json.loads(reply.body)["error"]
    except (ValueError, KeyError, TypeError):
        message = reply.body[:200].decode("utf-8", "replace") or "no explanation"
    retry_after: Optional[float] = None
    try:
        retry_after = float(reply.headers.get("retry-after", ""))
    except ValueError:
        pass
    kind = {404: NotFound, 503: ServerBusy}.get(reply.status, RequestError)
    raise kind(reply.status, str(message), retry_after)


@dataclasses.dataclass(frozen=True)
class Address:
    scheme: str  # http, https or unix
    host: str
    port: int
    prefix: str  # of every path
    unix_path: str = ""

    @staticmethod
    def parse(url: str) -> "Address":
        if url.startswith("unix:"):
            return Address("unix", "localhost", 0, "", url[5:])
        parts = urlsplit(url if "://" in url else "http://" + url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r}: must be http://HOST:PORT, https://HOST:PORT or unix:PATH")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return Address(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.scheme == "unix" or self.port in (80, 443) else f"{host}:{self.port}"


# ---- Pictures ----


def _png(rows: Sequence[bytes], width: int) -> bytes:
    """An RGB PNG of rows of 3 * width bytes."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (struct.pack(">I", len(data)) + kind + data +
                struct.pack(">I", zlib.crc32(kind + data)))

    header = struct.pack(">IIBBBBB", width, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) +
            chunk(b"IEND", b""))


def _array_image(image: Any) -> bytes:
    """A NumPy array: u8 [3][height][width] as the network has it, or [height][width][3] as others do."""
    if image.dtype.str[1:] != "u1" or image.ndim != 3:
        raise ValueError(f"an array must be uint8 of 3 dimensions, not {image.dtype} of {image.ndim}")
    if image.shape[0] == 3 and image.shape[2] != 3:
        if image.shape[1:] == (32, 32):
            return bytes(image.tobytes())
        image = image.transpose(1, 2, 0)
    if image.shape[2] != 3:
        raise ValueError(f"an array must be [3][height][width] or [height][width][3], "
                         f"not {list(image.shape)}")
    return _png([bytes(row.tobytes()) for row in image], image.shape[1])


def image_bytes(image: Any) -> bytes:
    """The bytes to send for a path, bytes, an open file, a NumPy array or a PIL image."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        with open(image, "rb") as file:
            return file.read()
    if hasattr(image, "__array_interface__") and hasattr(image, "dtype"):
        return _array_image(image)
    if hasattr(image, "save") and hasattr(image, "mode"):
        out = io.BytesIO()
        image.convert("RGBA" if "A" in image.mode or image.mode == "P" else "RGB").save(out, "PNG")
        return out.getvalue()
    if hasattr(image, "read"):
        return bytes(image.read())
    raise TypeError(f"a picture must be a path, bytes, a file, an array or a PIL image, "
                    f"not {type(image).__name__}")


def classify_request(image: Any, model: Optional[str], top: int, fit: Optional[str],
                     backend: Optional[str]) -> Request:
    query = {"top": str(top)}
    if model is not None:
        query["model"] = model
    if fit is not None:
        query["fit"] = fit
    if backend is not None:
        query["backend"] = backend
    return Request("POST", "/v1/classify?" + urlencode(query), image_bytes(image),
                   {"Content-Type": "application/octet-stream"})


def classify_result(reply: Reply) -> Classification:
    raw = reply.json()
    top = [Label(str(entry["label"]), int(entry["index"]), float(entry["probability"]))
           for entry in raw["top"]]
    return Classification(str(raw["model"]), str(raw["backend"]), top,
                          dict(raw.get("timing_us", {})), raw)


# ---- Matrices ----


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array_interface__") and hasattr(value, "dtype")


def _little(values: "array.array[Any]") -> bytes:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _npy(shape: Tuple[int, int], data: bytes) -> bytes:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape[0]}, {shape[1]}), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


def _npy_read(body: bytes) -> Tuple[List[int], "array.array[Any]"]:
    if body[:8] not in (b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00"):
        raise Error("the server's answer is not a .npy array")
    wide = body[6] == 2
    start = 12 if wide else 10
    length = struct.unpack("<I" if wide else "<H", body[8:start])[0]
    head = ast.literal_eval(body[start:start + length].decode("latin-1"))
    codes = {"<f4": "f", "<f8": "d"}
    if head["descr"] not in codes or head["fortran_order"]:
        raise Error(f"the server's answer has an array of {head['descr']}")
    values = array.array(codes[head["descr"]])
    values.frombytes(body[start + length:])
    if sys.byteorder == "big":
        values.byteswap()
    return list(head["shape"]), values


def _matrix_npy(a: Any, name: str) -> bytes:
    if _is_array(a):
        if a.ndim != 2:
            raise ValueError(f"{name} must be a matrix, not of {a.ndim} dimensions")
        return _npy((a.shape[0], a.shape[1]), a.astype("<f4", order="C").tobytes())
    rows = [list(row) for row in a]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"{name} must have rows, all of the same length")
    flat = array.array("f", (value for row in rows for value in row))
    return _npy((len(rows), len(rows[0])), _little(flat))


def matmul_request(a: Any, model: str, backend: Optional[str]) -> Request:
    body = _matrix_npy(a, "a")
    query = {"model": model}
    if backend is not None:
        query["backend"] = backend
    return Request("POST", "/v1/matmul?" + urlencode(query), body,
                   {"Content-Type": "application/x-npy", "Accept": "application/x-npy"})


def matmul_result(reply: Reply, a: Any) -> Product:
    shape, values = _npy_read(reply.body)
    rows, columns = shape
    if _is_array(a):
        import numpy

        return Product(numpy.array(values, dtype=numpy.float32).reshape(rows, columns), rows, columns)
    flat = values.tolist()
    return Product([flat[i * columns:(i + 1) * columns] for i in range(rows)], rows, columns)


# ---- Learning ----


def learn_request(a: Any, b: Any, fields: Mapping[str, Any]) -> Request:
    boundary = f"halutd{random.getrandbits(128):032x}"
    parts = [(name, str(value).encode()) for name, value in fields.items() if value is not None]
    parts += [("a", _matrix_npy(a, "a")), ("b", _matrix_npy(b, "b"))]
    body = b"".join(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data +
                    b"\r\n" for name, data in parts) + f"--{boundary}--\r\n".encode()
    return Request("POST", "/v1/learn", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"},
                   repeatable=False)


def metadata_request(model: Optional[str]) -> Request:
    return Request("GET", "/v2" if model is None else f"/v2/models/{quote(model, safe='')}")


def job_path(id: str) -> str:
    return f"/v1/jobs/{quote(id, safe='')}"


def job_result(raw: Mapping[str, Json]) -> Job:
    return Job(str(raw["id"]), str(raw["name"]), str(raw["state"]), str(raw["stage"]), float(raw["progress"]),
               float(raw["seconds"]), raw.get("error"), raw.get("result"))


# ---- The Open Inference Protocol ----

TensorLike = Union[Tensor, Any]


def _as_tensor(value: TensorLike) -> Tuple[str, List[int], Any]:
    """datatype, shape, and bytes (of an array) or a flat sequence (of a Tensor)."""
    if isinstance(value, Tensor):
        return value.datatype, list(value.shape), value.data
    if _is_array(value):
        kind = value.dtype.str[1:]
        if kind not in _NUMPY_KINDS:
            raise ValueError(f"an array of {value.dtype} has no type of the protocol")
        little = value.astype(value.dtype.newbyteorder("<"), order="C")
        return _NUMPY_KINDS[kind], list(value.shape), little.tobytes()
    raise TypeError(f"an input must be a halutd.Tensor or a NumPy array, not {type(value).__name__}")


def _pack(datatype: str, data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in map(bytes, data))
    if datatype not in _TYPES:
        raise ValueError(f"{datatype!r} is no type of the protocol")
    return struct.pack(f"<{len(data)}{_TYPES[datatype][1]}", *data)


def _unpack(datatype: str, data: bytes) -> List[Any]:
    if datatype == "BYTES":
        out: List[Any] = []
        at = 0
        while at < len(data):
            (size,) = struct.unpack_from("<I", data, at)
            out.append(data[at + 4:at + 4 + size])
            at += 4 + size
        return out
    size, code = _TYPES[datatype]
    return list(struct.unpack(f"<{len(data) // size}{code}", data))


def _plain(datatype: str, data: Any) -> List[Any]:
    """Values for a JSON body."""
    values = _unpack(datatype, data) if isinstance(data, bytes) else list(data)
    return [v.decode("utf-8") if isinstance(v, bytes) else v for v in values]


def infer_request(model: str, inputs: Mapping[str, TensorLike], outputs: Optional[Sequence[str]],
                  version: Optional[str], request_id: Optional[str],
                  parameters: Optional[Mapping[str, Json]], binary: bool) -> Request:
    body: Dict[str, Json] = {"inputs": []}
    blobs: List[bytes] = []
    if request_id is not None:
        body["id"] = request_id
    body["parameters"] = dict(parameters or {})
    if binary:
        body["parameters"]["binary_data_output"] = True
    for name, value in inputs.items():
        datatype, shape, data = _as_tensor(value)
        entry: Dict[str, Json] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            blobs.append(_pack(datatype, data))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = _plain(datatype, data)
        body["inputs"].append(entry)
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    if not body["parameters"]:
        del body["parameters"]
    text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    path = f"/v2/models/{quote(model, safe='')}"
    if version is not None:
        path += f"/versions/{quote(version, safe='')}"
    if not binary:
        return Request("POST", path + "/infer", text, {"Content-Type": "application/json"})
    return Request("POST", path + "/infer", text + b"".join(blobs),
                   {"Content-Type": "application/octet-stream",
                    "Inference-Header-Content-Length": str(len(text))})


def _flat(values: Any) -> List[Any]:
    if not isinstance(values, list):
        return [values]
    out: List[Any] = []
    for value in values:
        if isinstance(value, list):
            out.extend(_flat(value))
        else:
            out.append(value)
    return out


def infer_result(reply: Reply) -> InferResult:
    split = reply.headers.get("inference-header-content-length")
    head = reply.body if split is None else reply.body[:int(split)]
    at = len(head)
    raw = Reply(reply.status, reply.headers, head).json()
    outputs: Dict[str, Tensor] = {}
    for entry in raw.get("outputs", []):
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            data = _flat(entry["data"])
        else:
            if at + size > len(reply.body):
                raise Error(f"output {entry['name']}: the answer is {at + size - len(reply.body)} "
                            "bytes short")
            data = _unpack(entry["datatype"], reply.body[at:at + size])
            at += size
        outputs[entry["name"]] = Tensor(entry["datatype"], list(entry["shape"]), data)
    return InferResult(raw["model_name"], raw.get("model_version"), raw.get("id"),
                       dict(raw.get("parameters", {})), outputs)


def is_retryable(error: Error, request: Request) -> bool:
    return isinstance(error, ServerBusy) or (request.repeatable and isinstance(error, ConnectionFailed))
