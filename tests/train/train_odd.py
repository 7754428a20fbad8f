#!/usr/bin/python3
# test: networks nobody here trained, converted, exported, checked and evaluated by the C program
# timeout: 300
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
"""Three habits of building a network, each from random weights: what counts is that the C program gives the bits that
reference.py gives, and that the integer network stays close to the float one it was made from."""
import hashlib
import json
import os
import subprocess
import unittest

import train_support

torch = train_support.need_torch()
import numpy as np  # noqa: E402
import reference  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from train import convert as converter  # noqa: E402
from train.data import CLASSES, Batches, normalise  # noqa: E402
from train.export import export  # noqa: E402
from train.layers import HalutConv2d, HalutLinear  # noqa: E402
from train.run import recalibrate  # noqa: E402


class Vgg(nn.Module):
    """Biases, no batch norm, dropout, two hidden linear layers."""

    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (8, 8, 12):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(12 * 16, 24), nn.ReLU(True), nn.Dropout(),
                                        nn.Linear(24, 16), nn.ReLU(True), nn.Linear(16, 10))

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class Separable(nn.Module):
    """Depthwise and 1x1 convolutions with ReLU6 (the second block: ReLU), inverted residuals whose sums may be
    negative."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.ModuleList(self.block(8, 16, relu) for relu in (nn.ReLU6, nn.ReLU))
        self.fc = nn.Linear(8, 10)

    @staticmethod
    def block(width, wide, relu):
        return nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), relu(inplace=True),
                             nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), relu(),
                             nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        x = self.stem(x)
        x = self.blocks[0](x)
        x = x + self.blocks[1](x)
        return self.fc(x.mean([2, 3]))


class Bottleneck(nn.Module):
    """1x1-3x3-1x1 with batch norm and ReLU in front of each convolution, average pools, a projected shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn1, self.one = nn.BatchNorm2d(12), nn.Conv2d(12, 6, 1, bias=False)
        self.bn2, self.three = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, 2, 1, bias=False)
        self.bn3, self.out = nn.BatchNorm2d(6), nn.Conv2d(6, 20, 1, bias=False)
        self.short = nn.Conv2d(12, 20, 1, bias=False)
        self.bn4, self.pool, self.fc = nn.BatchNorm2d(20), nn.AdaptiveAvgPool2d((2, 2)), nn.Linear(80, 10, bias=False)

    def forward(self, x):
        x = F.avg_pool2d(self.stem(x), 2)
        y = self.one(torch.relu(self.bn1(x)))
        y = self.three(F.relu(self.bn2(y)))
        y = self.out(F.relu(self.bn3(y)).contiguous())
        x = y + self.short(F.avg_pool2d(x, 2))
        return self.fc(torch.flatten(self.pool(F.relu(self.bn4(x))), 1))


