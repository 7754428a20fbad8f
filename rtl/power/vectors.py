#!/usr/bin/python3
"""vectors.py FOLDER P R: what a unit of P codebooks and R rows computes for the first learned layer of the shipped
network on models/photo/cat.jpg, 8 lanes, as files for $readmemh.

    load.hex   17 beats a codebook, as halut_top takes them
    in.hex     input beats; code.hex, their codes; want.hex, the int32 sums of each, [lane][row]
    tree.hex   value, thresholds, code: a line for each row of each codebook
"""
import json
import os
import sys

import numpy as np
from PIL import Image

sys.dont_write_bytecode = True
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "models"))
import reference  # noqa: E402

LANES = 8
BEATS = 128


def layer_input(tensors, metadata):
    """Columns [C * ky * kx][rows] of the first learned layer, and its name."""
    shape = json.loads(metadata["halut.input"])
    first, layer = json.loads(metadata["halut.graph"])[:2]
    assert first["op"] == "conv" and layer["op"] == "halut", "a network that begins otherwise"
    picture = Image.open(os.path.join(TOP, "models", "photo", "cat.jpg")).convert("RGB")
    picture = np.asarray(picture.resize((shape["width"], shape["height"]))).transpose(2, 0, 1)
    image = reference.op_conv(first, tensors, picture, shape["zero"])
    rows, _, _ = reference.patches(image, layer["kernel"], layer["stride"], layer["pad"], [0] * len(image))
    return rows, layer["name"]


def number(array, dtype):
    """An array as one hexadecimal number, its first element lowest."""
    return np.ascontiguousarray(array.astype(dtype)).tobytes()[::-1].hex()


def write(folder, name, lines):
    with open(os.path.join(folder, name), "w") as file:
        file.writelines(line + "\n" for line in lines)


def main():
    folder, codebooks, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    tensors, metadata = reference.load(os.path.join(TOP, "models", "resnet9-cifar10.safetensors"))
    rows, name = layer_input(tensors, metadata)
    # The middle of the picture, where a thing is.
    middle = (rows.shape[1] - BEATS * at_once) // 2
    value = rows[tensors[name + ".split"][:codebooks]][:, :, middle:middle + BEATS * at_once]
    threshold = tensors[name + ".threshold"][:codebooks]
    table = tensors[name + ".table"][:LANES, :codebooks]
    code = np.array([reference.encode(v, t) for v, t in zip(value, threshold)])
    total = reference.sums(value, threshold, table)

    load = []
    for c in range(codebooks):
        load.append(number(threshold[c], "<u1"))
        load += [number(np.pad(table[:, c, leaf], (0, 16 - LANES)), "<i1") for leaf in range(16)]
    write(folder, "load.hex", load)
    beats = [np.s_[b * at_once:(b + 1) * at_once] for b in range(BEATS)]
    write(folder, "in.hex", [number(value[:, :, b], "<u1") for b in beats])
    write(folder, "want.hex", [number(total[:, b], "<i4") for b in beats])
    write(folder, "code.hex", ["".join(f"{n:x}" for n in code[:, b].reshape(-1)[::-1]) for b in beats])
    write(folder, "tree.hex", [number(value[c, :, row], "<u1") + number(threshold[c], "<u1") + f"{code[c, row]:x}"
                               for c in range(codebooks) for row in range(BEATS)])


main()
