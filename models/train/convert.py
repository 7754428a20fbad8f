"""Replaces the convolutions of a trained network by Halut layers, in closed form.

    python3 -m train.convert --teacher teacher.pt --data cifar-10-batches-bin --halut halut --out start.pt

Layer by layer, on the activations of the network converted so far: `halut learn` (our C learner) chooses
the trees by the error of the layer's output and solves the tables by ridge regression onto the dense
layer's products; then the batch-norm statistics are measured again.
"""
import argparse
import copy
import json
import os
import subprocess
import tempfile
import warnings

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from . import safetensors
from .data import Batches, load, normalise, pictures
from .layers import NEVER, HalutConv2d, HalutLinear, pair
from .net import ResNet9
from .networks import convertible
from .run import (accuracy, averaged, command, device_of, load_weights, machine_options, mixed, prepare, recalibrate,
                  save)

ROWS_PER_PROTOTYPE = 20  # fewer rows a one-hot column and the regression fits noise
ROWS_MIN = 20000


def halut_like(layer, codebooks=None, width=None, prototypes=16):
    """An untrained Halut layer of the shape of a dense one, on the CPU."""
    for kind in (nn.Linear, nn.Conv2d):
        if isinstance(layer, kind) and type(layer).forward is not kind.forward:
            raise ValueError(f"{type(layer).__name__}: its forward is its own, not that of {kind.__name__}")
    if isinstance(layer, nn.Linear):
        return HalutLinear(layer.in_features, layer.out_features, layer.bias is not None, codebooks, width, prototypes)
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"{layer}: only Conv2d and Linear can be looked up")
    if layer.dilation not in (1, (1, 1)) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"{layer}: only zero padding given as numbers, and no dilation")
    return HalutConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                       groups=layer.groups, bias=layer.bias is not None, codebooks=codebooks, width=width,
                       prototypes=prototypes)


def dense_matrix(layer):
    """The layer's weights as B, [columns][outputs] over the columns of all groups, on the CPU."""
    weight = layer.weight.detach().cpu()
    if isinstance(layer, nn.Linear):
        return weight.t()
    if layer.groups == 1:
        return weight.reshape(weight.shape[0], -1).t()
    full = torch.zeros(layer.in_channels * weight[0, 0].numel(), weight.shape[0])
    size, each = weight[0].numel(), weight.shape[0] // layer.groups
    for i in range(layer.groups):
        part = weight[i * each:(i + 1) * each].reshape(each, -1)
        full[i * size:(i + 1) * size, i * each:(i + 1) * each] = part.t()
    return full


