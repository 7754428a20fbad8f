#!/usr/bin/python3
"""dense_models.py FOLDER: write the dense ResNet-9 for ONNX Runtime, in float32 and in int8.

The topology is that of models/resnet9-cifar10.safetensors with an ordinary convolution in the place
of each learned one, batch norm folded. The weights are random (seed 0): only the speed is measured.
int8 is the fastest form of that runtime on AVX2: QLinearConv with u8 activations and s8 weights, one
scale for each output channel, weights within 7 bits so that its 16-bit sums cannot saturate.
"""
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# name, input channels, output channels, max-pool window after it
CONVOLUTIONS = [
    ("stem", 3, 64, 1),
    ("layer1", 64, 128, 2),
    ("residual1a", 128, 128, 1),
    ("residual1b", 128, 128, 1),
    ("layer2", 128, 256, 2),
    ("layer3", 256, 256, 2),
    ("residual3a", 256, 256, 1),
    ("residual3b", 256, 256, 1),
]
ADDS = {"residual1b": "layer1", "residual3b": "layer3"}  # output of the first + output of the second
CLASSES = 10
SCALE = np.float32(4 / 255)


class Graph:
    """Collects nodes and constants."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def pool(self, value, window):
        if window == 1:
            return value
        size = [window, window]
        return self.node("MaxPool", [value], value + "_pooled", kernel_shape=size, strides=size)

    def save(self, path, opsets):
        shape = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])]
        logits = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])]
        graph = helper.make_graph(self.nodes, "resnet9", shape, logits, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets])
        model.ir_version = 7
        onnx.checker.check_model(model)
        onnx.save(model, path)


def walk(graph, value, convolution, add):
    """Put the body of the network on `graph`; returns the map after the last pool."""
    outputs = {}
    for name, channels, filters, window in CONVOLUTIONS:
        value = graph.pool(convolution(name, channels, filters, value), window)
        if name in ADDS:
            value = add(value, outputs[ADDS[name]], name + "_sum")
        outputs[name] = value
    return graph.pool(value, 4)


def random_weights(rng, channels, filters):
    """He initialisation keeps the activations of a deep network in range."""
    deviation = np.sqrt(2 / (9 * channels))
    return rng.normal(0, deviation, (filters, channels, 3, 3)).astype(np.float32)


def classifier(graph, rng, value):
    flat = graph.node("Flatten", [value], "flat", axis=1)
    filters = CONVOLUTIONS[-1][2]
    weight = graph.constant("fc_w", rng.normal(0, 0.05, (filters, CLASSES)).astype(np.float32))
    bias = graph.constant("fc_b", np.zeros(CLASSES, np.float32))
    graph.node("Gemm", [flat, weight, bias], "y")


def write_fp32(path):
    graph, rng = Graph(), np.random.default_rng(0)

    def convolution(name, channels, filters, value):
        weight = graph.constant(name + "_w", random_weights(rng, channels, filters))
        bias = graph.constant(name + "_b", rng.normal(0, 0.05, filters).astype(np.float32))
        made = graph.node("Conv", [value, weight, bias], name + "_c", kernel_shape=[3, 3], pads=[1] * 4)
        return graph.node("Relu", [made], name)

    def add(a, b, output):
        return graph.node("Add", [a, b], output)

    classifier(graph, rng, walk(graph, "x", convolution, add))
    graph.save(path, [("", 13)])


def write_int8(path):
    graph, rng = Graph(), np.random.default_rng(0)
    image = [graph.constant("x_scale", SCALE), graph.constant("x_zero", np.uint8(128))]
    inner = [graph.constant("scale", SCALE), graph.constant("zero", np.uint8(0))]
    first = graph.node("QuantizeLinear", ["x", *image], "x_u8")

    def convolution(name, channels, filters, value):
        weight = random_weights(rng, channels, filters)
        scale = (np.abs(weight).reshape(filters, -1).max(1) / 63).astype(np.float32)
        parts = [
            graph.constant(name + "_w", np.round(weight / scale[:, None, None, None]).astype(np.int8)),
            graph.constant(name + "_s", scale),
            graph.constant(name + "_z", np.zeros(filters, np.int8)),
        ]
        bias = graph.constant(name + "_b", rng.integers(-200, 200, filters).astype(np.int32))
        quantised = image if name == CONVOLUTIONS[0][0] else inner
        return graph.node("QLinearConv", [value, *quantised, *parts, *inner, bias], name,
                          kernel_shape=[3, 3], pads=[1] * 4)

    def add(a, b, output):
        return graph.node("QLinearAdd", [a, *inner, b, *inner, *inner], output, domain="com.microsoft")

    last = walk(graph, first, convolution, add)
    classifier(graph, rng, graph.node("DequantizeLinear", [last, *inner], "floats"))
    graph.save(path, [("", 13), ("com.microsoft", 1)])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    os.makedirs(sys.argv[1], exist_ok=True)
    write_fp32(os.path.join(sys.argv[1], "resnet9_fp32.onnx"))
    write_int8(os.path.join(sys.argv[1], "resnet9_int8.onnx"))


if __name__ == "__main__":
    main()
