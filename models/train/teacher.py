"""Trains the dense ResNet-9 that is both the start of the conversion and the teacher of the fine-tuning.

    python3 -m train.teacher --data cifar-10-batches-bin --out teacher.pt
"""
import argparse

import torch

from .data import Batches, load
from .fit import Recipe, descent, groups, train, triangle
from .net import ResNet9
from .run import machine_options, prepare, weights


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="checkpoint; an unfinished one is resumed")
    cli.add_argument("--start", help="begin from the averaged weights of this checkpoint: one more cycle")
    cli.add_argument("--epochs", type=int, default=10)
    cli.add_argument("--batch", type=int, default=128)
    cli.add_argument("--rate", type=float, default=0.12)
    cli.add_argument("--decay", type=float, default=5e-4)
    cli.add_argument("--smoothing", type=float, default=0.1)
    cli.add_argument("--cutout", type=int, default=6)
    cli.add_argument("--seed", type=int, default=0)
    machine_options(cli)
    args = cli.parse_args()
    device = prepare(args, args.seed)
    batches = Batches(*load(args.data, "train"), args.batch, cutout=args.cutout, seed=args.seed)
    recipe = Recipe(args.epochs, args.rate, triangle, descent, lambda model: groups(model, args.decay),
                    smoothing=args.smoothing, average=0.998, plain=True, seed=args.seed)
    model = ResNet9()
    if args.start:
        model.load_state_dict(weights(args.start))
    train(model.to(device, memory_format=torch.channels_last), batches, load(args.data, "validation"), args.out, recipe,
          statistics=batches.again(250, seed=1))


if __name__ == "__main__":
    main()