def photos(count, seed):
    """Smooth u8 pictures [count][3][32][32]."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(-40, 295, (count, 3, 5, 5)).astype(np.float32))
    fine = F.interpolate(coarse, size=(32, 32), mode="bilinear").numpy() + rng.normal(0, 8, (count, 3, 32, 32))
    return np.clip(fine, 0, 255).astype(np.uint8)


class Odd(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(3)
        rows = converter.ROWS_MIN, converter.ROWS_PER_PROTOTYPE
        self.addCleanup(lambda: setattr(converter, "ROWS_MIN", rows[0]))
        converter.ROWS_MIN = 4000  # for a test's sake

    def brought(self, model, names, **options):
        images, labels = photos(400, 1), np.arange(400) % 10
        batches = Batches(images, labels, 40)
        recalibrate(model, batches, 4)
        nmse = {}
        converter.convert(model, images, names, train_support.PROGRAM, batches=batches,
                          report=lambda name, result: nmse.update({name: result["nmse"]}), **options)
        self.assertEqual(list(nmse), names)
        for name in names:  # 1 is what the mean gives; a linear layer has too few rows here to be measured
            self.assertTrue(isinstance(model.get_submodule(name), HalutLinear) or nmse[name] < 0.9, nmse)
        with train_support.folder() as folder:
            path = os.path.join(folder, "odd.safetensors")
            export(model, path, [normalise(images)], "odd", CLASSES)
            tensors, metadata = reference.load(path)
            self.measure(model, folder, path, tensors, metadata)
        return model

    def measure(self, model, folder, path, tensors, metadata):
        """`halut check` on an example, `halut eval` on a test split; both are reference.py's bits."""
        images, labels = photos(40, 2), np.arange(40) % 10
        logits = reference.run(tensors, metadata, images)
        with open(os.path.join(folder, "test_batch.bin"), "wb") as file:
            for image, label in zip(images, labels):
                file.write(bytes([label]) + image.tobytes())
        done = subprocess.run([train_support.PROGRAM, "eval", path, "--data", folder, "--json"], check=True, text=True,
                              stdout=subprocess.PIPE)
        said = json.loads(done.stdout)
        self.assertEqual(said["logits_sha256"], hashlib.sha256(logits.astype("<i4").tobytes()).hexdigest())
        self.assertAlmostEqual(said["top1"], (logits.argmax(1) == labels).mean())
        with torch.no_grad():
            want = model.eval()(normalise(images)).numpy()
        error = np.sqrt(np.square(logits * float(metadata["halut.logit_scale"]) - want).mean()) / want.std()
        self.assertLess(error, 0.25)
        reference.save(path, {**tensors, "golden.input": images[:8], "golden.output": logits[:8]}, metadata)
        done = subprocess.run([train_support.PROGRAM, "check", path], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_vgg_with_biases_and_dropout(self):
        model = self.brought(Vgg(), ["features.3", "features.6", "classifier.1"], width={"classifier.1": 12},
                             prototypes={"features.3": 8})
        self.assertEqual((model.features[3].prototypes, model.features[6].prototypes), (8, 16))
        self.assertEqual(model.classifier[1].codebooks, 16)
        self.assertIsInstance(model.classifier[1], HalutLinear)

    def test_tells_that_there_are_too_few_images(self):
        with self.assertWarnsRegex(UserWarning, "^classifier.1: 100 rows of input for 768 table entries"):
            converter.convert(Vgg(), photos(100, 1), ["classifier.1"], train_support.PROGRAM, report=lambda *_: None)

    def test_names_the_layer_that_cannot_be_converted(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, dilation=2))
        with self.assertRaisesRegex(ValueError, "^2: Conv2d.*no dilation"):
            converter.convert(model, photos(2, 1), program=train_support.PROGRAM)

    def test_converts_a_layer_that_is_used_twice_in_both_places(self):
        shared = nn.Conv2d(8, 8, 3, padding=1)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Flatten(),
                              nn.Linear(8 * 900, 10))
        seen = []
        converter.convert(model, photos(40, 1), ["4"], train_support.PROGRAM, report=lambda name, _: seen.append(name))
        self.assertIsInstance(model[2], HalutConv2d)
        self.assertIs(model[2], model[4])
        self.assertEqual(seen, ["4"])

    def test_samples_every_use_of_a_layer(self):
        shared = nn.Conv2d(3, 3, 1)
        nn.init.zeros_(shared.weight)
        nn.init.constant_(shared.bias, 9)
        rows, _ = converter.sample_rows(nn.Sequential(shared, shared), shared, photos(10, 1), 100, 0)
        self.assertEqual((rows == 9).all(1).sum(), 50)

    def test_leaves_every_layer_in_its_mode(self):
        for training in (True, False):
            model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)).train(training)
            model[1].eval()
            converter.convert(model, photos(40, 1), None, train_support.PROGRAM, report=lambda *_: None)
            self.assertEqual([m.training for m in model], [training, False, training, training])

    def test_refuses_what_it_would_not_heed_and_leaves_the_model(self):
        class Own(nn.Conv2d):
            def forward(self, x):
                return super().forward(2 * x)

        good = photos(2, 1)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), Own(4, 4, 3))
        for images, names, options, text in (
                (good, ["2", "3"], {}, "^3: Own: its forward is its own"),
                (good, "2", {}, "^names: a list of layers, not '2'"),
                (good, [], {}, "^names: there is nothing to convert"),
                (good, ["two"], {}, "^names: the model has no two"),
                (good, ["2", "2"], {}, "^names: 2 is named twice"),
                (good, ["2"], {"codebooks": {"two": 4}}, "^codebooks: two is none of the layers to convert, 2"),
                (good, ["2"], {"width": {"0": 4}}, "^width: 0 is none of the layers"),
                (good, ["2"], {"prototypes": 0}, "^2: 0 prototypes"),
                (good / 255, ["2"], {}, "^images float64 .2, 3, 32, 32.: must be uint8"),
                (good[0], ["2"], {}, "^images uint8 .3, 32, 32.: must be uint8")):
            with self.subTest(text=text), self.assertRaisesRegex(ValueError, text):
                converter.convert(model, images, names, train_support.PROGRAM, **options)
        self.assertNotIsInstance(model[2], HalutConv2d)

    def test_depthwise_separable_with_relu6(self):
        model = self.brought(Separable(), ["blocks.0.0", "blocks.1.3", "blocks.1.6"], codebooks={"blocks.0.0": 4})
        self.assertEqual(model.blocks[1][3].groups, 16)
        self.assertEqual(model.blocks[0][0].codebooks, 4)

    def test_bottleneck_with_batch_norm_first(self):
        model = self.brought(Bottleneck(), ["one", "three"], prototypes=4, width=9)
        self.assertIsInstance(model.three, HalutConv2d)
        self.assertEqual((model.one.codebooks, model.three.codebooks), (2, 6))


if __name__ == "__main__":
    unittest.main()
