"""CIFAR-10 in its official binary layout, and the augmentation the recipes share.

A record is 1 label byte and 3072 pixel bytes (red, green, blue planes, row major). The last 5,000
training images are the validation split: every choice is made on them, the test set is only reported. When all are
made, a last run may learn from them too.
"""
import copy
import os

import numpy as np
import torch

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
VALIDATION = 5000
# The served network subtracts a whole number per channel and pads with it, so that a padded pixel is
# exactly zero in training and in the integer program alike.
ZERO = (125, 123, 114)
SCALE = 63.0


def read_batch(path):
    """Returns images uint8 [n][3][32][32] and labels int64 [n]."""
    records = np.fromfile(path, np.uint8)
    if records.size == 0 or records.size % 3073:
        raise ValueError(f"{path}: {records.size} bytes is no multiple of a 3073-byte record")
    records = records.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def load(folder, split):
    """split is "train", "validation", "whole" (both of these) or "test"."""
    if split == "test":
        return read_batch(os.path.join(folder, "test_batch.bin"))
    batches = [read_batch(os.path.join(folder, f"data_batch_{i}.bin")) for i in range(1, 6)]
    images = np.concatenate([b[0] for b in batches])
    labels = np.concatenate([b[1] for b in batches])
    if split == "whole":
        return images, labels
    cut = len(images) - VALIDATION
    return (images[:cut], labels[:cut]) if split == "train" else (images[cut:], labels[cut:])


def pictures(images):
    """The images as an array, which must be one of uint8 [n][3][height][width], n above 0."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != len(ZERO) or not images.size:
        raise ValueError(f"images {images.dtype} {list(images.shape)}: must be uint8 [n][{len(ZERO)}][height][width]")
    return images


def targets(labels, images):
    """Labels as int64 [n], or answers in their place, floats [n][classes]: one for each of the images."""
    labels = np.asarray(labels)
    whole = labels.ndim == 1 and labels.dtype.kind in "iu"
    if not whole and not (labels.ndim == 2 and labels.dtype.kind == "f"):
        raise ValueError(f"labels {labels.dtype} {list(labels.shape)}: must be whole numbers [n]")
    if len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    return torch.from_numpy(labels.astype(np.int64) if whole else labels)


def normalise(images):
    """uint8 [n][3][height][width] to float32."""
    images = pictures(images)
    x = torch.from_numpy(np.ascontiguousarray(images)).float()
    x -= torch.tensor(ZERO, dtype=torch.float32).view(1, 3, 1, 1)
    return x / SCALE


class Batches:
    """Shuffled, augmented training batches: mirror, shift by up to `shift` pixels (reflected edge),
    and a square cutout. One pass is one epoch; the order depends on the seed and the epoch only."""

    def __init__(self, images, labels, size, shift=4, cutout=0, seed=0):
        images = pictures(images)
        pad = ((0, 0), (0, 0), (shift, shift), (shift, shift))
        self.images = np.pad(images, pad, mode="reflect")
        self.shape = images.shape[1:]
        self.labels = targets(labels, images)
        self.size, self.shift, self.cutout, self.seed = size, shift, cutout, seed
        self.epoch = 0

    def again(self, size, seed):
        """Batches of the same images from their first epoch on, without cutout: for batch-norm statistics."""
        other = copy.copy(self)
        other.size, other.seed, other.cutout, other.epoch = size, seed, 0, 0
        return other

    def __len__(self):
        return len(self.labels) // self.size

    def __iter__(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        # Mirrored on alternate epochs rather than at random: every image is seen both ways equally often.
        mirrored = (np.random.default_rng(self.seed).random(len(self.labels)) < 0.5) ^ (self.epoch % 2 == 1)
        self.epoch += 1
        order = rng.permutation(len(self.labels))
        for start in range(0, len(self) * self.size, self.size):
            index = order[start:start + self.size]
            _, height, width = self.shape
            batch = np.empty((self.size, *self.shape), np.uint8)
            corner = rng.integers(0, 2 * self.shift + 1, (self.size, 2))
            hole = rng.integers(0, max(height, width), (self.size, 2))
            for i, image in enumerate(index):
                y, x = corner[i]
                crop = self.images[image, :, y:y + height, x:x + width]
                batch[i] = crop[:, :, ::-1] if mirrored[image] else crop
                if self.cutout:
                    top, left = np.maximum(hole[i] - self.cutout // 2, 0)
                    square = batch[i, :, top:top + self.cutout, left:left + self.cutout]
                    square[:] = np.array(ZERO, np.uint8)[:, None, None]
            yield normalise(batch), self.labels[index]
