"""Writes a network of Halut, convolution, batch-norm, ReLU, pooling, addition and linear layers as a model file.

    python3 -m train.export --start halut.pt --data cifar-10-batches-bin --out resnet9-cifar10.safetensors

The network is traced, its maps are given u8 grids (one step a channel, one zero point a map) from the values seen
on calibration images, batch norm and biases are folded into the requantisation, and what comes out is the
integer program of ../FORMAT.md.
"""
import argparse
import copy
import json
import operator
import os
import re

import numpy as np
import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F

from . import safetensors
from .convert import halut_network
from .data import CLASSES, SCALE, ZERO, load, normalise
from .layers import HalutConv2d, HalutLinear, halut_layers, pair
from .run import command, device_of, machine_options, prepare, weights

PERCENTILE = 99.99  # of the calibration values of a channel that its grid must hold
SAMPLED = 1 << 16  # of these values in a batch: torch.quantile takes no more than 2^24 at once
WINDOW_MAX, SUM_MAX, OUTPUTS_MAX, NODES_MAX, NAME_MAX = 31, 65536, 4096, 256, 63  # of ../FORMAT.md
VERSION_MAX, LOGIT_MAX, BIAS_MAX = 2 ** 32 - 1, 2 ** 31 - 1, 2 ** 24
GAIN_MIN = 258 / 65536  # of a requantisation: less, and a sum of 65535 would not reach 255


class Tracer(torch.fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, HalutConv2d) or super().is_leaf_module(module, name)


class Map:
    """A u8 map of the integer network: value = step[channel] * (integer - zero)."""

    def __init__(self, name, shape, low, high):
        self.name, self.shape = name, shape
        self.low, self.high = low, high  # per channel, as calibrated
        self.group = self                # maps that must share one grid point at one of them
        self.floor = np.zeros(shape[0])  # least step that keeps every requantisation scale under 1
        self.cap = None                  # of a ReLU6: what the grid must end at
        self.zero = 0
        self.step = None

    def root(self):
        while self.group is not self:
            self = self.group
        return self


def join(a, b):
    a, b = a.root(), b.root()
    if a is not b:
        a.floor = np.maximum(a.floor, b.floor)
        b.group = a


def is_call(node, modules, functions=(), methods=()):
    return (node.op == "call_module" and isinstance(node.module, modules) or
            node.op == "call_function" and node.target in functions or
            node.op == "call_method" and node.target in methods)


RELU = ((nn.ReLU, nn.ReLU6), (F.relu, F.relu_, torch.relu, torch.relu_, F.relu6), ("relu", "relu_"))
ADD = ((), (operator.add, operator.iadd, torch.add), ("add", "add_"))
MAX_POOL = ((nn.MaxPool2d,), (F.max_pool2d, torch.max_pool2d))
MAX_GLOBAL = ((nn.AdaptiveMaxPool2d,), (F.adaptive_max_pool2d,))
MEAN_POOL = ((nn.AvgPool2d,), (F.avg_pool2d,))
MEAN_GLOBAL = ((nn.AdaptiveAvgPool2d,), (F.adaptive_avg_pool2d,))
POOL_ARGUMENTS = {"maxpool": ("kernel_size", "stride", "padding", "dilation"),  # those that matter, by position
                  "avgpool": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
                              "divisor_override")}
MEAN = ((), (torch.mean,), ("mean",))
NORM = ((nn.BatchNorm2d, nn.BatchNorm1d),)
FLATTEN = ((nn.Flatten,), (torch.flatten,), ("flatten", "view", "reshape"))
SAME = ((nn.Identity, nn.Dropout, nn.Dropout2d), (F.dropout, F.dropout2d), ("contiguous",))
LINEAR = (nn.Linear, HalutLinear)
MOVED = (MAX_POOL, MAX_GLOBAL, FLATTEN)  # a ReLU behind them may as well be before them


