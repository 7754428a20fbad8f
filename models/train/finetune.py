"""Trains all Halut layers of the converted network together, distilling from the dense teacher.

    python3 -m train.finetune --teacher teacher.pt --start start.pt --data cifar-10-batches-bin --out halut.pt
"""
import argparse
import functools

from .answers import check_options, lesson, options
from .convert import halut_network
from .data import Batches, load
from .fit import Recipe, cosine, groups, train
from .run import check_epochs, check_out, command, load_state, machine_options, prepare


def arguments():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--start", required=True, help="what convert wrote; with --restart what finetune wrote")
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="checkpoint; an unfinished one is resumed")
    cli.add_argument("--whole", action="store_true",
                     help="learn from the validation split too, in a last run, when all choices are made: what the log "
                          "says of that split then is of images it has seen")
    cli.add_argument("--restart", action="store_true",
                     help="begin a schedule of its own from the averaged weights of --start")
    cli.add_argument("--epochs", type=int, default=20)
    cli.add_argument("--batch", type=int, default=128)
    cli.add_argument("--rate", type=float, default=3e-3)
    cli.add_argument("--decay", type=float, default=0.01)
    cli.add_argument("--threshold-share", type=float, default=0.5, help="of the rate, for thresholds; 0 keeps them")
    cli.add_argument("--dense-share", type=float, default=0.3,
                     help="of the rate, for what is not looked up: first layer, batch norms, classifier")
    cli.add_argument("--freeze-first", action="store_true",
                     help="keep the first convolution as it is: no gradient goes through the next, a sixth of a step")
    cli.add_argument("--average", type=float, default=0.999, help="decay of the weight average, a step")
    cli.add_argument("--large-share", type=float, default=1.0, help="of the rate, for tables of more than 2^19 entries")
    cli.add_argument("--refresh", type=int, default=50, help="steps between two looks at the tables' directions")
    cli.add_argument("--mixed", type=float, default=0.0, help="share of the batches whose images are blended in pairs")
    cli.add_argument("--cutout", type=int, default=0)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--steps", type=int, default=0, help="stop after so many of this run (for a trial)")
    options(cli)
    machine_options(cli)
    args = cli.parse_args()
    check_epochs(cli, args)
    check_options(cli, args)
    return cli, args


def starting_weights(cli, args):
    state = load_state(args.start)
    if not args.restart:
        if "model" not in state:
            cli.error(f"--start: {args.start} has averaged weights only; begin from them with --restart")
        return state["model"]
    if "average" not in state:
        cli.error(f"--restart: {args.start} has no averaged weights; it was not written by finetune")
    check_out(cli, "--restart", args)
    return state["average"]


def main():
    cli, args = arguments()
    device = prepare(args, args.seed)
    model = halut_network(starting_weights(cli, args))
    images, labels = load(args.data, "whole" if args.whole else "train")
    images, labels, teacher = lesson(args, images, labels, device)
    batches = Batches(images, labels, args.batch, cutout=args.cutout, seed=args.seed)
    if args.freeze_first:
        model.get_submodule(model.FIRST).requires_grad_(False)
    recipe = Recipe(args.epochs, args.rate, functools.partial(cosine, warm=200),
                    groups=lambda m: groups(m, args.decay, args.threshold_share, False, args.dense_share,
                                            args.large_share),
                    distil=args.distil, temperature=args.temperature, average=args.average, refresh=args.refresh,
                    mixed=args.mixed, statistics=20, seed=args.seed)
    train(model.to(device), batches, load(args.data, "validation"), args.out, recipe, teacher,
          batches.again(250, seed=1), args.steps)


if __name__ == "__main__":
    command(main)
