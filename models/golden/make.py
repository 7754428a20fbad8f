#!/usr/bin/python3
"""Makes the golden models of this folder: small random networks and products, each with an example whose
output is computed by ../reference.py. Same seed, same bytes.

    make.py DIR             writes all of them
    make.py --resnet9 FILE  writes the flagship's topology with random tables, for timing (not committed)
"""
import argparse
import json
import os
import sys

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import reference  # noqa: E402


class Net:
    """Builds a network node by node, tracking shapes."""

    def __init__(self, name, shape, zero, seed):
        self.random = np.random.default_rng(seed)
        self.name, self.shape, self.zero = name, {"input": shape}, zero
        self.graph, self.tensors, self.last = [], {}, "input"

    def add_node(self, op, inputs, shape, **attributes):
        name = attributes.pop("name", None) or f"{op}{len(self.graph) + 1}"
        self.graph.append({"op": op, "name": name, "in": inputs, **attributes})
        self.shape[name] = shape
        self.last = name
        return name

    def windowed(self, source, kernel, stride, pad):
        channels, height, width = self.shape[source]
        return channels, [reference.output_size(height, kernel[0], stride[0], pad[0]),
                          reference.output_size(width, kernel[1], stride[1], pad[1])]

    def requant(self, name, outputs, spread):
        """Bias and scale that map sums of this spread onto most of 0..255."""
        bias = self.random.integers(0, int(2 * spread) + 1, outputs)
        scale = self.random.uniform(0.5, 1.5, outputs) * 255 * 65536 / (4 * spread)
        self.tensors[name + ".bias"] = bias.astype(np.int32)
        self.tensors[name + ".scale"] = np.clip(scale, 1, 65535).astype(np.uint16)

    def conv(self, outputs, kernel=(3, 3), stride=(1, 1), pad=(1, 1), source=None, name=None):
        source = source or self.last
        channels, size = self.windowed(source, kernel, stride, pad)
        name = self.add_node("conv", [source], [outputs] + size, name=name, kernel=list(kernel),
                             stride=list(stride), pad=list(pad))
        weight = self.random.integers(-128, 128, (outputs, channels, *kernel)).astype(np.int8)
        self.tensors[name + ".weight"] = weight
        self.requant(name, outputs, 74 * 128 * (channels * kernel[0] * kernel[1]) ** 0.5 / 2)
        return name

    def halut(self, outputs, codebooks=None, kernel=(3, 3), stride=(1, 1), pad=(1, 1), source=None, name=None,
              tables="uniform"):
        """codebooks None: one a channel, which reads that channel only."""
        source = source or self.last
        channels, size = self.windowed(source, kernel, stride, pad)
        name = self.add_node("halut", [source], [outputs] + size, name=name, kernel=list(kernel),
                             stride=list(stride), pad=list(pad))
        taps = kernel[0] * kernel[1]
        if codebooks is None:
            codebooks = channels
            split = self.random.integers(0, taps, (codebooks, 4)) + taps * np.arange(channels)[:, None]
        else:
            split = self.random.integers(0, taps * channels, (codebooks, 4))
        threshold = self.random.integers(0, 256, (codebooks, 16))
        threshold[:, 0] = 0
        if tables == "extreme":
            table = self.random.choice([-128, 127], (outputs, codebooks, 16), p=[0.1, 0.9])
            spread = 127 * codebooks / 2
        elif tables == "small":
            table = self.random.integers(-7, 8, (outputs, codebooks, 16))
            spread = 4 * codebooks ** 0.5
        else:
            table = self.random.integers(-128, 128, (outputs, codebooks, 16))
            spread = 74 * codebooks ** 0.5
        self.tensors[name + ".split"] = split.astype(np.uint16)
        self.tensors[name + ".threshold"] = threshold.astype(np.uint8)
        self.tensors[name + ".table"] = table.astype(np.int8)
        self.requant(name, outputs, spread)
        return name

    def pool(self, op, kernel, stride=None, source=None, name=None):
        source = source or self.last
        stride = stride or kernel
        channels, size = self.windowed(source, kernel, stride, (0, 0))
        return self.add_node(op, [source], [channels] + size, name=name, kernel=list(kernel),
                             stride=list(stride))

    def add(self, other, zero=None, source=None, name=None):
        source = source or self.last
        attributes = {} if zero is None else {"zero": zero}
        return self.add_node("add", [source, other], self.shape[source], name=name, **attributes)

    def linear(self, outputs, source=None):
        source = source or self.last
        inputs = int(np.prod(self.shape[source]))
        name = self.add_node("linear", [source], [outputs, 1, 1])
        self.tensors[name + ".weight"] = self.random.integers(-128, 128, (outputs, inputs)).astype(np.int8)
        self.tensors[name + ".bias"] = self.random.integers(-10**6, 10**6, outputs).astype(np.int32)

    def save(self, path, labels, examples, description):
        shape = self.shape["input"]
        metadata = {
            "halut.format": "1", "halut.kind": "network", "halut.name": self.name, "halut.version": "1",
            "halut.description": description,
            "halut.input": json.dumps({"channels": shape[0], "height": shape[1], "width": shape[2],
                                       "zero": self.zero}),
            "halut.labels": json.dumps(labels), "halut.logit_scale": "0.0001",
            "halut.graph": json.dumps(self.graph),
        }
        tensors = dict(self.tensors)
        if examples:
            tensors["golden.input"] = reference.random_input(tensors, metadata, examples, self.random)
            tensors["golden.output"] = reference.run(tensors, metadata, tensors["golden.input"])
        reference.save(path, tensors, metadata)