def without_same(graph):
    """Takes out what changes nothing."""
    for node in list(graph.nodes):
        if is_call(node, *SAME):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def in_place(node):
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (getattr(node.module, "inplace", False) or node.kwargs.get("inplace", False) or
            node.op != "call_module" and (name.endswith("_") and not name.endswith("__") or name.startswith("iadd")))


def without_unread(graph):
    """Takes out what nobody reads, once it is sure that nobody reads what it did to its input either."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    for node in order:
        for reader in node.args[0].users if node.args and in_place(node) else ():
            if order[reader] > order[node]:
                raise ValueError(f"{node.name}: changes in place what {reader.name} reads after it")
    for node in reversed(order):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def relu_first(graph):
    """Puts a ReLU that follows a max-pool or a flatten before it, which is the same and what a convolution can take
    in."""
    for node in list(graph.nodes):
        pool = node.args[0] if node.args else None
        while is_call(node, *RELU) and len(pool.users) == 1 and any(is_call(pool, *kind) for kind in MOVED):
            source = pool.args[0]
            node.replace_all_uses_with(pool)
            node.replace_input_with(pool, source)
            pool.replace_input_with(source, node)
            pool.prepend(node)
            pool = source


class Calibration(torch.fx.Interpreter):
    """Runs the traced network and keeps per-channel bounds of every map (a matrix is a map of 1x1), and what
    is no tensor: sizes."""

    def __init__(self, traced):
        super().__init__(traced)
        self.bounds, self.constants = {}, {}

    def run_node(self, node):
        value = result = super().run_node(node)
        if not isinstance(value, torch.Tensor) and node.op != "output":
            self.constants[node] = value
        if isinstance(value, torch.Tensor) and value.dim() == 2:
            value = value.view(*value.shape, 1, 1)
        if isinstance(value, torch.Tensor) and value.dim() == 4:
            flat = value.detach().float().transpose(0, 1).reshape(value.shape[1], -1)
            flat = flat[:, ::max(1, -(-flat.shape[1] // SAMPLED))]
            tail = (100 - PERCENTILE) / 100
            low = torch.quantile(flat, tail, dim=1).cpu().numpy()
            high = torch.quantile(flat, 1 - tail, dim=1).cpu().numpy()
            if not np.isfinite(low + high).all():
                raise ValueError(f"{node.name}: gives values that are not finite")
            shape, old_low, old_high = self.bounds.get(node.name, (None, low, high))
            self.bounds[node.name] = (tuple(value.shape[1:]), np.minimum(low, old_low), np.maximum(high, old_high))
        return result


def traced(model):
    """The graph of `model` without what changes nothing; each node knows its module."""
    graph = Tracer().trace(model)
    for node in graph.nodes:
        node.module = model.get_submodule(node.target) if node.op == "call_module" else None
        if node.op == "output" and not isinstance(node.args[0], torch.fx.Node):
            raise ValueError("the network gives several outputs: one, the logits, is possible")
        if node.module is not None:
            check_finite(node.target, node.module)
    without_same(graph)
    without_unread(graph)
    relu_first(graph)
    return graph


SOURCES = {"convolution": lambda rest: rest[2:3], "pool": lambda rest: rest[3:4], "add": lambda rest: rest[:2],
           "linear": lambda rest: rest[1:]}  # the maps that a step reads


class Exporter:
    def __init__(self, model, images, input_zero, input_scale):
        model.eval()
        graph = traced(model)
        calibration = Calibration(torch.fx.GraphModule(model, graph))
        with torch.no_grad():
            for x in images:
                calibration.run(x.to(device_of(model)))
        if not calibration.bounds:
            raise ValueError("images: there are none to calibrate the grids on")
        model = copy.deepcopy(model).cpu()
        self.nodes = list(graph.nodes)
        for node in self.nodes:
            node.module = model.get_submodule(node.target) if node.op == "call_module" else None
        self.bounds = calibration.bounds
        check_input(self.bounds[self.nodes[0].name][0], input_zero, input_scale)
        self.constants = {node.name: value for node, value in calibration.constants.items()}
        self.input_zero, self.input_scale = input_zero, input_scale
        self.maps, self.steps, self.logit_scale = {}, [], 1.0  # fx node -> Map; what to emit
        self.used = set()

    # First pass: which integer operation each group of fx nodes becomes.

    def follow(self, node):
        """The only user of `node`, or None."""
        users = list(node.users)
        return users[0] if len(users) == 1 else None

    def new_map(self, node, name):
        shape, low, high = self.bounds[node.name]
        made = Map(self.unique(name), shape, low, high)
        self.maps[node] = made
        return made

    def unique(self, name):
        name = name.replace(".", "_").strip("_")[:NAME_MAX - 4] or "node"
        candidate, count = name, 2
        while candidate in self.used or candidate == "input":
            candidate, count = f"{name}_{count}", count + 1
        self.used.add(candidate)
        return candidate

    def plan(self):
        for node in self.nodes:
            if node in self.maps or node.op == "output" or node.name in self.constants:
                continue
            if node.op == "placeholder":
                shape, low, high = self.bounds[node.name]
                self.maps[node] = Map("input", shape, low, high)
            elif is_call(node, (nn.Linear,)) and self.is_last(node):
                self.plan_linear(node)
            elif is_call(node, (nn.Conv2d, HalutConv2d, nn.Linear)):
                self.plan_convolution(node, node.module)
            elif is_call(node, *NORM):
                self.plan_convolution(node, unit(node.module.num_features), node.module)
            elif is_call(node, *ADD):
                self.plan_add(node)
            elif is_call(node, *RELU):
                if self.maps[node.args[0]].low.min() < 0 or cap(node):
                    raise ValueError(f"{node.name}: ReLU of a value that is used before it as well")
                self.maps[node] = self.maps[node.args[0]]
            elif is_call(node, *MAX_POOL) or is_call(node, *MAX_GLOBAL):
                self.plan_pool(node, "maxpool", is_call(node, *MAX_GLOBAL))
            elif is_call(node, *MEAN_POOL) or is_call(node, *MEAN_GLOBAL) or is_call(node, *MEAN):
                self.plan_pool(node, "avgpool", not is_call(node, *MEAN_POOL))
            elif is_call(node, *FLATTEN):
                self.maps[node] = self.maps[node.args[0]]
            else:
                raise ValueError(f"{node.name}: {node.op} {node.target} has no integer form")
        self.check_ends()

    def check_ends(self):
        """The file has one classifier, its last node, to which all others lead."""
        last = self.nodes[-1].args[0]
        if not self.steps or self.steps[-1][0] != "linear":
            raise ValueError(f"{last.name}: the output must be an nn.Linear's, perhaps times a number")
        if len(self.steps) > NODES_MAX:
            raise ValueError(f"{last.name}: the network takes {len(self.steps)} nodes: at most {NODES_MAX} are "
                             "possible")
        read = {id(made) for kind, *rest in self.steps for made in SOURCES[kind](rest)}
        for made in (step[-1] for step in self.steps[:-1]):
            if id(made) not in read:
                raise ValueError(f"{made.name}: nothing reads this map but its size")

    def scaled(self, node):
        """The multiplication by a number that alone reads `node`, or None."""
        after = self.follow(node)
        return after if after is not None and is_call(after, (), (operator.mul,), ("mul",)) else None

    def is_last(self, node):
        after = self.follow(self.scaled(node) or node)
        return after is not None and after.op == "output"

    def absorb(self, node, functions):
        """The next node if it is one of `functions` and nobody else reads this one."""
        after = self.follow(node)
        return after if after is not None and is_call(after, *functions) else None

    def plan_convolution(self, node, layer, norm=None):
        if self.is_last(node):
            raise ValueError(f"{node.name}: the last layer must be an nn.Linear")
        if isinstance(layer, nn.Conv2d):
            check_convolution(node.name, layer)
        last = node
        after = self.absorb(last, NORM) if norm is None else None
        if after is not None:
            last, norm = after, after.module
        relu = self.absorb(last, RELU)
        if relu is not None:
            last = relu
        source = self.maps[node.args[0]]
        made = self.new_map(last, node.name)
        if relu is not None:
            made.low, made.cap = np.maximum(made.low, 0), cap(relu)
        for inner in {node, after} - {None}:
            self.maps.setdefault(inner, made)
        self.steps.append(("convolution", layer, norm, source, made))

    def plan_add(self, node):
        if not all(isinstance(n, torch.fx.Node) and self.maps.get(n) for n in node.args[:2]):
            raise ValueError(f"{node.name}: only two maps can be added")
        if node.kwargs.get("alpha", 1) != 1:
            raise ValueError(f"{node.name}: only maps as they are can be added, without alpha")
        a, b = (self.maps[n] for n in node.args[:2])
        check_source(node.name, a, b)
        if a.shape != b.shape:
            raise ValueError(f"{node.name}: adds maps of different shapes, {a.shape} and {b.shape}")
        relu = self.absorb(node, RELU)
        made = self.new_map(relu if relu is not None else node, node.name)
        made.cap = cap(relu) if relu is not None else None
        self.maps.setdefault(node, made)
        join(a, made)
        join(b, made)
        self.steps.append(("add", a, b, relu is not None, made))

    def plan_pool(self, node, op, everything):
        source = self.maps[node.args[0]]
        check_source(node.name, source)
        if is_call(node, *MEAN) and self.mean_axes(node) != {2, 3}:
            raise ValueError(f"{node.name}: only a mean over the last two axes, height and width, has an integer form")
        made = self.new_map(node, node.name)
        if everything:
            if any(size % out for size, out in zip(source.shape[1:], made.shape[1:])):
                raise ValueError(f"{node.name}: pools {source.shape[1:]} to {made.shape[1:]} in unequal windows")
            kernel = stride = [size // out for size, out in zip(source.shape[1:], made.shape[1:])]
        else:
            settings = dict(zip(POOL_ARGUMENTS[op], self.values(node.args[1:])),
                            **{key: self.values(value) for key, value in node.kwargs.items()})
            if node.module is not None:
                settings = vars(node.module)
            kernel = pair(settings["kernel_size"])
            stride = pair(settings.get("stride") or settings["kernel_size"])
            if pair(settings.get("padding") or 0) != [0, 0] or pair(settings.get("dilation") or 1) != [1, 1]:
                raise ValueError(f"{node.name}: padded or dilated pooling has no integer form")
            if settings.get("divisor_override") not in (None, kernel[0] * kernel[1]):
                raise ValueError(f"{node.name}: a mean that is divided by another number (divisor_override) has no "
                                 "integer form")
        check_limits(node.name, kernel, stride, [0, 0], 1, 1)
        size = tuple((s - k) // t + 1 for s, k, t in zip(source.shape[1:], kernel, stride))
        if made.shape != (source.shape[0], *size):
            raise ValueError(f"{node.name}: gives {made.shape}, not {(source.shape[0], *size)} as pooling by "
                             f"{kernel} in steps of {stride} does (ceil_mode, or a mean over other axes?)")
        join(source, made)
        self.steps.append(("pool", op, kernel, stride, source, made))

    def mean_axes(self, node):
        axes = self.values(node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ()))
        return {axis % 4 for axis in ([axes] if isinstance(axes, int) else axes)}

    def values(self, argument):
        """An argument with the sizes in it as the numbers they had in calibration."""
        return torch.fx.node.map_arg(argument, lambda node: self.constants[node.name])

    def plan_linear(self, node):
        source = self.maps[node.args[0]]
        check_source(node.name, source)
        if node.module.in_features != np.prod(source.shape):
            raise ValueError(f"{node.name}: reads {node.module.in_features} of the {source.shape} values of its map")
        if node.module.in_features > SUM_MAX or node.module.out_features > OUTPUTS_MAX:
            raise ValueError(f"{node.name}: {node.module.in_features} values to {node.module.out_features} classes: at "
                             f"most {SUM_MAX} values and {OUTPUTS_MAX} classes are possible")
        after = self.scaled(node)
        if after is not None:
            factors = [a for a in after.args if not isinstance(a, torch.fx.Node)]
            if len(factors) != 1 or float(factors[0]) <= 0:
                raise ValueError(f"{after.name}: logits may be multiplied by a positive number only")
            self.logit_scale = float(factors[0])
            self.maps[after] = None
        self.maps[node] = None
        self.steps.append(("linear", node.module, source))

    # Second pass: grids.

    def choose_grids(self):
        for step in self.steps:
            if step[0] == "convolution":
                self.bound_step(*step[1:])
        members = {}
        for made in {id(m): m for m in self.maps.values() if m is not None}.values():
            members.setdefault(id(made.root()), []).append(made)
        for maps in members.values():
            floor = np.maximum.reduce([m.root().floor for m in maps])
            for m in maps:
                m.zero = zero_point(np.maximum(-m.low, 0), np.maximum(m.high, 0))
            need = [span(np.maximum(-m.low, 0), np.maximum(m.high, 0), m.zero) for m in maps]
            step = np.maximum(np.maximum(np.maximum.reduce(need), floor), 1e-8)
            for m in maps:
                m.step = step
        for kind, *rest in self.steps:  # in order of execution: what a zero point owes to the ones before it
            if kind == "pool":
                rest[-1].zero = rest[-2].zero
            elif kind == "add":
                rest[-1].zero = min(rest[-1].zero, rest[0].zero + rest[1].zero)
        for made in {id(m): m for m in self.maps.values() if m is not None}.values():
            if made.cap and (made.step * (255 - made.zero)).max() > 1.01 * made.cap:
                raise ValueError(f"{made.name}: its grid would not end at the 6 of the ReLU6: it is shared with a "
                                 "wider map by an addition, or the table is too coarse for it (keep the layer dense?)")
        source = self.maps[self.nodes[0]]
        source.step, source.zero = np.ones(source.shape[0]) / np.asarray(self.input_scale, np.float64), 0

    def bound_step(self, layer, norm, source, made):
        """A requantisation scale must stay under 1: the output step may not be finer than the sums."""
        if isinstance(layer, HalutConv2d):
            gain = np.abs(fold(layer, norm)[0]) * halut_table(layer)[1]
            made.root().floor = np.maximum(made.root().floor, gain * 1.001)

    # Third pass: tensors and graph.

    def emit(self):
        self.plan()
        self.choose_grids()
        self.tensors, self.graph = {}, []
        for kind, *rest in self.steps:
            getattr(self, "emit_" + kind)(*rest)
        return self.tensors, self.graph

    def emit_convolution(self, layer, norm, source, made):
        kernel, stride, pad = window(layer, source)
        zero = np.asarray(self.input_zero if source.name == "input" else [source.zero] * source.shape[0], np.float64)
        looked_up = isinstance(layer, HalutConv2d)
        if any(pad) and zero.any() and (looked_up or source.name != "input"):
            raise ValueError(f"{made.name}: reads, with padding, a map that may be negative (or the input); a padded "
                             "value would not be zero")
        check_limits(made.name, kernel, stride, pad, source.shape[0], made.shape[0])
        if looked_up and layer.codebooks > OUTPUTS_MAX:
            raise ValueError(f"{made.name}: {layer.codebooks} codebooks: at most {OUTPUTS_MAX} are possible")
        node = {"op": "conv", "name": made.name, "in": [source.name], "kernel": kernel, "stride": stride,
                "pad": pad}
        factor, offset = fold(layer, norm)
        least = GAIN_MIN * made.step / np.maximum(np.abs(factor), 1e-12)
        if looked_up:
            node["op"] = "halut"
            table, scale, constant = halut_table(layer, least)
            self.add_halut(made.name, layer, source, table, zero)
        else:
            weight = spread(layer, source) * source.step.reshape(1, -1, 1, 1)
            scale = np.maximum(np.abs(weight).max((1, 2, 3)) / 127, least)
            table = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
            constant = -scale * (table * zero.reshape(1, -1, 1, 1)).sum((1, 2, 3))
            self.tensors[f"{made.name}.weight"] = table
        gain = np.where(factor < 0, -1, 1) * np.maximum(np.abs(factor), 1e-12) * scale / made.step
        target = (factor * constant + offset) / made.step + made.zero
        flip = gain < 0
        self.negate(made.name, node["op"], flip)
        gain = np.abs(gain)
        multiplier = np.clip(np.rint(gain * 65536), 1, 65535)
        self.tensors[f"{made.name}.scale"] = multiplier.astype(np.uint16)
        bias = np.rint((target + 0.5) / (multiplier / 65536))
        self.tensors[f"{made.name}.bias"] = np.clip(bias, -2 ** 30, 2 ** 30).astype(np.int32)
        self.graph.append(node)

    def negate(self, name, op, flip):
        """A negative batch-norm weight turns the sums around, so that requantisation stays increasing."""
        table = self.tensors[name + (".table" if op == "halut" else ".weight")]
        table[flip] = -np.clip(table[flip], -127, 127)

    def add_halut(self, name, layer, source, table, zero):
        split = layer.split.numpy().astype(np.uint16)
        kernel = window(layer, source)[0]
        area = kernel[0] * kernel[1]
        threshold = layer.threshold.detach().numpy().astype(np.float64)
        channel = split // area
        whole = np.zeros(threshold.shape)
        for node in range(1, 16):
            read = channel[:, node.bit_length() - 1]
            whole[:, node] = np.floor(threshold[:, node] / source.step[read] + zero[read])
        always_right(whole, table)
        self.tensors[f"{name}.split"] = split
        self.tensors[f"{name}.threshold"] = np.clip(whole, 0, 255).astype(np.uint8)
        self.tensors[f"{name}.table"] = table

    def emit_add(self, a, b, relu, made):
        zero = a.zero + b.zero - made.zero
        if not 0 <= zero <= 255:
            raise ValueError(f"{made.name}: zero point {zero} of an addition is outside 0..255")
        self.graph.append({"op": "add", "name": made.name, "in": [a.name, b.name], "zero": zero})

    def emit_pool(self, op, kernel, stride, source, made):
        self.graph.append({"op": op, "name": made.name, "in": [source.name], "kernel": kernel, "stride": stride})

    def emit_linear(self, layer, source):
        name = self.unique("classifier")
        weight = layer.weight.detach().numpy().astype(np.float64)
        repeat = weight.shape[1] // len(source.step)
        weight = weight * np.repeat(source.step, repeat)
        bias = layer.bias.detach().double().numpy() if layer.bias is not None else np.zeros(len(weight))
        scale = max(np.abs(weight).max() / 127, np.abs(bias).max() / BIAS_MAX, 1e-12)
        whole = np.rint(weight / scale).astype(np.int64)
        shifted = np.rint(bias / scale).astype(np.int64) - source.zero * whole.sum(1)
        if (np.abs(shifted) + 255 * np.abs(whole).sum(1)).max() > LOGIT_MAX:
            raise ValueError(f"{name}: a logit could take more than 32 bits")
        self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"] = whole.astype(np.int8), shifted.astype(np.int32)
        self.logit_scale *= scale
        self.graph.append({"op": "linear", "name": name, "in": [source.name]})


def window(layer, source):
    """kernel, stride, padding; a linear layer is a window over the whole of its map."""
    if isinstance(layer, LINEAR):
        return [int(size) for size in source.shape[1:]], [1, 1], [0, 0]
    return pair(layer.kernel_size), pair(layer.stride), pair(layer.padding)


def unit(channels):
    """A convolution that changes nothing, for a batch norm that follows none."""
    layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def cap(node):
    return 6.0 if is_call(node, (nn.ReLU6,), (F.relu6,)) else None


def check_source(name, *maps):
    """The input's grid is given and has a zero point a channel, which only a convolution's bias takes off."""
    if any(source.name == "input" for source in maps):
        raise ValueError(f"{name}: reads the input, which only convolutions, batch norms and linear layers in front of "
                         "others can (each channel of it has a zero of its own)")


def check_limits(name, kernel, stride, pad, inputs, outputs):
    if max(kernel + stride) > WINDOW_MAX:
        raise ValueError(f"{name}: kernel {kernel}, stride {stride}: at most {WINDOW_MAX} are possible (a linear layer "
                         "is a window over its whole map: pool first)")
    if any(p >= k for p, k in zip(pad, kernel)):
        raise ValueError(f"{name}: padding {pad} is not smaller than the kernel {kernel}")
    if inputs * kernel[0] * kernel[1] > SUM_MAX or max(inputs, outputs) > OUTPUTS_MAX:
        raise ValueError(f"{name}: {inputs} channels, kernel {kernel}, {outputs} outputs: at most {OUTPUTS_MAX} "
                         f"channels, {OUTPUTS_MAX} outputs and {SUM_MAX} values in a sum are possible")


def check_finite(name, layer):
    for part, value in (*layer.named_parameters(), ("running_mean", getattr(layer, "running_mean", None)),
                        ("running_var", getattr(layer, "running_var", None))):
        if value is not None and not torch.isfinite(value).all():
            raise ValueError(f"{name}: its {part} is not finite")


def check_input(shape, zero, scale):
    if len(zero) != shape[0] or any(z != int(z) or not 0 <= z <= 255 for z in zero):
        raise ValueError(f"input_zero {zero}: must be {shape[0]} whole numbers from 0 to 255, one a channel")
    scales = np.atleast_1d(np.asarray(scale, np.float64))
    if len(scales) not in (1, shape[0]) or not (np.isfinite(scales) & (scales > 0)).all():
        raise ValueError(f"input_scale {scale}: must be a number above 0, or one a channel")


def check_metadata(name, labels, version):
    if not re.fullmatch(f"[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,{NAME_MAX - 1}}}", name):
        raise ValueError(f"name {name!r}: must be 1 to {NAME_MAX} of [A-Za-z0-9_.-], not starting with a dot")
    if not isinstance(version, int) or not 1 <= version <= VERSION_MAX:
        raise ValueError(f"version {version!r}: must be a whole number from 1 to {VERSION_MAX}")
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise ValueError("labels: must be a list of strings, one a class")


def check_convolution(name, layer):
    if pair(layer.dilation) != [1, 1] or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"{name}: only zero padding given as numbers, and no dilation")


def span(below, above, zero):
    """The steps that hold -below and above, given the zero point."""
    return np.maximum(below / zero if zero else 0 * below, above / (255 - zero))


def zero_point(below, above):
    """The zero point of a map whose channels reach from -below to above: 0 if none is negative, else the one
    that makes the steps finest on the (geometric) average. At most 127, so that two such maps can be added."""
    if below.max() <= 0:
        return 0
    return min(range(1, 128), key=lambda zero: np.log(np.maximum(span(below, above, zero), 1e-8)).sum())


def fold(layer, norm):
    """factor, offset per output: result = factor * (what the tables or weights give) + offset."""
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    bias = layer.bias.detach().double().numpy() if layer.bias is not None else np.zeros(outputs)
    if norm is None:
        return np.ones(outputs), bias
    weight = norm.weight if norm.affine else torch.ones(outputs)
    shift = norm.bias.detach().double().numpy() if norm.affine else 0
    factor = (weight / torch.sqrt(norm.running_var + norm.eps)).detach().double().numpy()
    return factor, factor * (bias - norm.running_mean.double().numpy()) + shift


def halut_table(layer, least=1e-12):
    """int8 [outputs][codebooks][16], step [outputs] of at least `least`, constant [outputs]. The middle of
    each codebook's range is moved to the constant: exact, since each codebook adds exactly one entry."""
    rows = layer.rows().detach().double().numpy().transpose(2, 0, 1)
    middle = (rows.max(2, keepdims=True) + rows.min(2, keepdims=True)) / 2
    rows = rows - middle
    step = np.maximum(np.abs(rows).max((1, 2)) / 127, least)
    return np.rint(rows / step.reshape(-1, 1, 1)).astype(np.int8), step, middle.sum((1, 2))


