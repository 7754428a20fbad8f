#!/usr/bin/python3
"""FORMAT.md made executable: runs any model file, slowly, on NumPy alone.

It shares no code with the daemon and is written to be read beside FORMAT.md, not to be fast.

    reference.py run MODEL INPUT.npy OUTPUT.npy     computes
    reference.py check MODEL                        replays the golden example of the file
    reference.py golden MODEL [-n N] [--seed S]     makes one of N seeded random inputs and writes it in
"""
import argparse
import hashlib
import json
import os
import struct
import sys

import numpy as np

TYPES = {"I8": "<i1", "U8": "<u1", "I32": "<i4", "F32": "<f4", "U16": "<u2", "U32": "<u4"}
ALIGN = 64


def load(path):
    """Returns the tensors and the metadata of a safetensors file."""
    with open(path, "rb") as file:
        content = file.read()
    length, = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + length])
    data = content[8 + length:]
    metadata = header.pop("__metadata__", {})
    if metadata.get("halut.sha256") != hashlib.sha256(data).hexdigest():
        raise ValueError(f"{path}: the tensors do not have the SHA-256 that halut.sha256 says")
    tensors = {}
    for name, entry in header.items():
        if name.startswith("_pad."):
            continue
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def save(path, tensors, metadata):
    """Writes one, every tensor on a 64-byte boundary, the gaps named _pad.*."""
    names = {np.dtype(kind): name for name, kind in TYPES.items()}
    header, data = {}, bytearray()

    def add(name, dtype, shape, content):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data.extend(content)

    for name, array in tensors.items():
        add(name, names[array.dtype], list(array.shape), array.tobytes())
        if len(data) % ALIGN:
            fill = ALIGN - len(data) % ALIGN
            add("_pad." + name, "U8", [fill], bytes(fill))
    digest = hashlib.sha256(data).hexdigest()
    header = {"__metadata__": {**metadata, "halut.sha256": digest}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    with open(path + ".part", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    os.replace(path + ".part", path)


def encode(value, threshold):
    """value [4][rows] and threshold [16] of one codebook to codes [rows]."""
    node = np.ones(value.shape[1], np.int64)
    for level in range(4):
        node = 2 * node + (value[level] > threshold[node])
    return node - 16


def sums(value, threshold, table):
    """value [B][4][rows], threshold [B][16], table [M][B][16] to sums [M][rows]."""
    total = np.zeros((table.shape[0], value.shape[2]), np.int64)
    for codebook in range(value.shape[0]):
        code = encode(value[codebook], threshold[codebook])
        total += table[:, codebook, code].astype(np.int64)
    return total


def requantise(total, bias, scale):
    """total [M][...] to u8."""
    shape = (-1,) + (1,) * (total.ndim - 1)
    raised = np.clip(total + bias.astype(np.int64).reshape(shape), 0, 65535)
    return np.minimum((raised * scale.astype(np.int64).reshape(shape)) >> 16, 255).astype(np.uint8)


def output_size(size, kernel, stride, pad):
    return (size + 2 * pad - kernel) // stride + 1


def patches(image, kernel, stride, pad, zero):
    """image [C][H][W] to columns [C * ky * kx][out_h * out_w], and out_h, out_w. zero [C] pads."""
    channels, height, width = image.shape
    padded = np.empty((channels, height + 2 * pad[0], width + 2 * pad[1]), np.int64)
    padded[:] = np.asarray(zero).reshape(-1, 1, 1)
    padded[:, pad[0]:pad[0] + height, pad[1]:pad[1] + width] = image
    out_h = output_size(height, kernel[0], stride[0], pad[0])
    out_w = output_size(width, kernel[1], stride[1], pad[1])
    rows = []
    for channel in range(channels):
        for y in range(kernel[0]):
            for x in range(kernel[1]):
                tap = padded[channel, y:y + stride[0] * out_h:stride[0], x:x + stride[1] * out_w:stride[1]]
                rows.append(tap[:out_h, :out_w].reshape(-1))
    return np.array(rows), out_h, out_w


def windows(image, node):
    """image [C][H][W] to [C][n][out_h * out_w], and out_h, out_w."""
    rows, out_h, out_w = patches(image, node["kernel"], node["stride"], [0, 0], [0] * image.shape[0])
    return rows.reshape(image.shape[0], -1, out_h * out_w), out_h, out_w


def op_conv(node, tensors, image, zero):
    rows, out_h, out_w = patches(image, node["kernel"], node["stride"], node["pad"], zero)
    weight = tensors[node["name"] + ".weight"].astype(np.int64)
    total = weight.reshape(len(weight), -1) @ rows
    y = requantise(total, tensors[node["name"] + ".bias"], tensors[node["name"] + ".scale"])
    return y.reshape(-1, out_h, out_w)


def op_halut(node, tensors, image):
    rows, out_h, out_w = patches(image, node["kernel"], node["stride"], node["pad"], [0] * image.shape[0])
    part = {key: tensors[f"{node['name']}.{key}"] for key in ("split", "threshold", "table", "bias", "scale")}
    total = sums(rows[part["split"]], part["threshold"], part["table"])
    return requantise(total, part["bias"], part["scale"]).reshape(-1, out_h, out_w)


def op_avgpool(node, image):
    rows, out_h, out_w = windows(image, node)
    count = rows.shape[1]
    return ((2 * rows.sum(1) + count) // (2 * count)).astype(np.uint8).reshape(-1, out_h, out_w)


def op_maxpool(node, image):
    rows, out_h, out_w = windows(image, node)
    return rows.max(1).astype(np.uint8).reshape(-1, out_h, out_w)


def network(tensors, metadata, image):
    """One image [C][H][W] to logits [classes], and every node's value by name."""
    shape = json.loads(metadata["halut.input"])
    values = {"input": image}
    for node in json.loads(metadata["halut.graph"]):
        first = values[node["in"][0]]
        if node["op"] == "conv":
            zero = shape["zero"] if node["in"][0] == "input" else [0] * first.shape[0]
            value = op_conv(node, tensors, first, zero)
        elif node["op"] == "halut":
            value = op_halut(node, tensors, first)
        elif node["op"] == "maxpool":
            value = op_maxpool(node, first)
        elif node["op"] == "avgpool":
            value = op_avgpool(node, first)
        elif node["op"] == "add":
            total = first.astype(np.int64) + values[node["in"][1]] - node.get("zero", 0)
            value = np.clip(total, 0, 255).astype(np.uint8)
        elif node["op"] == "linear":
            weight = tensors[node["name"] + ".weight"].astype(np.int64)
            total = weight @ first.reshape(-1).astype(np.int64) + tensors[node["name"] + ".bias"]
            value = total.astype(np.int32)
        else:
            raise ValueError(f"node {node['name']}: unknown op {node['op']}")
        values[node["name"]] = value
    return value, values


def product(tensors, x):
    """x F32 [rows][columns] to F32 [rows][outputs]."""
    value = np.empty(tensors["split"].shape + (len(x),), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        for index in np.ndindex(*tensors["split"].shape):
            column = x[:, tensors["split"][index]].astype(np.float32)
            scaled = np.rint((column - tensors["low"][index]) * tensors["inverse"][index])
            value[index] = np.clip(np.where(np.isnan(scaled), np.float32(0), scaled), 0, 255)
    total = sums(value, tensors["threshold"], tensors["table"]).T.astype(np.float32)
    return total * tensors["scale"] + tensors["bias"]


def run(tensors, metadata, x):
    """A batch: U8 [n][C][H][W] to I32 [n][classes], or F32 [n][columns] to F32 [n][outputs]."""
    if metadata["halut.kind"] == "product":
        return product(tensors, x)
    return np.array([network(tensors, metadata, image)[0] for image in x], np.int32)


def random_input(tensors, metadata, count, generator):
    """Inputs of the kind's shape that use the whole range of values."""
    if metadata["halut.kind"] == "network":
        shape = json.loads(metadata["halut.input"])
        size = (count, shape["channels"], shape["height"], shape["width"])
        return generator.integers(0, 256, size, np.uint8)
    x = np.zeros((count, int(metadata["halut.columns"])), np.float32)
    split = tensors["split"].reshape(-1)
    low, inverse = tensors["low"].reshape(-1), tensors["inverse"].reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for column, a, b in zip(split, low, inverse):
            x[:, column] = a + generator.uniform(-20, 275, count).astype(np.float32) / b
    return np.nan_to_num(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("model")
    one.add_argument("input")
    one.add_argument("output")
    commands.add_parser("check").add_argument("model")
    make = commands.add_parser("golden")
    make.add_argument("model")
    make.add_argument("-n", type=int, default=2)
    make.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tensors, metadata = load(args.model)
    if args.command == "run":
        np.save(args.output, run(tensors, metadata, np.load(args.input)))
    elif args.command == "check":
        if "golden.input" not in tensors:
            sys.exit(f"{args.model}: no golden example")
        same = run(tensors, metadata, tensors["golden.input"]).tobytes() == tensors["golden.output"].tobytes()
        print(f"{args.model}: {'OK' if same else 'DIFFERENT'}")
        sys.exit(not same)
    else:
        x = random_input(tensors, metadata, args.n, np.random.default_rng(args.seed))
        tensors = {**tensors, "golden.input": x, "golden.output": run(tensors, metadata, x)}
        save(args.model, tensors, metadata)


if __name__ == "__main__":
    main()
