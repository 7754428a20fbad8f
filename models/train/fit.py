"""One training loop for any network: dense, or converted and then taught by the dense one.

What teacher.py and finetune.py do for the flagship, without its settings: AdamW, warm-up and cosine, an average
of the weights, a checkpoint and a CSV row an epoch; an unfinished run is resumed.
"""
import copy
import math
import os
import time

import torch

from .finetune import distil, halut_layers
from .run import Average, Log, Progress, accuracy, recalibrate, save

WARM = 100      # steps
REFRESH = 50    # steps between two fits of the surrogates
STATISTICS = 8  # batches that batch-norm statistics are measured on


def groups(model, rate, decay):
    """Parameter groups: matrices and tables decay, thresholds move at half the rate."""
    thresholds = [m.threshold for m in halut_layers(model)]
    known = {id(p) for p in thresholds}
    matrices = [p for p in model.parameters() if p.dim() > 1 and id(p) not in known]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": matrices, "share": 1.0, "weight_decay": decay},
            {"params": thresholds, "share": 0.5, "weight_decay": 0.0},
            {"params": vectors, "share": 1.0, "weight_decay": 0.0}]


def refresh(model, x):
    """Fits the surrogate of every Halut layer to its table, on the inputs that `x` gives it."""
    model.train()
    with torch.no_grad():
        model(x[:16])
    for layer in halut_layers(model):
        layer.refresh()


def step_once(model, teacher, x, y, optimiser):
    with torch.autocast(x.device.type, torch.bfloat16):
        out = model(x)
        with torch.no_grad():
            target = teacher(x).float() if teacher is not None else None
    loss = distil(out.float(), target, y, 0.9 if teacher is not None else 0)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.item()


def fit(model, batches, validation, out, epochs, rate=3e-3, decay=0.01, teacher=None):
    """Trains `model` in place and leaves the averaged weights in it. `out` is the checkpoint; `out`.csv the log.
    validation: images, labels. Returns the last validation accuracy in percent."""
    average = Average(model, 0.995)
    for layer in halut_layers(model):
        layer.fast = True
    if teacher is not None:
        teacher.eval()
    optimiser = torch.optim.AdamW(groups(model, rate, decay), lr=rate, betas=(0.9, 0.99))
    first, value = 0, None
    if os.path.exists(out):
        state = torch.load(out)
        model.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        average.steps, value = state["steps"], state["validation"]
        optimiser.load_state_dict(state["optimiser"])
        first = batches.epoch = state["epoch"]
    log = Log(out + ".csv", ["epoch", "loss", "validation_average", "seconds"])
    total_steps, step = epochs * len(batches), first * len(batches)
    for epoch in range(first, epochs):
        start, total = time.time(), 0.0
        bar = Progress(len(batches), f"epoch {epoch + 1}")
        model.train()
        for i, (x, y) in enumerate(batches):
            now = rate * min(1, (step + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * step / total_steps))
            for group in optimiser.param_groups:
                group["lr"] = now * group["share"]
            if step % REFRESH == 0 or (i == 0 and epoch == first):
                refresh(model, x)
            total += step_once(model, teacher, x, y, optimiser)
            average.update(model)
            step += 1
            bar.step(i + 1, f"loss {total / (i + 1):.3f}")
        other = copy.copy(batches)  # its own epoch counter: the order of training must not depend on this
        recalibrate(average.model, other, STATISTICS)
        value = accuracy(average.model, *validation)
        log.row(epoch=epoch + 1, loss=f"{total / len(batches):.4f}", validation_average=f"{value:.2f}",
                seconds=f"{time.time() - start:.0f}")
        save(out, {"model": model.state_dict(), "average": average.model.state_dict(), "steps": average.steps,
                   "optimiser": optimiser.state_dict(), "epoch": epoch + 1, "validation": value})
    model.load_state_dict(average.model.state_dict())
    return value
