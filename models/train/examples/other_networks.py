"""Brings ResNet-20 or ResNet-8 all the way: dense training, conversion, fine-tuning, export, measured by `halut eval`.

    python3 -m train.examples.other_networks --network resnet8 --data cifar-10-batches-bin --halut build/halut \\
        --out /tmp/resnet8

The folder --out holds a checkpoint a stage; a run that was interrupted goes on where it was. The last line is
one JSON object with the accuracy after each stage.
"""
import argparse
import json
import os
import subprocess

import torch

from ..convert import convert, untrained
from ..data import CLASSES, Batches, load, normalise
from ..export import export
from ..fit import fit
from ..nets import NETS, inner
from ..run import accuracy, command, load_state, machine_options, prepare, save


def converted(model, path, train, args):
    """Converts `model` or takes what an earlier run converted."""
    if os.path.exists(path):
        model = untrained(model, inner(model))
        model.load_state_dict(load_state(path)["model"])
        return model
    statistics = Batches(*train, 250, seed=1)
    convert(model, train[0][:args.images], inner(model), args.halut, batches=statistics,
            report=lambda name, result: print(f"{name}: nmse {result.get('nmse')}", flush=True))
    save(path, {"model": model.state_dict()})
    return model


def evaluate(program, path, data):
    done = subprocess.run([program, "eval", path, "--data", data, "--json"], check=True, text=True,
                          stdout=subprocess.PIPE)
    return 100 * json.loads(done.stdout)["top1"]


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--network", choices=sorted(NETS), required=True)
    cli.add_argument("--data", required=True)
    cli.add_argument("--halut", default="halut", help="the program built by `make`")
    cli.add_argument("--out", required=True, help="folder for checkpoints and the model file")
    cli.add_argument("--epochs", type=int, default=6, help="of the dense network")
    cli.add_argument("--finetune", type=int, default=3, help="epochs of the converted network")
    cli.add_argument("--images", type=int, default=3000, help="training images that conversion sees")
    machine_options(cli)
    args = cli.parse_args()
    device = prepare(args)
    os.makedirs(args.out, exist_ok=True)
    train, validation = load(args.data, "train"), load(args.data, "validation")
    result = {"network": args.network}

    dense = NETS[args.network]().to(device, memory_format=torch.channels_last)
    fit(dense, Batches(*train, 128, shift=3), validation, f"{args.out}/dense.pt", args.epochs, 5e-3, 0.05)
    test = load(args.data, "test")
    result["dense"] = accuracy(dense, *test)

    model = NETS[args.network]().to(device)
    model.load_state_dict(dense.state_dict())
    model = converted(model, f"{args.out}/start.pt", train, args)
    result["converted"] = accuracy(model, *test)
    fit(model, Batches(*train, 128, shift=3), validation, f"{args.out}/halut.pt", args.finetune, teacher=dense)
    result["finetuned"] = accuracy(model, *test)

    path = f"{args.out}/{args.network}-cifar10.safetensors"
    images = [normalise(train[0][i:i + 250]) for i in range(0, min(2000, len(train[0])), 250)]
    export(model, path, images, f"{args.network}-cifar10", CLASSES, description=f"{args.network} for CIFAR-10")
    result["served"] = evaluate(args.halut, path, args.data)
    print(json.dumps(result))


if __name__ == "__main__":
    command(main)
