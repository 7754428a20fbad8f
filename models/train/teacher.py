"""Trains a dense network: the ResNet-9 that is both the start of the conversion and the teacher of the fine-tuning, or
the cheaper airbench, which can only be a teacher.

    python3 -m train.teacher --data cifar-10-batches-bin --out teacher.pt
"""
import argparse

import numpy as np
import torch

from . import safetensors
from .airbench import Airbench
from .data import Batches, load, normalise
from .fit import Recipe, descent, groups, train, triangle
from .net import ResNet9
from .run import check_epochs, check_out, command, load_state, machine_options, prepare

NETWORKS = {"resnet9": ResNet9, "airbench": Airbench}


def load_teacher(path):
    """The averaged network of a checkpoint that this command wrote, or of what it kept, whichever it is."""
    if path.endswith(".safetensors"):
        tensors, metadata = safetensors.read(path)
        name, state = metadata.get("network"), {n: torch.from_numpy(v.astype(np.float32)) for n, v in tensors.items()}
    else:
        state = load_state(path).get("average", {})
        name = "airbench" if "whiten.weight" in state else "resnet9" if state else None
    if name not in NETWORKS:
        raise SystemExit(f"{path}: not what `teacher` writes")
    model = NETWORKS[name]()
    counters = {n: value for n, value in model.state_dict().items() if not value.is_floating_point()}
    model.load_state_dict({**counters, **state})
    return model.to(memory_format=torch.channels_last)


def keep(model, path):
    """Half the size of the averaged weights alone, and no pickle: what a repository can hold."""
    name = next(n for n, network in NETWORKS.items() if isinstance(model, network))
    state = {n: value.half().numpy() for n, value in model.state_dict().items() if value.is_floating_point()}
    for n, value in state.items():
        if not np.isfinite(value).all():
            raise SystemExit(f"{path}: {n} does not fit into float16")
    safetensors.write(path, state, {"network": name})


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
    machine_options(cli)
    args = cli.parse_args()
    check_epochs(cli, args)
    if args.start:
        check_out(cli, "--start", args)
    device = prepare(args, args.seed)
    batches = Batches(*load(args.data, "train"), args.batch, cutout=args.cutout, seed=args.seed)
    recipe = Recipe(args.epochs, args.rate, triangle, descent, lambda model: groups(model, args.decay),
                    smoothing=args.smoothing, average=args.average, plain=True, seed=args.seed)
    model = load_teacher(args.start) if args.start else NETWORKS[args.network or "resnet9"]()
    if args.network and not isinstance(model, NETWORKS[args.network]):
        cli.error(f"--network: {args.start} is no {args.network}")
    if isinstance(model, Airbench) and not args.start:
        model.look(normalise(batches.images[:5000, :, 4:-4, 4:-4]))
    trainer, _ = train(model.to(device, memory_format=torch.channels_last), batches, load(args.data, "validation"),
                       args.out, recipe, statistics=batches.again(250, seed=1))
    if args.keep:
        keep(trainer.average.model.cpu(), args.keep)


if __name__ == "__main__":
    command(main)
