#!/usr/bin/env python3
"""Samples to try `halut learn` on.

usage: samples.py uniform|relu FOLDER [--seed N]     writes FOLDER/a.npy and FOLDER/b.npy

uniform  a 10000 x 512, b 512 x 10, all values uniform in [0, 1): the example of the original Halut. No column
         tells anything about another, so a leaf of 16 can say little about the 16 columns of its codebook.
relu     a 20000 x 576, b 576 x 128: like the input of a convolution. 64 channels of 3 x 3 neighbouring pixels;
         pixels follow 32 hidden causes shared by all channels, neighbours more alike than others, and pass a ReLU.
"""
import argparse
import pathlib

import numpy as np


def uniform(rng):
    return rng.random((10000, 512)), rng.random((512, 10))


def relu(rng):
    rows, channels, causes, outputs = 20000, 64, 32, 128
    y, x = np.divmod(np.arange(9), 3)
    near = np.exp(-0.25 * ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2))  # how alike two pixels are
    smooth = np.linalg.cholesky(near)
    weights = rng.normal(size=(causes, channels, 9)) @ smooth.T / np.sqrt(causes)
    noise = rng.normal(size=(rows, channels, 9)) @ smooth.T
    pixels = np.tensordot(rng.normal(size=(rows, causes)), weights, 1) + 0.3 * noise
    return np.maximum(pixels, 0).reshape(rows, -1), rng.normal(size=(channels * 9, outputs)) / 24


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["uniform", "relu"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    make = {"uniform": uniform, "relu": relu}[args.kind]
    a, b = make(np.random.default_rng(args.seed))
    np.save(args.folder / "a.npy", a.astype(np.float32))
    np.save(args.folder / "b.npy", b.astype(np.float32))


if __name__ == "__main__":
    main()
