"""Writes the model card: accuracy, calibration, error and cost of each layer, training curves.

    python3 -m train.report --teacher teacher.pt --start start.pt --halut halut.pt \\
        --model resnet9-cifar10.safetensors --data cifar-10-batches-bin --program build/halut \\
        --logs teacher.pt.csv halut.pt.csv

The card lies beside the model, with its plots. Where --start or a --teacher of the network's shape is missing (reopen),
the card does without what compares with them. What is called "as served" is measured by `halut eval`, the
C program; the other rows are these PyTorch networks. Everything is the test split, which nothing was chosen on.
"""
import argparse
import copy
import csv
import json
import os
import platform
import subprocess

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from . import safetensors
from .convert import halut_network
from .data import CLASSES, load, normalise
from .networks import load_teacher, name_of
from .run import command, device_of, logits, machine_options, prepare, weights

BINS = 15
ERROR_IMAGES = 64  # that the error of the layers is measured on, from the validation split


def of_same_shape(teacher, halut):
    """Whether its layers can be held against those of the converted network."""
    return type(teacher) is type(halut)


def load_converted(path, device):
    return halut_network(weights(path)).eval().to(device)


# Accuracy.

def score(values, labels):
    """Top-1 and top-5 in percent of logits [n][classes]."""
    rank = (values > values.gather(1, labels[:, None])).sum(1)
    return 100 * (rank == 0).float().mean().item(), 100 * (rank < 5).float().mean().item()


def calibration(values, labels):
    """Bins by confidence [(images, mean confidence, accuracy)], and the expected calibration error."""
    confidence, chosen = F.softmax(values, 1).max(1)
    right = (chosen == labels).float()
    place = (confidence * BINS).long().clamp(0, BINS - 1)
    bins, error = [], 0.0
    for b in range(BINS):
        inside = place == b
        count = int(inside.sum())
        if count:
            bins.append((count, confidence[inside].mean().item(), right[inside].mean().item()))
            error += count / len(labels) * abs(bins[-1][1] - bins[-1][2])
    return bins, error


def evaluate(program, model, data, limit):
    command = [program, "eval", model, "--data", data, "--split", "test", "--json", "--threads", "2"]
    if limit:
        command += ["--limit", str(limit)]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


@torch.no_grad()
def dense_int8(model, calibration_images):
    """Makes `model` compute its convolutions on int8 weights (a scale an output) and u8 maps (a scale a map), as
    the usual conversion after training does. In place."""
    largest, hooks = {}, []
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(
            lambda m, args: largest.update({m: max(largest.get(m, 0.0), args[0].max().item())})))
    logits(model, calibration_images)
    for hook in hooks:
        hook.remove()
    for layer in layers[1:]:  # the first reads pixels, which are whole numbers already
        step = largest[layer] / 255
        layer.register_forward_pre_hook(lambda m, args, s=step: ((args[0].float() / s).round().clamp(0, 255) * s,))
    for layer in layers:
        scale = layer.weight.abs().amax((1, 2, 3), keepdim=True) / 127
        layer.weight.copy_((layer.weight / scale).round() * scale)
    return model


# Error of the layers.

@torch.no_grad()
def layer_errors(model, dense, images):
    """Per Halut layer, on the input it has in its own network: the squared error of its output against the
    dense convolution over the variance of the latter; and the same after the best scale and offset a channel,
    which the batch norm behind it can give."""
    errors = {}
    for name in dense.INNER:
        layer, wanted = getattr(model, name).conv, getattr(dense, name).conv
        seen = {}
        hook = layer.register_forward_hook(lambda _, args, y: seen.update(x=args[0], y=y))
        model(normalise(images).to(device_of(model)))
        hook.remove()
        y = seen["y"].float().transpose(0, 1).flatten(1).double()
        want = wanted(seen["x"].float()).transpose(0, 1).flatten(1).double()
        y_mid, want_mid = y - y.mean(1, keepdim=True), want - want.mean(1, keepdim=True)
        power = want_mid.square().sum()
        slope = (y_mid * want_mid).sum(1, keepdim=True) / y_mid.square().sum(1, keepdim=True).clamp_min(1e-12)
        errors[name] = (((y - want).square().sum() / power).item(),
                        ((slope * y_mid - want_mid).square().sum() / power).item())
    return errors


