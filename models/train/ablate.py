"""Compares initial tables, distillation and gradients on a narrow ResNet-9: same seeds, batches and number of steps.

    python3 -m train.ablate --data cifar-10-batches-bin --halut build/halut --out ablation

Writes OUT/ablation.md, which `report --extra` appends to the model card. Every finished part is kept in the folder OUT,
and an interrupted run goes on behind it. Accuracy is that of the validation split, batch norm measured again.
"""
import argparse
import copy
import functools
import json
import os
import time

import torch
import torch.nn.functional as F

from .convert import dense_matrix, halut_like, halut_network, learn, replace, sample_rows
from .data import Batches, load
from .fit import Recipe, Trainer, cosine, descent, groups, train, triangle
from .layers import halut_layers
from .net import ResNet9
from .report import machine, table
from .run import command, load_state, logits, machine_options, prepare, recalibrate, save

SIZES = {"width": 16, "top": 64}
NAMES = [f"{name}.conv" for name in ResNet9.INNER]
ROWS, POINTS, ROUNDS = 20000, 4000, 10  # of a layer's input; of them for k-means; of k-means
BUCKETS = 1e12                          # so much ridge leaves the bucket means
STATISTICS = 8                          # batches


def centres(points, generator):
    """k-means, 16 centres a codebook: points [codebooks][n][width]."""
    found = points[:, torch.randperm(points.shape[1], generator=generator)[:16]]
    for _ in range(ROUNDS):
        hot = F.one_hot(torch.cdist(points, found).argmin(2), 16).float().transpose(1, 2)
        count = hot.sum(2, keepdim=True)
        found = torch.where(count > 0, hot @ points / count.clamp_min(1), found)
    return found


