"""What a teacher says of a training set, asked once instead of in every step: a quarter of a step where it is airbench.

The answer to an image is the mean of those to a few views of it, mirrored and shifted, which are right more often than
one. The true label has a share in it. Batches take answers in the place of labels.
"""
import os

import numpy as np
import torch

from .run import logits

SHIFTS = ((2, 2), (2, 2), (1, 3), (3, 1))  # of two views, mirrored by turns, and two more; the middle is (2, 2)

LEAST = 1e-30  # of a share: its logarithm is a number


def view(images, number):
    """uint8 images as the teacher sees them the `number`-th time."""
    height, width = images.shape[2:]
    y, x = SHIFTS[number % len(SHIFTS)]
    seen = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")[:, :, y:y + height, x:x + width]
    return seen[..., ::-1] if number % 2 else seen


def ask(teacher, images, temperature, views=len(SHIFTS)):
    """Logits [images][classes] whose softmax at the temperature of distillation is the mean over the views."""
    total = sum(torch.softmax(logits(teacher, view(images, n)) / temperature, 1) for n in range(views))
    return (temperature * torch.log((total / views).clamp_min(LEAST))).numpy()


def ask_once(path, teacher, images, temperature):
    """The same, from `path` where it was kept there."""
    if not os.path.exists(path):
        with open(path + ".part", "wb") as file:
            np.save(file, ask(teacher, images, temperature))
        os.replace(path + ".part", path)
    return np.load(path)


def believe(answers, labels, weight, temperature):
    """Logits whose softmax at that temperature is `weight` of the answers' and, the rest, the label."""
    share = weight * torch.softmax(torch.from_numpy(answers) / temperature, 1)
    share[torch.arange(len(labels)), torch.from_numpy(labels)] += 1 - weight
    return (temperature * torch.log(share.clamp_min(LEAST))).numpy()