@torch.no_grad()
def sample_rows(model, layer, images, rows, seed, teacher=None, twin=None):
    """`rows` im2col rows of the layer's input at random positions, evenly over the images and the places where it is
    used; and those of `twin`, the same layer in the dense `teacher`, at the same positions (None without one)."""
    seen = {id(m): [] for m in (layer, twin) if m is not None}
    hooks = [m.register_forward_pre_hook(lambda m, args: seen[id(m)].append(args[0].float().cpu()))
             for m in (layer, twin) if m is not None]
    parts, left = [[], []], rows
    size = 250
    for start in range(0, len(images), size):
        x = normalise(images[start:start + size]).to(device_of(model))
        with mixed(x.device):
            for m in (model, teacher):
                if m is not None:
                    m.eval()(x)
        batches_left = (len(images) - start + size - 1) // size
        count = -(-left // batches_left)
        for part, m in zip(parts, (layer, twin)):
            if m is not None:
                part.append(patches_of_calls(m, seen[id(m)], count, np.random.default_rng((seed, start))))
                seen[id(m)].clear()
        left -= len(parts[0][-1])
    for hook in hooks:
        hook.remove()
    return torch.cat(parts[0]), torch.cat(parts[1]) if twin is not None else None


def patches_of_calls(layer, inputs, count, rng):
    if not inputs:
        raise ValueError("the network does not use it")
    return torch.cat([random_patches(layer, x, -(-count // len(inputs)), rng) for x in inputs])


def random_patches(layer, x, count, rng):
    """At most `count` rows [columns] of the im2col matrix of x, each drawn once."""
    if isinstance(layer, nn.Linear):
        x = x.reshape(-1, x.shape[-1])
        return x[torch.from_numpy(rng.permutation(len(x))[:count])]
    pad, stride = pair(layer.padding), pair(layer.stride)
    windows = F.pad(x.contiguous(), [pad[1]] * 2 + [pad[0]] * 2).unfold(2, layer.kernel_size[0], stride[0])
    windows = windows.unfold(3, layer.kernel_size[1], stride[1])  # [n][channels][y][x][ky][kx], a view
    places = windows.shape[0] * windows.shape[2] * windows.shape[3]
    chosen = np.unravel_index(rng.choice(places, min(count, places), replace=False),
                              (windows.shape[0], windows.shape[2], windows.shape[3]))
    n, oy, ox = (torch.from_numpy(i) for i in chosen)
    return windows[n, :, oy, ox].reshape(len(n), -1)


def learn(layer, dense, rows, program, target=None, tree_rows=12000, ridge=1.0, by="output"):
    """Fills a Halut layer by `halut learn` on im2col rows of its input, fitted to the dense layer's products
    of these rows or to `target`. Returns the learner's report."""
    with tempfile.TemporaryDirectory() as folder:
        a, b, out = (os.path.join(folder, name) for name in ("a.npy", "b.npy", "out.safetensors"))
        np.save(a, rows.numpy().astype(np.float32))
        np.save(b, np.ascontiguousarray(dense_matrix(dense).numpy().astype(np.float32)))
        aim = []
        if target is not None:
            np.save(os.path.join(folder, "t.npy"), target.numpy().astype(np.float32))
            aim = ["--target", os.path.join(folder, "t.npy")]
        done = subprocess.run([program, "learn", *aim, "--a", a, "--b", b, "-o", out,
                               "-C", str(layer.codebooks), "-K", str(layer.prototypes), "--by-" + by,
                               "--tree-rows", str(min(tree_rows, len(rows))),
                               "--ridge", str(ridge), "--heldout", "0.05", "--json"],
                              check=True, stdout=subprocess.PIPE, text=True)
        tensors, _ = safetensors.read(out)
    fill(layer, tensors)
    if dense.bias is not None:
        layer.bias.data.add_(dense.bias.detach().cpu())
    return json.loads(done.stdout)


@torch.no_grad()
def fill(layer, tensors):
    """Takes over the trees and tables of a product file, in floating point."""
    split = torch.from_numpy(tensors["split"].astype(np.int32))
    step = 1.0 / torch.from_numpy(tensors["inverse"].copy())
    low = torch.from_numpy(tensors["low"].copy())
    quantised = torch.from_numpy(tensors["threshold"].astype(np.float32))
    threshold = torch.zeros_like(quantised)
    for node in range(1, 16):
        level = node.bit_length() - 1
        # value > t holds from the first quantised value above t on, which begins half a step up; none is above 255.
        above = low[:, level] + (quantised[:, node] + 0.5) * step[:, level]
        threshold[:, node] = above.masked_fill(quantised[:, node] == 255, NEVER)
    scale = torch.from_numpy(tensors["scale"].copy())
    rows = torch.from_numpy(tensors["table"].astype(np.float32)) * scale.view(-1, 1, 1)
    rows = rows.permute(1, 2, 0)
    constant = torch.from_numpy(tensors["bias"].copy())
    if layer.bias is not None:
        layer.bias.copy_(constant)
    else:  # every codebook adds exactly one row, so a constant may live in any of them
        rows = rows + constant / layer.codebooks
    layer.split.copy_(split)
    layer.threshold.copy_(threshold)
    layer.close_levels()
    layer.set_rows(rows)


def replace(model, name, layer):
    """Wherever the model has the layer of that name, which may be in several places."""
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, key, layer)


def untrained(model, names, codebooks=None):
    """`model` with untrained Halut layers in place of the named ones, for a checkpoint to be loaded into."""
    for name in names:
        replace(model, name, halut_like(model.get_submodule(name), option(codebooks, name)))
    return model


def halut_network(state=None, network=ResNet9, **sizes):
    """A converted network, untrained; or that of a checkpoint's weights, looked up where and in as many codebooks as
    they are."""
    if state:
        network = convertible(state)
        names = [f"{name}.conv" for name in (network.FIRST, *network.INNER) if f"{name}.conv.split" in state]
        model = untrained(network(**sizes), names, {name: len(state[f"{name}.split"]) for name in names})
        load_weights(model, state)
    else:
        model = untrained(network(**sizes), [f"{name}.conv" for name in network.INNER])
    # Not the model: it would permute the tables.
    model.get_submodule(network.FIRST).to(memory_format=torch.channels_last)
    return model


def option(value, name, default=None):
    """What holds for a layer: one value for all, or one by name."""
    return value.get(name, default) if isinstance(value, dict) else value


def chosen(model, names):
    """The dense layers to convert by name, in that order."""
    if isinstance(names, str):
        raise ValueError(f"names: a list of layers, not {names!r}")
    known = dict(model.named_modules(remove_duplicate=False))
    if names is None:
        names = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)][1:]
    found = {}
    for name in names:
        if name not in known:
            raise ValueError(f"names: the model has no {name}")
        if known[name] in found.values():
            raise ValueError(f"names: {name} is named twice")
        found[name] = known[name]
    if not found:
        raise ValueError("names: there is nothing to convert")
    return found


def replacements(layers, **options):
    """An untrained Halut layer for each of the dense ones, in its mode."""
    for key, value in options.items():
        for name in value if isinstance(value, dict) else ():
            if name not in layers:
                raise ValueError(f"{key}: {name} is none of the layers to convert, {', '.join(layers)}")
    made = {}
    for name, dense in layers.items():
        try:
            made[name] = halut_like(dense, option(options["codebooks"], name), option(options["width"], name),
                                    option(options["prototypes"], name, 16)).train(dense.training)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return made


def convert(model, images, names=None, program="halut", codebooks=None, batches=None, report=print, width=None,
            prototypes=16):
    """Converts the named Conv2d and Linear layers of `model` in place, in the order given, wherever they are used.

    images: uint8 [n][3][H][W] training images; names: default every Conv2d but the first; codebooks, width,
    prototypes: as HalutConv2d has them, a number or a dict by name; batches: augmented batches for the batch-norm
    statistics.

    The tables aim at what the dense network's layer gives for its own, unharmed input, so that each layer makes up
    for part of the error that comes to it."""
    images = pictures(images)
    layers = chosen(model, names)
    made = replacements(layers, codebooks=codebooks, width=width, prototypes=prototypes)
    modes = [(m, m.training) for m in (*model.modules(), *made.values())]
    teacher = copy.deepcopy(model)
    for number, (name, dense) in enumerate(layers.items()):
        layer = made[name]
        entries = layer.prototypes * layer.codebooks
        found, wanted = sample_rows(model, dense, images, max(ROWS_MIN, ROWS_PER_PROTOTYPE * entries), number, teacher,
                                    teacher.get_submodule(name))
        if len(found) < entries:
            warnings.warn(f"{name}: {len(found)} rows of input for {entries} table entries an output: give more "
                          "images, or fewer codebooks")
        result = learn(layer, dense, found, program, wanted @ dense_matrix(dense))
        replace(model, name, layer.to(device_of(model)))
        if batches is not None:
            recalibrate(model, batches, 8)
        report(name, result)
    for m, training in modes:
        m.training = training
    return model


def check_layers(network, codebooks):
    """--codebooks as (layer, number) pairs must name layers that are looked up."""
    known = [f"{name}.conv" for name in network.INNER]
    for name, _ in codebooks:
        if name not in known:
            raise ValueError(f"--codebooks {name.removesuffix('.conv')}: must be one of {', '.join(network.INNER)}")


def layer_codebooks(text):
    name, _, count = text.partition("=")
    if not name or not count.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not LAYER=N")
    return f"{name}.conv", int(count)


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--teacher", required=True)
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True)
    cli.add_argument("--halut", default="halut", help="the program built by `make`")
    cli.add_argument("--images", type=int, default=6000)
    cli.add_argument("--codebooks", action="append", default=[], metavar="LAYER=N", type=layer_codebooks,
                     help="of a layer, e.g. conv4=512; default one an input channel; may be repeated")
    machine_options(cli)
    args = cli.parse_args()
    device = prepare(args)
    state = averaged(args.teacher)
    network = convertible(state)
    check_layers(network, args.codebooks)
    model = network().to(device, memory_format=torch.channels_last)
    load_weights(model, state)
    train, validation = load(args.data, "train"), load(args.data, "validation")
    print(f"dense: validation {accuracy(model, *validation):.2f}")

    def report(name, result):
        error = result.get("nmse")
        print(f"{name}: nmse {error}, validation {accuracy(model, *validation):.2f}", flush=True)

    convert(model, train[0][:args.images], [f"{name}.conv" for name in network.INNER], args.halut,
            dict(args.codebooks), batches=Batches(*train, 250, seed=1), report=report)
    save(args.out, {"model": model.state_dict()})


if __name__ == "__main__":
    command(main)