def layer_costs(path):
    """Per layer of the model file that adds or multiplies: name, op, operations, bytes of its tensors."""
    tensors, metadata = safetensors.read(path)
    shape = json.loads(metadata["halut.input"])
    size = {"input": (shape["height"], shape["width"])}
    rows = []
    for node in json.loads(metadata["halut.graph"]):
        height, width = size[node["in"][0]]
        if "kernel" in node:
            pad = node.get("pad", [0, 0])
            height, width = [(s + 2 * p - k) // t + 1 for s, p, k, t in
                             zip((height, width), pad, node["kernel"], node["stride"])]
        size[node["name"]] = (height, width)
        content = sum(t.nbytes for n, t in tensors.items() if n.startswith(node["name"] + "."))
        if node["op"] == "halut":
            outputs, codebooks, _ = tensors[node["name"] + ".table"].shape
            rows.append((node["name"], "lookups", height * width * outputs * codebooks, content))
        elif node["op"] in ("conv", "linear"):
            count = tensors[node["name"] + ".weight"].size * (height * width if node["op"] == "conv" else 1)
            rows.append((node["name"], "multiplications", count, content))
    return rows


# Plots.

def plots(stem, logs, bins, error, errors):
    """Writes STEM-{curves,reliability,layers}.png, the last if there are errors of layers."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for name, rows in logs:
        epoch = [int(r["epoch"]) for r in rows]
        axes[0].plot(epoch, [float(r["loss"]) for r in rows], ".-", label=name)
        axes[1].plot(epoch, [float(r["validation_average"]) for r in rows], ".-", label=name)
    axes[0].set(xlabel="epoch", ylabel="training loss")
    axes[1].set(xlabel="epoch", ylabel="validation, % right")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    finish(plt, figure, stem + "-curves.png")

    figure, axis = plt.subplots(figsize=(3.8, 3.6))
    axis.plot([0, 1], [0, 1], "k--", linewidth=0.8)
    axis.bar([b[1] for b in bins], [b[2] for b in bins], width=0.8 / BINS, edgecolor="black", linewidth=0.4)
    axis.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1),
             title=f"expected calibration error {error:.3f}")
    finish(plt, figure, stem + "-reliability.png")
    if errors is None:
        return

    before, after = errors
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    place = np.arange(len(before))
    axis.bar(place - 0.2, [error for _, error in before.values()], 0.4, label="as converted")
    axis.bar(place + 0.2, [error for _, error in after.values()], 0.4, label="fine-tuned")
    axis.set_xticks(place, before)
    axis.set_ylabel("error (NMSE), scaled a channel")
    axis.legend(fontsize=8)
    finish(plt, figure, stem + "-layers.png")


def finish(plt, figure, path):
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


# The card.

def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(v) for v in row) + " |" for row in rows])


def read_log(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def machine():
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def cost(logs):
    hours = [(name, len(rows), sum(float(r["seconds"]) for r in rows) / 3600) for name, rows in logs]
    lines = [(name, epochs, f"{value:.2f}") for name, epochs, value in hours]
    return table(("log", "epochs", "hours"), lines + [("together", "", f"{sum(h[2] for h in hours):.2f}")])


def accuracy_rows(args, teacher, halut, images, labels, train):
    """Rows of the accuracy table, the float Halut network's logits, and what `halut eval` said."""
    truth = torch.from_numpy(labels)
    rows = []
    if teacher is not None:
        kind = "dense teacher" if of_same_shape(teacher, halut) else f"{type(teacher).__name__}, the teacher"
        rows.append((f"{kind}, float", "PyTorch", *score(logits(teacher, images), truth)))
    if of_same_shape(teacher, halut):
        rows.append(("dense teacher, int8 weights and u8 maps", "PyTorch, simulated",
                     *score(logits(dense_int8(copy.deepcopy(teacher), train[:250]), images), truth)))
    values = logits(halut, images)
    rows.append(("Halut, float", "PyTorch", *score(values, truth)))
    served = evaluate(args.program, args.model, args.data, args.limit)
    rows.append(("**Halut, int8 tables and u8 maps, as served**", "`halut eval`", 100 * served["top1"],
                 100 * served["top5"]))
    return [(*row[:2], f"{row[2]:.2f}", f"{row[3]:.2f}") for row in rows], values, served


def commands(args, halut, stages):
    name = os.path.basename(args.model)
    lines = ["export PYTHONPATH=models  # in the repository's top folder, after `make`"]
    if stages:
        with open(stages) as file:
            lines += file.read().strip().splitlines()
    else:
        network = name_of(halut.state_dict())
        lines += [f"python3 -m train.teacher --network {network} --data DIR --out teacher.pt "
                  f"--epochs {len(read_log(args.logs[0]))}",
                  "python3 -m train.convert --teacher teacher.pt --data DIR --halut build/halut --out start.pt",
                  "python3 -m train.finetune --teacher teacher.pt --start start.pt --data DIR --out halut.pt "
                  f"--epochs {len(read_log(args.logs[-1]))}",
                  f"python3 -m train.export --start halut.pt --data DIR --out models/{name}"]
    known = " ".join(f"--{key} {os.path.basename(getattr(args, key))}" for key in
                     ("teacher", "start", "halut", "commands", "extra") if getattr(args, key))
    lines += [f"python3 -m train.report {known} --model models/{name} --data DIR --program build/halut "
              f"--logs {' '.join(os.path.basename(log) for log in args.logs)}",
              f"build/halut eval models/{name} --data DIR"]
    return "```sh\n" + "\n".join(lines) + "\n```"


def choices(args):
    """What is said of the validation split: finetune --whole learns from it when all is chosen."""
    text = "choices were made on 5,000 images kept out of the training set"
    if args.commands:
        with open(args.commands) as file:
            if "--whole" in file.read().split():
                text = "choices were made on 5,000 images of the training set that only the last run learned from"
    return text


def error_section(name, errors):
    if errors is None:
        return ""
    before, after = errors
    rows = [(n, *(f"{v:.3f}" for v in (*before[n], *after[n]))) for n in before]
    return f"""## Error of each layer

Squared error of the layer's output against the teacher's convolution on the same inputs, over the variance of the
latter, on {ERROR_IMAGES} validation images. "Scaled" allows each channel a scale and an offset, which the batch norm
behind the layer can give: fine-tuning is free to move both, so the plain error after it says little.

{table(("layer", "converted", "converted, scaled", "fine-tuned", "fine-tuned, scaled"), rows)}

![Error of each layer]({name}-layers.png)

"""


def card(args, halut, stem, rows, served, bins, error, errors, logs):
    name = os.path.basename(stem)
    classes = [(c["label"], c["images"], f"{100 * c['accuracy']:.1f}") for c in served["classes"]]
    confusion = [(label, *row) for label, row in zip(CLASSES, served["confusion"])]
    costs = layer_costs(args.model)
    total = sum(c[2] for c in costs if c[1] == "lookups") or 1
    cost_rows = [(n, kind, f"{count:,}", f"{100 * count / total:.1f} %" if kind == "lookups" else "", f"{size:,}")
                 for n, kind, count, size in costs]
    extra = ""
    if args.extra:
        with open(args.extra) as file:
            extra = "\n" + file.read().strip() + "\n"
    return f"""# {served['model']}, version {served['version']}

Written by `python3 -m train.report`; do not edit. Tensors SHA-256 `{served['sha256']}`.

{halut.TITLE}; its inner convolutions are looked up: a 4-level tree a codebook, 16
prototypes, int8 tables, u8 maps, whole numbers from the pixels to the logits. All figures are of the test split
({served['images']} images), on which nothing was chosen; {choices(args)}.

## Accuracy

{table(("network", "measured by", "top-1 %", "top-5 %"), rows)}

SHA-256 of all integer logits: `{served['logits_sha256']}` (`{served['cpu']}` kernels; every backend gives the same).

As served, by class:

{table(("class", "images", "right %"), classes)}

Confusion matrix as served, rows are labels, columns what was answered:

{table(("", *CLASSES), confusion)}

## Calibration

Expected calibration error {error:.4f} over {BINS} bins, from the softmax of the float Halut network's logits.

{table(("images", "mean confidence", "share right"), [(n, f"{c:.3f}", f"{a:.3f}") for n, c, a in bins])}

![Reliability diagram]({name}-reliability.png)

{error_section(name, errors)}## What each layer costs

For one image. A lookup is one table entry fetched and added.

{table(("layer", "kind", "operations", "of all lookups", "bytes"), cost_rows)}

## Training

![Training curves]({name}-curves.png)

On {machine()}, shared with other work, so the hours are wall clock and an upper bound:

{cost(logs)}

Commands:

{commands(args, halut, args.commands)}
{extra}"""


def arguments():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--teacher")
    cli.add_argument("--start", help="what convert wrote")
    cli.add_argument("--halut", required=True, help="what finetune wrote")
    cli.add_argument("--model", required=True, help="what export wrote")
    cli.add_argument("--data", required=True)
    cli.add_argument("--program", default="halut", help="the program built by `make`")
    cli.add_argument("--logs", nargs="+", required=True, help="CSV logs, a teacher's first")
    cli.add_argument("--out", help="card to write; default beside the model")
    cli.add_argument("--extra", help="Markdown file to append, an ablation for example")
    cli.add_argument("--commands", help="file of the stages' exact commands; default: the usual ones")
    cli.add_argument("--limit", type=int, default=0, help="only so many test images (for a trial)")
    machine_options(cli)
    args = cli.parse_args()
    if args.start and not args.teacher:
        cli.error("--start needs --teacher: errors of layers are measured by both")
    if not args.start and not args.commands:
        cli.error("without --start the usual commands are not what was run: give --commands")
    return args


def main():
    args = arguments()
    device = prepare(args)
    images, labels = load(args.data, "test")
    if args.limit:
        images, labels = images[:args.limit], labels[:args.limit]
    logs = [(os.path.basename(path).replace(".pt.csv", ""), read_log(path)) for path in args.logs]
    teacher = load_teacher(args.teacher).eval().to(device) if args.teacher else None
    halut = load_converted(args.halut, device)
    if not args.commands and not of_same_shape(teacher, halut):
        raise SystemExit(f"{args.teacher} has another shape: the usual commands are not what was run: give --commands")
    rows, values, served = accuracy_rows(args, teacher, halut, images, labels, load(args.data, "train")[0])
    bins, error = calibration(values, torch.from_numpy(labels))
    few = load(args.data, "validation")[0][:ERROR_IMAGES]
    errors = None
    if args.start and of_same_shape(teacher, halut):
        errors = [layer_errors(model, teacher, few) for model in (load_converted(args.start, device), halut)]
    out = args.out or os.path.splitext(args.model)[0] + ".md"
    stem = os.path.splitext(out)[0]
    plots(stem, logs, bins, error, errors)
    with open(out + ".part", "w") as file:
        file.write(card(args, halut, stem, rows, served, bins, error, errors, logs))
    os.replace(out + ".part", out)
    print(f"wrote {out} and its plots")


if __name__ == "__main__":
    command(main)
