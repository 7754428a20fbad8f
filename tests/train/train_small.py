#!/usr/bin/python3
# test: a small training from end to end: dense, converted, fine-tuned, exported, measured by the C program
# timeout: 240
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
"""What each stage must reach on gratings (train_support) is stated below."""
import json
import os
import subprocess
import unittest

import train_support

torch = train_support.need_torch()
import numpy as np  # noqa: E402
import reference  # noqa: E402
import torch.nn as nn  # noqa: E402
from train.convert import convert  # noqa: E402
from train.data import CLASSES, Batches, normalise, read_batch  # noqa: E402
from train.export import export  # noqa: E402
from train.fit import fit  # noqa: E402
from train.run import accuracy  # noqa: E402

DENSE, SERVED, LOST = 95.0, 93.0, 3.0  # per cent right at least, at least, and lost on the way at most


def network():
    layers = []
    for inputs, outputs, stride in ((3, 8, 1), (8, 16, 2), (16, 16, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class Small(unittest.TestCase):
    def test_reaches_the_stated_accuracy(self):
        with train_support.folder() as folder:
            train_support.write_batch(os.path.join(folder, "test_batch.bin"), *train_support.gratings(1000, 2))
            test = read_batch(os.path.join(folder, "test_batch.bin"))
            images, labels = train_support.gratings(3000, 1)
            batches = Batches(images, labels, 64, shift=2)
            dense = network()
            fit(dense, batches, test, f"{folder}/dense.pt", 5, 1e-2)
            first = accuracy(dense, *test)
            model = network()
            model.load_state_dict(dense.state_dict())
            convert(model, images[:400], program=train_support.PROGRAM, batches=Batches(images, labels, 64, shift=2),
                    report=lambda *_: None)
            middle = accuracy(model, *test)
            fit(model, batches, test, f"{folder}/halut.pt", 2, 5e-4, teacher=dense)
            last = accuracy(model, *test)
            path = f"{folder}/small.safetensors"
            export(model, path, [normalise(images[:500])], "small", CLASSES)
            done = subprocess.run([train_support.PROGRAM, "eval", path, "--data", folder, "--json"], check=True,
                                  text=True, stdout=subprocess.PIPE)
            served = 100 * json.loads(done.stdout)["top1"]
            print(f"dense {first:.1f}, converted {middle:.1f}, fine-tuned {last:.1f}, served {served:.1f}")
            self.assertGreaterEqual(first, DENSE)
            self.assertGreaterEqual(served, SERVED)
            self.assertGreaterEqual(served, first - LOST)
            with open(f"{folder}/halut.pt.csv") as file:
                self.assertEqual(len(file.readlines()), 3)
            self.agrees(model, path, test[0][:100])
            self.resumes(model, batches, test, f"{folder}/halut.pt", dense)

    def agrees(self, model, path, images):
        """reference.py on the file gives the float network's answers, but for the rounding."""
        tensors, metadata = reference.load(path)
        got = reference.run(tensors, metadata, images) * float(metadata["halut.logit_scale"])
        with torch.no_grad():
            want = model(normalise(images)).numpy()
        error = np.sqrt(np.square(got - want).mean()) / want.std()
        same = (got.argmax(1) == want.argmax(1)).mean()
        print(f"integer against float: same answer {same:.2f}, error {error:.3f} of the logits' spread")
        self.assertGreaterEqual(same, 0.97)
        self.assertLess(error, 0.1)

    def resumes(self, model, batches, test, path, dense):
        """A finished run that is called again trains nothing and leaves the same weights."""
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            for value in model.parameters():
                value.zero_()
        fit(model, batches, test, path, 2, 5e-4, teacher=dense)
        for name, value in model.state_dict().items():
            self.assertTrue(torch.equal(value, before[name]), name)


if __name__ == "__main__":
    unittest.main()
