"""Trains the dense ResNet-9 that is both the start of the conversion and the teacher of the fine-tuning.

    python3 -m train.teacher --data cifar-10-batches-bin --out teacher.pt
"""
import argparse
import os
import time

import torch
import torch.nn.functional as F

from .data import Batches, load
from .net import ResNet9
from .run import Average, Log, Progress, accuracy, recalibrate, save


def rate(progress, peak):
    """Triangle: up during the first fifth, then down to zero."""
    return peak * (progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8)


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="checkpoint; an unfinished one is resumed")
    cli.add_argument("--epochs", type=int, default=10)
    cli.add_argument("--batch", type=int, default=128)
    cli.add_argument("--rate", type=float, default=0.12)
    cli.add_argument("--decay", type=float, default=5e-4)
    cli.add_argument("--smoothing", type=float, default=0.1)
    cli.add_argument("--cutout", type=int, default=6)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--threads", type=int, default=2)
    args = cli.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)

    batches = Batches(*load(args.data, "train"), args.batch, cutout=args.cutout, seed=args.seed)
    validation = load(args.data, "validation")
    model = ResNet9().to(memory_format=torch.channels_last)
    average = Average(model, 0.998)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.SGD([{"params": decayed, "weight_decay": args.decay}, {"params": others}],
                                lr=args.rate, momentum=0.9, nesterov=True)
    first = 0
    if os.path.exists(args.out):
        state = torch.load(args.out)
        model.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        average.steps = state["steps"]
        optimiser.load_state_dict(state["optimiser"])
        first = batches.epoch = state["epoch"]
    log = Log(args.out + ".csv", ["epoch", "loss", "validation", "validation_average", "seconds"])

    for epoch in range(first, args.epochs):
        start, total = time.time(), 0.0
        bar = Progress(len(batches), f"epoch {epoch + 1}")
        model.train()
        for i, (x, y) in enumerate(batches):
            for group in optimiser.param_groups:
                group["lr"] = rate((epoch + i / len(batches)) / args.epochs, args.rate)
            with torch.autocast("cpu", torch.bfloat16):
                out = model(x)
            loss = F.cross_entropy(out.float(), y, label_smoothing=args.smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            average.update(model)
            total += loss.item()
            bar.step(i + 1, f"loss {total / (i + 1):.3f}")
        plain = accuracy(model, *validation)
        recalibrate(average.model, Batches(*load(args.data, "train"), 250, seed=1), 8)
        log.row(epoch=epoch + 1, loss=f"{total / len(batches):.4f}", validation=f"{plain:.2f}",
                validation_average=f"{accuracy(average.model, *validation):.2f}",
                seconds=f"{time.time() - start:.0f}")
        save(args.out, {"model": model.state_dict(), "average": average.model.state_dict(),
                        "steps": average.steps, "optimiser": optimiser.state_dict(), "epoch": epoch + 1})


if __name__ == "__main__":
    main()
