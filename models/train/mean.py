"""Makes a checkpoint of the weighted mean of others, to export or for `finetune --restart` to go on from.

    python3 -m train.mean --of reopened.pt halut.pt --shares 0.45 0.55 --data cifar-10-batches-bin --out mean.pt

Runs that began from the same weights, trees included, mostly lie in one valley, and their mean is better than each of
them (model soups, Wortsman et al. 2022, arXiv 2203.05482): what they learned of their noise differs. The statistics of
batch norm are measured again.
"""
import argparse

import torch

from .convert import halut_network
from .data import Batches, load
from .run import accuracy, averaged, command, machine_options, prepare, recalibrate, save

STATISTICS = 20  # batches that they are measured on


def mean(states, shares):
    """Of the averaged weights in checkpoints. Shapes and whole numbers, the split dimensions, must be alike in all."""
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for name in sorted(set().union(*shapes)):
        if any(each.get(name) != shapes[0].get(name) for each in shapes):
            raise ValueError(f"{name} has not the same shape in all: these are other trees")
    result = {}
    for name, first in states[0].items():
        values = [state[name] for state in states]
        if first.is_floating_point():
            result[name] = sum(share * value for share, value in zip(shares, values))
        elif name.endswith(".split") and not all(torch.equal(first, value) for value in values):
            raise ValueError(f"{name} differs: these are other trees")
        else:
            result[name] = first
    return result


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--of", nargs="+", required=True, help="checkpoints of finetune or reopen")
    cli.add_argument("--shares", nargs="+", type=float, help="of each; default the same")
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True)
    machine_options(cli)
    args = cli.parse_args()
    shares = args.shares or [1 / len(args.of)] * len(args.of)
    if len(shares) != len(args.of) or abs(sum(shares) - 1) > 1e-6:
        cli.error(f"--shares: {len(args.of)} numbers whose sum is 1")
    weights = mean([averaged(path) for path in args.of], shares)
    model = halut_network(weights).to(prepare(args))
    recalibrate(model, Batches(*load(args.data, "train"), 250, seed=1), STATISTICS)
    print(f"validation {accuracy(model, *load(args.data, 'validation')):.2f}")
    state = model.cpu().state_dict()
    save(args.out, {"model": state, "average": state})


if __name__ == "__main__":
    command(main)
