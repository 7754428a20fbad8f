"""What the tests of models/train share."""
import os
import sys
import tempfile

import numpy as np

sys.dont_write_bytecode = True
TOP = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path[:0] = [os.path.join(TOP, "models"), os.path.join(TOP, "models", "golden")]
PROGRAM = os.path.join(os.environ.get("HALUT_BUILD", os.path.join(TOP, "build")), "halut")


def need_torch():
    """Ends the program as skipped where PyTorch is missing."""
    try:
        import torch
    except ImportError as error:
        print(f"skip: {sys.executable} has no PyTorch ({error}); Debian: python3-torch")
        sys.exit(77)
    torch.set_num_threads(2)
    torch.manual_seed(1)
    return torch


def folder():
    return tempfile.TemporaryDirectory(prefix="halut-train-")


def gratings(count, seed):
    """Ten classes of pictures, told apart by direction and width, in noise and of random colour and phase: images uint8
    [count][3][32][32] and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    y, x = np.mgrid[:32, :32]
    angle = (labels % 5)[:, None, None] * np.pi / 8  # up to a right angle: mirrored, it is no other class
    width = np.where(labels < 5, 0.9, 0.45)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    wave = np.sin(width * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    colour = rng.uniform(20, 60, (count, 3, 1, 1))
    images = 125 + colour * wave[:, None] + rng.normal(0, 40, (count, 3, 32, 32))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def write_batch(path, images, labels):
    """In the binary layout of CIFAR-10, so that `halut eval` reads it."""
    with open(path, "wb") as file:
        for image, label in zip(images, labels):
            file.write(bytes([label]) + image.tobytes())


def write_training(folder, images, labels):
    """A training set in its five files, the same number of images in each."""
    each = len(labels) // 5
    for i in range(5):
        part = slice(each * i, each * (i + 1))
        write_batch(os.path.join(folder, f"data_batch_{i + 1}.bin"), images[part], labels[part])