def product(path, name, columns, codebooks, outputs, examples, seed, tables="uniform", special=False):
    random = np.random.default_rng(seed)
    threshold = random.integers(0, 256, (codebooks, 16)).astype(np.uint8)
    threshold[:, 0] = 0
    if tables == "extreme":
        table = random.choice([-128, 127], (outputs, codebooks, 16), p=[0.05, 0.95]).astype(np.int8)
    else:
        table = random.integers(-128, 128, (outputs, codebooks, 16)).astype(np.int8)
    split = random.integers(0, columns, (codebooks, 4)).astype(np.uint32)
    # One range for each column, so that columns read twice are read alike.
    low = random.uniform(-3, 1, columns).astype(np.float32)[split]
    inverse = random.uniform(1, 300, columns).astype(np.float32)[split]
    tensors = {"split": split, "low": low, "inverse": inverse, "threshold": threshold, "table": table,
               "scale": random.uniform(0.001, 0.1, outputs).astype(np.float32),
               "bias": random.normal(0, 10, outputs).astype(np.float32)}
    metadata = {"halut.format": "1", "halut.kind": "product", "halut.name": name, "halut.version": "1",
                "halut.columns": str(columns),
                "halut.description": f"random tables, seed {seed}, made by models/golden/make.py"}
    x = reference.random_input(tensors, metadata, examples, random)
    if special:  # what no number from a generator is: ties, infinities, NaN, zeros of both signs, subnormals
        low[:], inverse[:] = 0, 1
        low[1:2], inverse[2:3] = -0.5, -1
        values = np.array([0.5, 1.5, 2.5, 254.5, 255.5, -0.5, 127.5, 128.5, np.inf, -np.inf, np.nan, 0.0,
                           -0.0, 1e-42, 3e38, -3e38], np.float32)
        for row in range(examples):
            x[row] = np.roll(np.resize(values, columns), row)
    tensors["golden.input"] = x
    tensors["golden.output"] = reference.run(tensors, metadata, x)
    reference.save(path, tensors, metadata)


def residual(path):
    """The flagship's shape in miniature: every fused group that it has."""
    net = Net("golden-residual", [3, 16, 16], [125, 123, 114], 1)
    net.conv(8)
    net.halut(16)
    pooled = net.pool("maxpool", (2, 2))
    net.halut(16)
    net.halut(16)
    net.add(pooled, zero=0)
    net.halut(20)
    pooled = net.pool("maxpool", (2, 2))
    net.halut(20)
    net.halut(20)
    net.add(pooled)
    net.pool("maxpool", (4, 4))
    net.linear(10)
    net.save(path, [f"class {i}" for i in range(10)], 9, "residual network, random tables, seed 1")


def strides(path):
    """Odd sizes, uneven kernels, strides and pads; a learned first layer; columns from anywhere."""
    net = Net("golden-strides", [2, 13, 9], [7, 250], 2)
    net.halut(7, codebooks=11, kernel=(3, 2), stride=(2, 1), pad=(2, 1))
    net.conv(5, kernel=(2, 3), stride=(1, 2), pad=(0, 2))
    net.pool("avgpool", (2, 3), (1, 1))
    net.halut(33, codebooks=1, kernel=(1, 1), pad=(0, 0))
    net.halut(3, codebooks=6, kernel=(5, 4), stride=(3, 2), pad=(4, 3), tables="small")
    net.linear(1)
    net.save(path, ["only"], 5, "odd sizes and strides, random tables, seed 2")


