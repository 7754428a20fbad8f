"""Makes a checkpoint of a served network of ours, for `finetune` to go on from where the training's own is gone.

    python3 -m train.reopen --model resnet9-cifar10.safetensors --data cifar-10-batches-bin --out start.pt

`--codebooks conv3=128` learns that layer again, in so many codebooks, onto what it gives now.

Looked-up and dense convolutions may be mixed. A map's step is not in the file and any will do: here every map has STEP.
The scale of a layer's sums is free as well, since the batch norm behind it takes it back: here their variance is 1.
"""
import argparse
import itertools

import numpy as np
import torch
import torch.nn as nn

from . import safetensors
from .airbench import AirbenchReLU
from .convert import (ROWS_MIN, ROWS_PER_PROTOTYPE, check_layers, halut_like, layer_codebooks, learn, replace,
                      sample_rows)
from .data import SCALE, ZERO, Batches, load
from .layers import NEVER, HalutConv2d
from .net import ResNet9
from .run import accuracy, command, machine_options, prepare, save

STEP = 1 / 64
HALF = 0.5  # requantisation rounds down, so a bias holds half a step more than the map it stands for


def thresholds(whole):
    """Between two values of the grid: `whole` itself goes left, and nothing is above the grid's end."""
    between = (torch.from_numpy(whole.astype(np.float32)) + HALF) * STEP
    between[torch.from_numpy(whole == 255)] = NEVER
    return between


def take_looked_up(block, tensors, name):
    dense = block.conv
    layer = halut_like(dense, len(tensors[f"{name}.split"]))
    layer.split.copy_(torch.from_numpy(tensors[f"{name}.split"].astype(np.int32)))
    layer.threshold.data[:, 1:] = thresholds(tensors[f"{name}.threshold"])[:, 1:]
    layer.set_rows(torch.from_numpy(tensors[f"{name}.table"].astype(np.float32)).permute(1, 2, 0))
    block.conv = layer


def take_first(layer, tensors, name):
    """A first convolution without a batch norm does itself what requantisation does."""
    gain = torch.from_numpy(tensors[f"{name}.scale"].astype(np.float64)) / 65536
    weight = torch.from_numpy(tensors[f"{name}.weight"].astype(np.float64))
    bias = torch.from_numpy(tensors[f"{name}.bias"].astype(np.float64)) + zero_sums(tensors, name, ZERO)
    layer.weight.copy_(STEP * SCALE * gain.view(-1, 1, 1, 1) * weight)
    layer.bias.copy_(STEP * (gain * bias - HALF))


def take_dense(block, tensors, name, step):
    block.conv.weight.data.copy_(torch.from_numpy(tensors[f"{name}.weight"].astype(np.float32)) / step)


def zero_sums(tensors, name, zero):
    """What each output of a dense convolution gives where every value is `zero` of its channel."""
    weight = torch.from_numpy(tensors[f"{name}.weight"].astype(np.float64))
    return (weight.sum((2, 3)) * torch.tensor(zero, dtype=torch.float64)).sum(1)


@torch.no_grad()
def take_norm(model, block, tensors, name, constant, x):
    """Scales the sums to variance 1 and has the batch norm do to them and `constant` what requantisation does."""
    seen = []
    hook = block.conv.register_forward_hook(lambda _, args, y: seen.append(y))
    for part in x:
        model(part)
    hook.remove()
    sums = torch.cat([y.transpose(0, 1).flatten(1).double() for y in seen], 1)
    mean, deviation = sums.mean(1), sums.std(1, unbiased=False).clamp_min(1e-6)
    scale_parameters(block.conv, 1 / deviation)
    gain = torch.from_numpy(tensors[f"{name}.scale"].astype(np.float64)) / 65536
    bias = torch.from_numpy(tensors[f"{name}.bias"].astype(np.float64)) + constant
    norm = block.bn
    norm.running_mean.copy_(mean / deviation)
    norm.running_var.fill_(1.0)
    norm.weight.copy_(STEP * gain * deviation)
    norm.bias.copy_(STEP * (gain * (mean + bias) - HALF))


def scale_parameters(layer, factor):
    """Multiplies what each output of a convolution without a bias gives, in place."""
    if hasattr(layer, "table"):
        layer.set_rows(layer.rows() * factor.float())
    else:
        layer.weight.mul_(factor.float().view(-1, 1, 1, 1))


