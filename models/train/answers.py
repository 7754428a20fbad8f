"""What teachers say of a training set, asked once instead of in every step: a quarter of a step where one is airbench.

The answer to an image is the mean of theirs to a few views of it, mirrored and shifted, which are right more often than
one. The true label has a share in it. Blended images have no label, and no teacher knows them by heart. Batches take
answers in the place of labels.
"""
import hashlib
import os

import numpy as np
import torch

from .fit import TEMPERATURE
from .networks import load_teacher
from .run import logits

SHIFTS = ((2, 2), (2, 2), (1, 3), (3, 1))  # of two views, mirrored by turns, and two more; the middle is (2, 2)

LEAST = 1e-30  # of a share: its logarithm is a number


def options(cli):
    cli.add_argument("--teacher", nargs="+", help="default none: the labels alone; with --ask-once the mean of several")
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


def check_options(cli, args):
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


def lesson(args, images, labels, device):
    """What is to be learned, images and labels, or answers in their place; and the teacher that is to be asked about
    each batch, None where all is asked."""
    teachers = [load_teacher(path).to(device) for path in args.teacher or ()]
    if not args.ask_once:
        return images, labels, (teachers or [None])[0]
    if args.blends:
        images = np.concatenate([images, blends(images, args.seed)])
    answers = ask_once(f"{args.out}.answers-{args.temperature:g}.npz", teachers, images, args.temperature)
    return images, believe(answers, labels, args.distil, args.temperature), None


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
