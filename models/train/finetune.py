"""Trains all Halut layers of the converted network together, distilling from the dense teacher.

    python3 -m train.finetune --teacher teacher.pt --start start.pt --data cifar-10-batches-bin --out halut.pt
"""
import argparse
import functools
import os

import torch

from .convert import halut_resnet9
from .data import Batches, load
from .fit import Recipe, adam, cosine, descent, groups, train
from .net import ResNet9
from .run import load_state, machine_options, prepare
from .tied import is_tied, untie


def arguments():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--teacher", required=True)
    cli.add_argument("--start", required=True, help="what convert wrote; with --restart what finetune wrote")
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="checkpoint; an unfinished one is resumed")
    cli.add_argument("--restart", action="store_true",
                     help="begin a schedule of its own from the averaged weights of --start")
    cli.add_argument("--free", action="store_true", help="untie tied tables: every entry learns for itself")
    cli.add_argument("--epochs", type=int, default=20)
    cli.add_argument("--batch", type=int, default=128)
    cli.add_argument("--rate", type=float, help="default 3e-3, with tied tables 0.04")
    cli.add_argument("--decay", type=float, help="default 0.01, with tied tables 5e-4")
    cli.add_argument("--threshold-share", type=float, default=0.5, help="of the rate, for thresholds; 0 keeps them")
    cli.add_argument("--dense-share", type=float, default=0.3,
                     help="of the rate, for what is not looked up: first layer, batch norms, classifier")
    cli.add_argument("--average", type=float, default=0.999, help="decay of the weight average, a step")
    cli.add_argument("--distil", type=float, default=0.9, help="weight of the teacher's answer in the loss")
    cli.add_argument("--refresh", type=int, default=50, help="steps between two fits of the surrogate")
    cli.add_argument("--mixed", type=float, default=0.0, help="share of the batches whose images are blended in pairs")
    cli.add_argument("--cutout", type=int, default=0)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--steps", type=int, default=0, help="stop after so many (for a trial)")
    machine_options(cli)
    return cli, cli.parse_args()


def starting_weights(cli, args):
    state = load_state(args.start)
    if not args.restart:
        return state["model"]
    if "average" not in state:
        cli.error(f"--restart: {args.start} has no averaged weights; it was not written by finetune")
    if os.path.exists(args.out) and os.path.samefile(args.start, args.out):
        cli.error(f"--restart: {args.out} is where it starts from; name another --out")
    return state["average"]


def free(args):
    """How tables of free entries are trained."""
    decay = 0.01 if args.decay is None else args.decay
    return {"rate": args.rate or 3e-3, "optimiser": adam,
            "groups": lambda m: groups(m, decay, args.threshold_share, False, args.dense_share)}


def dense_like(args):
    """How tied tables are: as the dense network is, whose weights they follow. Thresholds rest."""
    decay = 5e-4 if args.decay is None else args.decay
    return {"rate": args.rate or 0.04, "optimiser": descent, "groups": lambda m: groups(m, decay, 0)}


def main():
    cli, args = arguments()
    device = prepare(args, args.seed)
    batches = Batches(*load(args.data, "train"), args.batch, cutout=args.cutout, seed=args.seed)
    teacher = ResNet9().to(memory_format=torch.channels_last)
    teacher.load_state_dict(load_state(args.teacher)["average"])
    model = halut_resnet9(starting_weights(cli, args))
    if args.free:
        untie(model)
    recipe = Recipe(args.epochs, schedule=functools.partial(cosine, warm=200), distil=args.distil,
                    average=args.average, refresh=args.refresh, mixed=args.mixed, statistics=20, seed=args.seed,
                    **(dense_like(args) if is_tied(model) else free(args)))
    train(model.to(device), batches, load(args.data, "validation"), args.out, recipe, teacher.to(device),
          batches.again(250, seed=1), args.steps)


if __name__ == "__main__":
    main()