def shaped(tensors):
    """Our network of these shapes, untrained."""
    def outputs(*names):
        return [len(tensors[f"{name}.bias"]) for name in names]

    if "whiten.bias" in tensors:
        return AirbenchReLU(*outputs("classifier"), widths=outputs("conv1_conv", "conv3_conv", "conv5_conv"))
    return ResNet9(*outputs("conv1_conv", "conv4_conv", "classifier"))


@torch.no_grad()
def reopen(path, batches):
    """The float network of a served one. batches: what batch norm is measured on, a list of float images."""
    tensors, metadata = safetensors.read(path)
    model = shaped(tensors).eval()
    parts = {name: 0 for name in model.INNER}
    if isinstance(model, AirbenchReLU):
        take_first(model.whiten, tensors, "whiten")
    else:  # of the pixels a network subtracts nothing: what they are above zero went into the bias
        parts = {model.FIRST: zero_sums(tensors, f"{model.FIRST}_conv", ZERO), **parts}
    for part, constant in parts.items():
        block, name = model.get_submodule(part), f"{part}_conv"
        if f"{name}.table" in tensors:
            take_looked_up(block, tensors, name)
        else:
            take_dense(block, tensors, name, 1 / SCALE if part == model.FIRST else STEP)
        take_norm(model, block, tensors, name, constant, batches)
    scale = float(metadata["halut.logit_scale"]) / model.logit_scale
    model.fc.weight.copy_(torch.from_numpy(tensors["classifier.weight"].astype(np.float32)) * scale / STEP)
    if model.fc.bias is not None:
        model.fc.bias.copy_(torch.from_numpy(tensors["classifier.bias"].astype(np.float32)) * scale)
    return model


def outputs_of(layer, rows):
    """What a layer gives for im2col rows: each is a map that the window just covers."""
    padding, layer.padding = layer.padding, 0
    sums = layer(rows.view(len(rows), layer.in_channels, *layer.kernel_size)).flatten(1)
    layer.padding = padding
    return sums


def nearest_convolution(layer):
    """The dense layer that fits a looked-up one best on its recent inputs."""
    layer.linear = True
    layer.refresh()
    dense = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False)
    dense.weight.copy_(layer.surrogate)
    return dense


@torch.no_grad()
def learn_again(model, name, codebooks, images, program):
    """Learns a looked-up layer anew in so many codebooks, onto its own outputs. Returns the learner's report."""
    layer = model.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda m, args: setattr(m, "recent", args[0]))
    rows, _ = sample_rows(model, layer, images, max(ROWS_MIN, ROWS_PER_PROTOTYPE * 16 * codebooks), 0)
    hook.remove()
    dense = nearest_convolution(layer)
    again = halut_like(dense, codebooks)
    result = learn(again, dense, rows, program, outputs_of(layer, rows))
    replace(model, name, again)
    return result


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--model", required=True, help="what export wrote")
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True)
    cli.add_argument("--codebooks", action="append", default=[], metavar="LAYER=N", type=layer_codebooks)
    cli.add_argument("--images", type=int, default=6000, help="that --codebooks learns from")
    cli.add_argument("--halut", default="halut", help="the program built by `make`, which learns")
    machine_options(cli, "cpu")
    args = cli.parse_args()
    prepare(args)
    batches = [x for x, _ in itertools.islice(Batches(*load(args.data, "train"), 250, seed=1), 4)]
    model = reopen(args.model, batches)
    validation = load(args.data, "validation")
    print(f"validation {accuracy(model, *validation):.2f}")
    check_layers(model, args.codebooks)
    for name, codebooks in args.codebooks:
        if not isinstance(model.get_submodule(name), HalutConv2d):
            cli.error(f"--codebooks: {name} of {args.model} is not looked up")
        result = learn_again(model, name, codebooks, load(args.data, "train")[0][:args.images], args.halut)
        print(f"{name}: nmse {result['nmse']}, validation {accuracy(model, *validation):.2f}", flush=True)
    save(args.out, {"model": model.state_dict(), "average": model.state_dict()})


if __name__ == "__main__":
    command(main)
