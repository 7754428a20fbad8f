"""The training loop of every recipe, for dense networks and for converted ones.

A recipe says how: optimiser, schedule, loss, averaging. The loop does the rest alike: directions of tables
taken again, weights averaged, a checkpoint and a CSV row an epoch. An unfinished run goes on from its checkpoint and
ends with the weights of an uninterrupted one.
"""
import copy
import dataclasses
import math
import os
import time
import typing

import torch
import torch.nn.functional as F

from .layers import halut_layers
from .run import (Average, Log, Progress, accuracy, device_of, has_bfloat16, load_state, load_weights, mixed,
                  recalibrate, save)


TEMPERATURE = 2.0  # of distillation, where a recipe says nothing else
LARGE = 1 << 19    # entries: a table of more is one of a small map


def triangle(step, total):
    """Up during the first fifth, then down to zero."""
    progress = step / total
    return progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8


def cosine(step, total, warm=100):
    """Up during `warm` steps, or a tenth of a short run, and along a cosine to zero."""
    warm = max(1, min(warm, total // 10))
    return min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / total))


def groups(model, decay, threshold_share=0.5, decay_dense=True, dense_share=1.0, large_share=1.0):
    """Parameter groups: tables, and matrices if `decay_dense`, decay; thresholds move at a share of the rate and are
    left alone at 0; vectors, and matrices that do not decay, move at `dense_share` of it; LARGE tables at
    `large_share`: few positions look an entry of theirs up, so that their gradients are noise for the most part, and
    Adam steps as far along noise as along anything."""
    tables = [m.table for m in halut_layers(model)]
    large = [table for table in tables if table.numel() > LARGE]
    thresholds = [m.threshold for m in halut_layers(model)]
    for threshold in thresholds:
        threshold.requires_grad_(threshold.requires_grad and threshold_share > 0)
    known = {id(p) for p in tables + thresholds}
    rest = [p for p in model.parameters() if id(p) not in known]
    decayed = tables + [p for p in rest if decay_dense and p.dim() > 1]
    known, apart = {id(p) for p in decayed}, {id(p) for p in large}
    parts = [{"params": [p for p in decayed if id(p) not in apart], "share": 1.0, "weight_decay": decay},
             {"params": large, "share": large_share, "weight_decay": decay},
             {"params": thresholds, "share": threshold_share, "weight_decay": 0.0},
             {"params": [p for p in rest if id(p) not in known], "share": dense_share, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]


def adam(parts, rate):
    return torch.optim.AdamW(parts, lr=rate, betas=(0.9, 0.99))


def descent(parts, rate):
    return torch.optim.SGD(parts, lr=rate, momentum=0.9, nesterov=True)


@dataclasses.dataclass
class Recipe:
    epochs: int
    rate: float                       # at the top of the schedule
    schedule: typing.Callable = cosine  # (step, all steps) -> share of the rate
    optimiser: typing.Callable = adam   # (parameter groups, rate)
    groups: typing.Callable = lambda model: groups(model, 0.01)
    distil: float = 0.0               # weight of the teacher's answer in the loss
    temperature: float = TEMPERATURE  # of that
    smoothing: float = 0.1            # of the labels
    average: float = 0.995            # decay of the weight average, a step
    refresh: int = 50                 # steps between two looks at the directions of the tables
    statistics: int = 8               # batches that batch-norm statistics are measured on
    mixed: float = 0.0                # share of the batches whose images are blended in pairs
    plain: bool = False               # log the accuracy of the weights that are not averaged, too
    seed: int = 0                     # of what the network itself draws: dropout


def distil(student, teacher, labels, weight, smoothing=0.1, temperature=TEMPERATURE):
    """The loss: `weight` of it is the teacher's answer. Labels that are logits (answers.py) are all of it."""
    if labels.is_floating_point():
        teacher, weight = labels, 1
    hard = F.cross_entropy(student, labels, label_smoothing=smoothing) if weight < 1 else 0
    if weight == 0:
        return hard
    soft = F.kl_div(F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1),
                    reduction="batchmean", log_target=True) * temperature ** 2
    return weight * soft + (1 - weight) * hard


def blend(x, y, share):
    """For that share of the calls images blended in pairs: x, the labels of both, and how much of the first."""
    if not share or torch.rand(()).item() >= share:
        return x, y, y, 1.0
    kept, other = torch.rand(()).item(), torch.randperm(len(x)).to(x.device)
    return kept * x + (1 - kept) * x[other], y, y[other], kept