def from_centres(layer, dense, rows, target, program):
    """What the original starts from: the tree names the codes, k-means the prototypes, in its own order."""
    learn(layer, dense, rows, program, by="input")
    points = rows[:POINTS].view(-1, layer.codebooks, layer.columns // layer.codebooks).transpose(0, 1).contiguous()
    found = centres(points, torch.Generator().manual_seed(0))
    layer.set_rows(found @ dense_matrix(dense).reshape(layer.codebooks, -1, layer.out_channels))


def from_buckets(layer, dense, rows, target, program):
    learn(layer, dense, rows, program, ridge=BUCKETS)


def from_inputs(layer, dense, rows, target, program):
    learn(layer, dense, rows, program)


def from_outputs(layer, dense, rows, target, program):
    learn(layer, dense, rows, program, target)


TABLES = {"k-means prototypes at the tree's codes (original)": from_centres, "bucket means": from_buckets,
          "ridge onto the products of its own input": from_inputs,
          "ridge onto the dense network's outputs (ours)": from_outputs}
OURS = list(TABLES)[-1]
# What is compared, what it is called, and how the run differs: table, distil, gradient, share for thresholds.
RUNS = [*(("Initial table", name, name, 0.9, "path", 0.5) for name in TABLES),
        ("Distillation", "with (0.9 of the loss)", OURS, 0.9, "path", 0.5),
        ("Distillation", "without", OURS, 0.0, "path", 0.5),
        ("Gradient", "the dense convolution, thresholds frozen", OURS, 0.9, "dense", 0.0),
        ("Gradient", "the dense convolution, thresholds trained", OURS, 0.9, "dense", 0.5),
        ("Gradient", "a convolution fitted to the table, thresholds frozen", OURS, 0.9, "fitted", 0.0),
        ("Gradient", "a convolution fitted to the table, thresholds trained", OURS, 0.9, "fitted", 0.5),
        ("Gradient", "decisions on the taken path, thresholds frozen", OURS, 0.9, "path", 0.0),
        ("Gradient", "decisions on the taken path, thresholds trained (ours)", OURS, 0.9, "path", 0.5)]


class FittedSurrogate(Trainer):
    """The input's gradient goes through the convolution that fits the table best."""

    def __init__(self, model, *others):
        super().__init__(model, *others)
        for layer in halut_layers(model):
            layer.linear = True


class DenseSurrogate(FittedSurrogate):
    """The input's gradient goes through the dense convolution for good."""

    def refresh(self, x):
        super().refresh(x)
        for name, layer in zip(NAMES, halut_layers(self.model)):
            layer.surrogate.copy_(self.teacher.get_submodule(name).weight.detach())


def converted(dense, fill, images, statistics, program):
    """A copy of `dense` with its inner convolutions replaced layer by layer, tables by `fill`."""
    model = copy.deepcopy(dense)
    for number, name in enumerate(NAMES):
        old = model.get_submodule(name)
        layer = halut_like(old)
        rows, wanted = sample_rows(model, old, images, ROWS, number, dense, dense.get_submodule(name))
        fill(layer, old, rows, wanted @ dense_matrix(old), program)
        replace(model, name, layer.to(old.weight.device))
        recalibrate(model, copy.copy(statistics), STATISTICS)
    return model


def measure(model, validation):
    """Accuracy in percent and cross-entropy."""
    values, labels = logits(model, validation[0]), torch.from_numpy(validation[1])
    return 100 * (values.argmax(1) == labels).float().mean().item(), F.cross_entropy(values, labels).item()


def tuned(model, dense, batches, statistics, args, distil, gradient, share):
    """Trains for the stated number of steps; returns the averaged network."""
    recipe = Recipe(1, args.rate, cosine, groups=lambda m: groups(m, 0.01, share, decay_dense=False), distil=distil,
                    average=0.98)
    kinds = {"dense": DenseSurrogate, "fitted": FittedSurrogate, "path": Trainer}
    trainer = kinds[gradient](model, recipe, args.steps, dense)
    batches.epoch = 0
    while trainer.step < args.steps:
        for x, y in batches:
            trainer.advance(x, y)
            if trainer.step == args.steps:
                break
    recalibrate(trainer.average.model, copy.copy(statistics), STATISTICS)
    return trainer.average.model


class Study:
    """The networks and results so far, in the folder `out`."""

    def __init__(self, args, device):
        self.args, self.device = args, device
        os.makedirs(args.out, exist_ok=True)
        data = load(args.data, "train")
        self.images, self.validation = data[0][:args.images], load(args.data, "validation")
        self.batches = Batches(*data, 128)
        self.statistics = self.batches.again(250, seed=1)
        self.results = self.earlier({key: getattr(args, key) for key in ("epochs", "steps", "rate", "images")})

    def earlier(self, options):
        """The results in the folder, which must have been found with the same options."""
        results = {"options": options}
        if os.path.exists(self.path("results.json")):
            with open(self.path("results.json")) as file:
                results = json.load(file)
        if results.get("options") != options:
            raise ValueError(f"{self.args.out}: made with {results.get('options', 'unknown options')}, not {options}; "
                             "name another --out")
        return results

    def path(self, name):
        return os.path.join(self.args.out, name)

    def keep(self, name, value):
        self.results[name] = value
        with open(self.path("results.json.part"), "w") as file:
            json.dump(self.results, file, indent=1)
        os.replace(self.path("results.json.part"), self.path("results.json"))

    def teacher(self):
        dense = ResNet9(**SIZES).to(self.device, memory_format=torch.channels_last)
        recipe = Recipe(self.args.epochs, 0.12, triangle, descent, lambda m: groups(m, 5e-4), average=0.99)
        trainer, _ = train(dense, self.batches, self.validation, self.path("teacher.pt"), recipe,
                           statistics=self.statistics)
        return trainer.average.model.eval()

    def start(self, name, dense):
        """The converted network and what it measures."""
        number = list(TABLES).index(name)
        path = self.path(f"start{number}.pt")
        if not os.path.exists(path):
            model = converted(dense, TABLES[name], self.images, self.statistics, self.args.halut)
            self.keep(f"start{number}", measure(model, self.validation))
            save(path, {"model": model.state_dict()})
        model = halut_network(load_state(path)["model"], **SIZES)
        return model.to(self.device), self.results[f"start{number}"]

    def run(self):
        self.keep("options", self.results["options"])
        dense = self.teacher()
        if "dense" not in self.results:
            self.keep("dense", measure(dense, self.validation))
        rows = {}
        for heading, label, *settings in RUNS:
            key = json.dumps(settings)
            if key not in self.results:
                begin = time.time()
                model, before = self.start(settings[0], dense)
                model = tuned(model, dense, self.batches, self.statistics, self.args, *settings[1:])
                self.keep(key, [*before, *measure(model, self.validation), time.time() - begin])
                print(f"{label}: {self.results[key]}", flush=True)
            rows.setdefault(heading, []).append((label, self.results[key]))
        return rows

    def text(self, rows):
        dense, args = self.results["dense"], self.args
        parts = [f"""## Ablation

By `python3 -m train.ablate` on a narrow ResNet-9 (channels {SIZES['width']} to {SIZES['top']}) whose dense form,
trained for {args.epochs} epochs, has {dense[0]:.1f} % of the validation split right (cross-entropy {dense[1]:.3f}; the
standard error of an accuracy here is about 0.6). Seven convolutions are converted at once and trained for {args.steps}
steps of 128 images, rate {args.rate:g}, each row with the same seed and batches. So short a run compares starts and
gradients, not ends. On {machine()}."""]
        head = ("converted, right %", "cross-entropy", f"after {args.steps} steps, right %", "cross-entropy", "seconds")
        for heading, lines in rows.items():
            cells = [(label, f"{v[0]:.1f}", f"{v[1]:.3f}", f"{v[2]:.1f}", f"{v[3]:.3f}", f"{v[4]:.0f}")
                     for label, v in lines]
            parts.append(table((heading, *head), cells))
        return "\n\n".join(parts) + "\n"


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="folder")
    cli.add_argument("--halut", default="halut", help="the program built by `make`")
    cli.add_argument("--epochs", type=int, default=2, help="of the dense network")
    cli.add_argument("--steps", type=int, default=120, help="of each run")
    cli.add_argument("--rate", type=float, default=3e-3)
    cli.add_argument("--images", type=int, default=1500, help="training images that conversion sees")
    machine_options(cli)
    args = cli.parse_args()
    study = Study(args, prepare(args))
    text = study.text(study.run())
    with open(study.path("ablation.md"), "w") as file:
        file.write(text)
    print(text)


if __name__ == "__main__":
    command(main)
