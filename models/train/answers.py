"""What teachers say of a training set, asked once instead of in every step: a quarter of a step where one is airbench.

The answer to an image is the mean of theirs to a few views of it, mirrored and shifted, which are right more often than
one. The true label has a share in it. Blended images have no label, and no teacher knows them by heart. Batches take
answers in the place of labels.
"""
import hashlib
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


def blends(images, seed):
    """As many uint8 images again, each with another one in it: it keeps half to all of its own light. Always the same
    of one seed, so that answers may be kept."""
    rng = np.random.default_rng(seed)
    other, kept = rng.permutation(len(images)), rng.uniform(0.5, 1, len(images)).astype(np.float32)
    mixed = np.empty_like(images)
    for n, share in enumerate(kept):
        mixed[n] = np.rint(share * images[n] + (1 - share) * images[other[n]])
    return mixed


def ask(teachers, images, temperature, views=len(SHIFTS)):
    """Logits [images][classes] whose softmax at the temperature of distillation is the mean over teachers and views."""
    total = sum(torch.softmax(logits(teacher, view(images, n)) / temperature, 1)
                for teacher in teachers for n in range(views))
    return (temperature * torch.log((total / (views * len(teachers))).clamp_min(LEAST))).numpy()


def digest(teacher):
    """Of its weights: what tells one teacher from another."""
    sha = hashlib.sha256()
    for name, value in teacher.state_dict().items():
        sha.update(name.encode())
        sha.update(value.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def ask_once(path, teachers, images, temperature):
    """The same, from `path`, an .npz, where it was kept there with the digests of these teachers and images."""
    asked = {"teachers": sorted(digest(teacher) for teacher in teachers),
             "images": hashlib.sha256(np.ascontiguousarray(images)).hexdigest()}
    if not os.path.exists(path):
        with open(path + ".part", "wb") as file:
            np.savez(file, answers=ask(teachers, images, temperature), **asked)
        os.replace(path + ".part", path)
    with np.load(path) as kept:
        for what, now in asked.items():
            if what not in kept or kept[what].tolist() != now:
                raise SystemExit(f"{path}: answers of or to other {what} than these; remove it to ask again")
        return kept["answers"]


def believe(answers, labels, weight, temperature):
    """Logits whose softmax at that temperature is `weight` of the answers' and, the rest, the label. Answers beyond the
    labels, those to blends, are believed whole."""
    share = torch.softmax(torch.from_numpy(answers) / temperature, 1)
    share[:len(labels)] *= weight
    share[torch.arange(len(labels)), torch.from_numpy(labels)] += 1 - weight
    return (temperature * torch.log(share.clamp_min(LEAST))).numpy()