def spread(layer, source):
    """Weights of a dense layer as [outputs][all inputs][ky][kx], zero between groups."""
    weight = layer.weight.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return weight.reshape(len(weight), *source.shape)
    if layer.groups == 1:
        return weight
    full = np.zeros((weight.shape[0], layer.in_channels, *weight.shape[2:]))
    size, each = weight.shape[1], weight.shape[0] // layer.groups
    for i in range(layer.groups):
        full[i * each:(i + 1) * each, i * size:(i + 1) * size] = weight[i * each:(i + 1) * each]
    return full


def always_right(whole, table):
    """A negative threshold sends every u8 right, which no u8 threshold can say: make the left subtree a copy
    of the right one instead, deepest levels first."""
    for codebook, node in reversed(list(zip(*np.nonzero(whole < 0)))):
        left, right, width = 2 * node, 2 * node + 1, 1
        while left < 16:
            whole[codebook, left:left + width] = whole[codebook, right:right + width]
            left, right, width = 2 * left, 2 * right, 2 * width
        table[:, codebook, left - 16:left - 16 + width] = table[:, codebook, right - 16:right - 16 + width]


def export(model, path, images, name, labels, input_zero=ZERO, input_scale=SCALE, version=1, description=""):
    """Writes `model` as `path`. images: iterable of float batches, normalised as (pixel - zero) / scale."""
    check_metadata(name, labels, version)
    exporter = Exporter(model, images, input_zero, input_scale)
    tensors, graph = exporter.emit()
    classes = exporter.steps[-1][1].out_features
    if len(labels) != classes:
        raise ValueError(f"labels: {len(labels)} for {classes} classes")
    channels, height, width = exporter.maps[exporter.nodes[0]].shape
    safetensors.write(path, tensors, {
        "halut.format": "1", "halut.kind": "network", "halut.name": name, "halut.version": str(version),
        "halut.description": description, "halut.labels": json.dumps(list(labels)),
        "halut.input": json.dumps({"channels": channels, "height": height, "width": width,
                                   "zero": [int(z) for z in input_zero]}),
        "halut.logit_scale": repr(float(exporter.logit_scale)), "halut.graph": json.dumps(graph)})


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--start", required=True, help="what convert or finetune wrote")
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True)
    cli.add_argument("--images", type=int, default=2000, help="training images that calibrate the grids")
    cli.add_argument("--name", help="of the model; default that of --out")
    cli.add_argument("--description", help="default what network it is")
    machine_options(cli)
    args = cli.parse_args()
    device = prepare(args)
    name = args.name or os.path.splitext(os.path.basename(args.out))[0]
    check_metadata(name, CLASSES, 1)
    model = halut_network(weights(args.start)).to(device)
    if not halut_layers(model):
        cli.error(f"--start: nothing in {args.start} is looked up: it is a dense network, which convert takes")
    images = load(args.data, "train")[0][:args.images]
    batches = [normalise(images[i:i + 250]) for i in range(0, len(images), 250)]
    description = args.description or f"{model.TITLE}, its inner convolutions learned tables"
    export(model, args.out, batches, name, CLASSES, description=description)


if __name__ == "__main__":
    command(main)
