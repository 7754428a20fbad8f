"""Trains all Halut layers of the converted network together, distilling from the dense teacher.

    python3 -m train.finetune --teacher teacher.pt --start start.pt --data cifar-10-batches-bin --out halut.pt
"""
import argparse
import functools

import numpy as np

from .answers import ask_once, believe, blends
from .convert import halut_resnet9
from .data import Batches, load
from .fit import TEMPERATURE, Recipe, cosine, groups, train
from .run import check_epochs, check_out, command, load_state, machine_options, prepare
from .teacher import load_teacher


def arguments():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--teacher", nargs="+", help="default none: the labels alone; with --ask-once the mean of several")
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
                     help="keep the first convolution as it is: no gradient goes through conv2, a sixth of a step")
    cli.add_argument("--average", type=float, default=0.999, help="decay of the weight average, a step")
    cli.add_argument("--ask-once", action="store_true",
                     help="ask the teacher about each image before the first epoch, not about each batch; the answers "
                          "are kept in OUT.answers-TEMPERATURE.npz; the labels then are not smoothed")
    cli.add_argument("--blends", action="store_true",
                     help="with --ask-once: an epoch is twice as long and half of it are images with another one in "
                          "them, which --seed chooses")
    cli.add_argument("--distil", type=float, help="weight of the teacher's answer in the loss, default 0.9")
    cli.add_argument("--temperature", type=float,
                     help=f"of distillation, default {TEMPERATURE:g}: the lower, the more it is about the right class "
                          "alone")
    cli.add_argument("--large-share", type=float, default=1.0, help="of the rate, for tables of more than 2^19 entries")
    cli.add_argument("--refresh", type=int, default=50, help="steps between two looks at the tables' directions")
    cli.add_argument("--mixed", type=float, default=0.0, help="share of the batches whose images are blended in pairs")
    cli.add_argument("--cutout", type=int, default=0)
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--steps", type=int, default=0, help="stop after so many of this run (for a trial)")
    machine_options(cli)
    args = cli.parse_args()
    check_epochs(cli, args)
    for option in ("distil", "temperature"):
        if getattr(args, option) is not None and not args.teacher:
            cli.error(f"--{option}: there is no --teacher to learn from")
    args.distil = 0.9 if args.distil is None else args.distil
    args.temperature = TEMPERATURE if args.temperature is None else args.temperature
    if args.ask_once and not args.teacher:
        cli.error("--ask-once: there is no --teacher to ask")
    if not args.ask_once and args.blends:
        cli.error("--blends: their answers come from --ask-once")
    if not args.ask_once and args.teacher and len(args.teacher) > 1:
        cli.error(f"--teacher: {len(args.teacher)} of them answer with --ask-once only")
    if not 0 <= args.distil <= 1:
        cli.error(f"--distil {args.distil:g}: a share from 0 to 1")
    if not args.temperature > 0:
        cli.error(f"--temperature {args.temperature:g}: must be above 0")
    return cli, args


def starting_weights(cli, args):
    state = load_state(args.start)
    if not args.restart:
        return state["model"]
    if "average" not in state:
        cli.error(f"--restart: {args.start} has no averaged weights; it was not written by finetune")
    check_out(cli, "--restart", args)
    return state["average"]


def main():
    cli, args = arguments()
    device = prepare(args, args.seed)
    images, labels = load(args.data, "whole" if args.whole else "train")
    teachers = [load_teacher(path).to(device) for path in args.teacher or ()]
    if args.ask_once:
        if args.blends:
            images = np.concatenate([images, blends(images, args.seed)])
        answers = ask_once(f"{args.out}.answers-{args.temperature:g}.npz", teachers, images, args.temperature)
        labels, teachers = believe(answers, labels, args.distil, args.temperature), []
    batches = Batches(images, labels, args.batch, cutout=args.cutout, seed=args.seed)
    model = halut_resnet9(starting_weights(cli, args))
    if args.freeze_first:
        model.conv1.requires_grad_(False)
    recipe = Recipe(args.epochs, args.rate, functools.partial(cosine, warm=200),
                    groups=lambda m: groups(m, args.decay, args.threshold_share, False, args.dense_share,
                                            args.large_share),
                    distil=args.distil, temperature=args.temperature, average=args.average, refresh=args.refresh,
                    mixed=args.mixed, statistics=20, seed=args.seed)
    train(model.to(device), batches, load(args.data, "validation"), args.out, recipe, (teachers or [None])[0],
          batches.again(250, seed=1), args.steps)


if __name__ == "__main__":
    command(main)