class Trainer:
    """A model, its average and its optimiser, a step at a time."""

    def __init__(self, model, recipe, total, teacher=None):
        self.model, self.recipe, self.total, self.step = model, recipe, total, 0
        self.device = device_of(model)
        self.teacher = teacher.eval() if teacher is not None and recipe.distil else None
        self.average = Average(model, recipe.average)
        for layer in halut_layers(model):
            layer.fast = has_bfloat16(self.device)
        parts = recipe.groups(model)
        self.settings = [{key: part[key] for key in ("share", "weight_decay")} for part in parts]
        self.optimiser = recipe.optimiser(parts, recipe.rate)

    def refresh(self, x):
        """Has every Halut layer look at its table as it is now, and at the inputs that `x` gives it."""
        layers = halut_layers(self.model)
        if layers:
            with torch.no_grad():
                self.model(x[:16])
        for layer in layers:
            layer.refresh()

    def advance(self, x, y):
        """One step; returns the loss."""
        x, first, second, kept = blend(x.to(self.device), y.to(self.device), self.recipe.mixed)
        self.model.train()
        now = self.recipe.rate * self.recipe.schedule(self.step, self.total)
        for part in self.optimiser.param_groups:
            part["lr"] = now * part["share"]
        with torch.no_grad(), mixed(self.device):
            target = self.teacher(x).float() if self.teacher is not None else None
        if self.step % self.recipe.refresh == 0:
            self.refresh(x)
        with mixed(self.device):
            out = self.model(x)
        rest = (self.recipe.distil if target is not None else 0, self.recipe.smoothing, self.recipe.temperature)
        loss = kept * distil(out.float(), target, first, *rest)
        if kept < 1:
            loss = loss + (1 - kept) * distil(out.float(), target, second, *rest)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.average.update(self.model)
        self.step += 1
        return loss.item()

    def state(self):
        return {"model": self.model.state_dict(), "average": self.average.model.state_dict(),
                "steps": self.average.steps, "optimiser": self.optimiser.state_dict()}

    def restore(self, state):
        load_weights(self.model, state["model"])
        load_weights(self.average.model, state["average"])
        self.average.steps = state["steps"]
        self.optimiser.load_state_dict(state["optimiser"])
        for part, settings in zip(self.optimiser.param_groups, self.settings):
            part.update(settings)  # the recipe's, not those of the interrupted run


def train(model, batches, validation, out, recipe, teacher=None, statistics=None, steps=0):
    """Trains `model` in place; the averaged weights are in the checkpoint `out`, the log in `out`.csv. validation:
    images, labels. statistics: batches that batch norm is measured on for the average, default the training's own.
    steps: leave after so many of this call. Returns the trainer and the last validation accuracy of the average, in
    percent."""
    if not len(batches):
        raise ValueError("there is no batch to train on: fewer images than a batch holds")
    trainer = Trainer(model, recipe, recipe.epochs * len(batches), teacher)
    first, value = 0, None
    if os.path.exists(out):
        state = load_state(out)
        trainer.restore(state)
        first, value = state["epoch"], state.get("validation")
        trainer.step = first * len(batches)
    batches.epoch, last = first, trainer.step + steps
    columns = ["epoch", "loss", "validation", "validation_average", "seconds"]
    log = Log(out + ".csv", [c for c in columns if c != "validation" or recipe.plain], first)
    for epoch in range(first, recipe.epochs):
        start, total = time.time(), 0.0
        bar = Progress(len(batches), f"epoch {epoch + 1}")
        torch.manual_seed(recipe.seed + epoch)  # so that a resumed run draws what an uninterrupted one does
        for i, (x, y) in enumerate(batches):
            total += trainer.advance(x, y)
            bar.step(i + 1, f"loss {total / (i + 1):.3f}")
            if steps and trainer.step == last:
                print(f"{steps} steps: loss {total / (i + 1):.4f}, {time.time() - start:.1f} s, validation "
                      f"{accuracy(model, *validation):.2f}")
                return trainer, value
        row = {"epoch": epoch + 1, "loss": f"{total / len(batches):.4f}"}
        if recipe.plain:
            row["validation"] = f"{accuracy(model, *validation):.2f}"
        # A copy has its own epoch counter: the order of training must not depend on this.
        recalibrate(trainer.average.model, copy.copy(statistics or batches), recipe.statistics)
        value = accuracy(trainer.average.model, *validation)
        log.row(**row, validation_average=f"{value:.2f}", seconds=f"{time.time() - start:.0f}")
        save(out, {**trainer.state(), "epoch": epoch + 1, "validation": value})
    return trainer, value


def fit(model, batches, validation, out, epochs, rate=3e-3, decay=0.01, teacher=None):
    """Trains any network and leaves the averaged weights in it, distilled from `teacher` where one is given.
    Returns the last validation accuracy in percent."""
    recipe = Recipe(epochs, rate, groups=lambda m: groups(m, decay), distil=0.9 if teacher is not None else 0.0)
    trainer, value = train(model, batches, validation, out, recipe, teacher)
    model.load_state_dict(trainer.average.model.state_dict())
    return value
