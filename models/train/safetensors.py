"""Reads and writes the model file of ../FORMAT.md, on NumPy alone."""
import hashlib
import json
import os
import struct

import numpy as np

TYPES = {"I8": np.int8, "U8": np.uint8, "U16": np.uint16, "I32": np.int32, "U32": np.uint32, "F32": np.float32,
         "F16": np.float16}  # which no served model has: a teacher that is kept
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
ALIGN = 64


def write(path, tensors, metadata):
    """tensors: name -> array; `halut.sha256` is added. The format allows no gaps, so tensors whose length is
    a multiple of the alignment come first: the large ones, which a reader maps in place, all lie aligned."""
    def order(item):
        return item[1].nbytes % ALIGN != 0, -item[1].itemsize, item[0]

    header, parts, offset = {}, [], 0
    for name, array in sorted(tensors.items(), key=order):
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + len(raw)]}
        parts.append(raw)
        offset += len(raw)
    data = b"".join(parts)
    digest = hashlib.sha256(data).hexdigest()
    header["__metadata__"] = {**metadata, "halut.sha256": digest}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    part = path + ".part"
    with open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read(path):
    """Returns tensors, metadata."""
    with open(path, "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata
