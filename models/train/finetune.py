"""Trains all Halut layers of the converted network together, distilling from the dense teacher.

    python3 -m train.finetune --teacher teacher.pt --start start.pt --data cifar-10-batches-bin --out halut.pt
"""
import argparse
import math
import os
import time

import torch
import torch.nn.functional as F

from .convert import halut_like
from .data import Batches, load
from .layers import HalutConv2d
from .net import LAYERS, ResNet9
from .run import Average, Log, Progress, accuracy, recalibrate, save


def halut_resnet9():
    model = ResNet9()
    for name in LAYERS:
        block = getattr(model, name)
        block.conv = halut_like(block.conv)
    model.conv1.to(memory_format=torch.channels_last)  # not the model: it would permute the tables
    return model


def halut_layers(model):
    return [m for m in model.modules() if isinstance(m, HalutConv2d)]


def groups(model, rate, decay, threshold_share):
    """Parameter groups: tables decay a little, thresholds move at a share of the rate, the rest at the full one."""
    tables = [m.table for m in halut_layers(model)]
    thresholds = [m.threshold for m in halut_layers(model)]
    known = {id(p) for p in tables + thresholds}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [{"params": tables, "share": 1.0, "weight_decay": decay},
            {"params": thresholds, "share": threshold_share, "weight_decay": 0.0},
            {"params": rest, "share": 1.0, "weight_decay": 0.0}]


def distil(student, teacher, labels, weight, temperature=2.0, smoothing=0.1):
    hard = F.cross_entropy(student, labels, label_smoothing=smoothing)
    if weight == 0:
        return hard
    soft = F.kl_div(F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1),
                    reduction="batchmean", log_target=True) * temperature ** 2
    return weight * soft + (1 - weight) * hard


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--teacher", required=True)
    cli.add_argument("--start", required=True, help="what convert wrote")
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="checkpoint; an unfinished one is resumed")
    cli.add_argument("--epochs", type=int, default=20)
    cli.add_argument("--batch", type=int, default=128)
    cli.add_argument("--rate", type=float, default=3e-3)
    cli.add_argument("--decay", type=float, default=0.01)
    cli.add_argument("--threshold-share", type=float, default=0.5, help="of the rate, for thresholds; 0 keeps them")
    cli.add_argument("--average", type=float, default=0.999, help="decay of the weight average, a step")
    cli.add_argument("--distil", type=float, default=0.9, help="weight of the teacher's answer in the loss")
    cli.add_argument("--refresh", type=int, default=50, help="steps between two fits of the surrogate")
    cli.add_argument("--cutout", type=int, default=0)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--steps", type=int, default=0, help="stop after so many (for a trial)")
    cli.add_argument("--threads", type=int, default=2)
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)

    batches = Batches(*load(args.data, "train"), args.batch, cutout=args.cutout, seed=args.seed)
    validation = load(args.data, "validation")
    teacher = ResNet9().to(memory_format=torch.channels_last)
    teacher.load_state_dict(torch.load(args.teacher)["average"])
    teacher.eval()
    model = halut_resnet9()
    model.load_state_dict(torch.load(args.start)["model"])
    average = Average(model, args.average)
    for layer in halut_layers(model):
        layer.fast = True
    optimiser = torch.optim.AdamW(groups(model, args.rate, args.decay, args.threshold_share),
                                  lr=args.rate, betas=(0.9, 0.99))
    first = 0
    if os.path.exists(args.out):
        state = torch.load(args.out)
        model.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        average.steps = state["steps"]
        optimiser.load_state_dict(state["optimiser"])
        first = batches.epoch = state["epoch"]
    log = Log(args.out + ".csv", ["epoch", "loss", "validation_average", "seconds"])

    total_steps, step = args.epochs * len(batches), first * len(batches)
    warm = min(200, total_steps // 10)
    for epoch in range(first, args.epochs):
        start, total = time.time(), 0.0
        bar = Progress(len(batches), f"epoch {epoch + 1}")
        model.train()
        for i, (x, y) in enumerate(batches):
            rate = args.rate * min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / total_steps))
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"]
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                target = teacher(x).float() if args.distil else None
            if step % args.refresh == 0 or (i == 0 and epoch == first):
                with torch.no_grad():
                    model(x[:16])  # so that every layer has seen an input
                for layer in halut_layers(model):
                    layer.refresh()
            with torch.autocast("cpu", torch.bfloat16):
                out = model(x)
            loss = distil(out.float(), target, y, args.distil)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            average.update(model)
            step += 1
            total += loss.item()
            bar.step(i + 1, f"loss {total / (i + 1):.3f}")
            if args.steps and step >= args.steps:
                print(f"{step} steps: loss {total / (i + 1):.4f}, {time.time() - start:.1f} s, validation "
                      f"{accuracy(model, *validation):.2f}")
                return
        recalibrate(average.model, Batches(*load(args.data, "train"), 250, seed=1), 20)
        log.row(epoch=epoch + 1, loss=f"{total / len(batches):.4f}",
                validation_average=f"{accuracy(average.model, *validation):.2f}",
                seconds=f"{time.time() - start:.0f}")
        save(args.out, {"model": model.state_dict(), "average": average.model.state_dict(), "steps": average.steps,
                        "optimiser": optimiser.state_dict(), "epoch": epoch + 1})


if __name__ == "__main__":
    main()
