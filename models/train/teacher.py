"""Trains a dense network: one that is both the start of the conversion and the teacher of the fine-tuning, ResNet-9 or
the cheaper airbench-relu, or airbench, which can only be a teacher.

    python3 -m train.teacher --data cifar-10-batches-bin --out teacher.pt

It may learn from others itself: `--teacher OTHER.pt --ask-once`.
"""
import argparse

import torch

from .airbench import Airbench, AirbenchReLU, Whitened
from .answers import check_options, lesson, options
from .data import Batches, load, normalise
from .fit import Recipe, descent, groups, train, triangle
from .networks import NETWORKS, keep, load_teacher
from .run import check_epochs, check_out, command, machine_options, prepare


def starting_model(cli, args, images):
    """--network as it begins, or what --start has; airbench-relu may start from an airbench."""
    if not args.start:
        model = NETWORKS[args.network or "resnet9"]()
        if isinstance(model, Whitened):
            model.look(normalise(images[:5000]))
        return model
    model = load_teacher(args.start)
    wanted = NETWORKS[args.network] if args.network else type(model)
    if wanted is AirbenchReLU and isinstance(model, Airbench):
        model = AirbenchReLU.of(model, normalise(images[:1000]))
    if not isinstance(model, wanted):
        cli.error(f"--network: {args.start} is no {args.network}")
    return model


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", required=True)
    cli.add_argument("--out", required=True, help="checkpoint; an unfinished one is resumed")
    cli.add_argument("--network", choices=NETWORKS, help="default: that of --start, else resnet9")
    cli.add_argument("--start", help="begin from the averaged weights of this checkpoint, or kept file: one more cycle")
    cli.add_argument("--epochs", type=int, default=10)
    cli.add_argument("--batch", type=int, default=128)
    cli.add_argument("--rate", type=float, default=0.12)
    cli.add_argument("--decay", type=float, default=5e-4)
    cli.add_argument("--smoothing", type=float, default=0.1)
    cli.add_argument("--cutout", type=int, default=6)
    cli.add_argument("--average", type=float, default=0.998, help="decay of the weight average, a step")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--keep", help="write the averaged weights in float16 too: finetune and report take them")
    options(cli)
    machine_options(cli)
    args = cli.parse_args()
    check_epochs(cli, args)
    check_options(cli, args)
    if args.start:
        check_out(cli, "--start", args)
    device = prepare(args, args.seed)
    images, labels = load(args.data, "train")
    model = starting_model(cli, args, images)
    images, labels, teacher = lesson(args, images, labels, device)
    batches = Batches(images, labels, args.batch, cutout=args.cutout, seed=args.seed)
    recipe = Recipe(args.epochs, args.rate, triangle, descent, lambda model: groups(model, args.decay),
                    distil=args.distil, temperature=args.temperature, smoothing=args.smoothing,
                    average=args.average, plain=True, seed=args.seed)
    trainer, _ = train(model.to(device, memory_format=torch.channels_last), batches, load(args.data, "validation"),
                       args.out, recipe, teacher, statistics=batches.again(250, seed=1))
    if args.keep:
        keep(trainer.average.model.cpu(), args.keep)


if __name__ == "__main__":
    command(main)
