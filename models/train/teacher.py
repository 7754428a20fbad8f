"""Trains a dense network: the ResNet-9 that is both the start of the conversion and the teacher of the fine-tuning, or
the cheaper airbench, which can only be a teacher.

    python3 -m train.teacher --data cifar-10-batches-bin --out teacher.pt
"""
import argparse

import torch

from .airbench import Airbench
from .data import Batches, load, normalise
from .fit import Recipe, descent, groups, train, triangle
from .net import ResNet9
from .run import load_state, machine_options, prepare, weights

NETWORKS = {"resnet9": ResNet9, "airbench": Airbench}


def load_teacher(path):
    """The averaged network of a checkpoint that this command wrote, whichever it is."""
    state = load_state(path)["average"]
    model = NETWORKS["airbench" if "whiten.weight" in state else "resnet9"]()
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="checkpoint; an unfinished one is resumed")
    cli.add_argument("--network", choices=NETWORKS, default="resnet9")
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
    model = NETWORKS[args.network]()
    if args.start:
        model.load_state_dict(weights(args.start))
    elif args.network == "airbench":
        model.look(normalise(batches.images[:5000, :, 4:-4, 4:-4]))
    train(model.to(device, memory_format=torch.channels_last), batches, load(args.data, "validation"), args.out, recipe,
          statistics=batches.again(250, seed=1))


if __name__ == "__main__":
    main()