def sums(path):
    """More codebooks than an int16 sum holds, with entries at both ends, and requantising at its edges."""
    net = Net("golden-sums", [1, 5, 6], [0], 3)
    wide = net.halut(9, codebooks=300, tables="extreme")
    net.tensors[wide + ".bias"][:4] = [-2**31, 2**31 - 1, 65535, -38400]
    net.tensors[wide + ".scale"][:5] = [65535, 65535, 1, 256, 0]
    edge = net.halut(4, codebooks=257, tables="extreme")
    net.tensors[edge + ".scale"][:2] = [512, 511]
    net.linear(3)
    net.save(path, ["a", "b", "c"], 7, "sums past 16 bits, seed 3")


def pools(path):
    """Pools and additions that a convolution can take along, and those that it cannot."""
    net = Net("golden-pools", [3, 12, 12], [1, 2, 3], 4)
    stem = net.halut(6, codebooks=9)
    net.pool("maxpool", (3, 3), (1, 1))  # overlapping: a node of its own
    net.halut(6, source=stem, pad=(0, 0))
    net.add("maxpool2", zero=128)  # first operand learned, second a pool
    net.pool("maxpool", (2, 5))  # not square
    net.halut(6, codebooks=5)
    shared = net.halut(6, codebooks=4)
    net.halut(6, codebooks=4)
    net.add(shared, zero=255)  # both learned: the later one joins
    net.add(net.last, zero=3)  # doubled
    net.halut(6, codebooks=2, pad=(1, 1))
    net.add("add9", zero=9)
    net.pool("maxpool", (1, 1))
    net.pool("avgpool", (5, 2))
    net.linear(4)
    net.save(path, ["north", "east", "south", "west"], 6, "pools and additions, random tables, seed 4")


def branches(path):
    """Learned layers that a pool or an addition would take along, were they not read elsewhere too; a pad past
    the middle of the kernel."""
    net = Net("golden-branches", [2, 6, 6], [3, 4], 10)
    first = net.halut(4, codebooks=3, pad=(2, 2))
    pooled = net.pool("maxpool", (2, 2))
    second = net.halut(4, codebooks=3, stride=(2, 2), source=first)
    net.add(pooled, zero=9)  # the later operand is read again below
    net.add(second, zero=20)
    net.linear(3)
    net.save(path, ["up", "down", "level"], 3, "learned layers read twice, random tables, seed 10")


def resnet9(path):
    net = Net("random-resnet9", [3, 32, 32], [125, 123, 114], 9)
    net.conv(64, name="conv1")
    net.halut(128, name="conv2")
    first = net.pool("maxpool", (2, 2), name="pool2")
    net.halut(128, name="res1a")
    net.halut(128, name="res1b")
    net.add(first, name="add1")
    net.halut(256, name="conv3")
    net.pool("maxpool", (2, 2), name="pool3")
    net.halut(256, name="conv4")
    second = net.pool("maxpool", (2, 2), name="pool4")
    net.halut(256, name="res2a")
    net.halut(256, name="res2b")
    net.add(second, name="add2")
    net.pool("maxpool", (4, 4), name="pool")
    net.linear(10)
    net.save(path, [str(i) for i in range(10)], 1, "ResNet-9 of random tables, for timing only")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--resnet9", metavar="FILE")
    args = parser.parse_args()
    if args.resnet9:
        resnet9(args.resnet9)
    if not args.folder:
        return
    for make in (residual, strides, sums, pools, branches):
        make(os.path.join(args.folder, make.__name__ + ".safetensors"))
    target = os.path.join(args.folder, "product-{}.safetensors").format
    product(target("small"), "golden-product-small", 24, 6, 5, 16, 5)
    product(target("wide"), "golden-product-wide", 700, 300, 9, 4, 6, tables="extreme")
    product(target("one"), "golden-product-one", 1, 1, 1, 16, 7)
    product(target("special"), "golden-product-special", 16, 8, 3, 16, 8, special=True)


if __name__ == "__main__":
    main()
