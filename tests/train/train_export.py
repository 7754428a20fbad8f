#!/usr/bin/python3
# test: exported networks: every map against the float layer, the C program against reference.py bit for bit
# timeout: 300
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
"""The exported file is run by models/reference.py. Each of its maps must be what the float layer gives on the map
before it, rounded to the grid; so errors do not hide behind each other. The C program must then agree exactly."""
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
from train import export as exporter  # noqa: E402
from train.convert import halut_like, replace  # noqa: E402
from train.layers import HalutConv2d, HalutLinear  # noqa: E402
from train.nets import NETS  # noqa: E402

ZERO, SCALE = (125, 123, 114), 63.0


def photos(count, size, seed):
    """Smooth u8 pictures [count][3][size][size] with all levels in them."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(-40, 295, (count, 3, 4, 4)).astype(np.float32))
    fine = F.interpolate(coarse, size=(size, size), mode="bilinear").numpy() + rng.normal(0, 6, (count, 3, size, size))
    return np.clip(fine, 0, 255).astype(np.uint8)


def floats(images):
    return (torch.from_numpy(images).float() - torch.tensor(ZERO).view(1, 3, 1, 1)) / SCALE


def randomise(model, images, seed):
    """Random trees, tables and batch norms of both signs; some thresholds negative; statistics measured."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, HalutConv2d):
                edges = layer.ranges()
                split = np.array([rng.integers(edges[c], edges[c + 1], 4) for c in range(layer.codebooks)])
                layer.split.copy_(torch.from_numpy(split))
                layer.threshold.copy_(torch.from_numpy(rng.normal(0.4, 0.5, layer.threshold.shape)))
                layer.set_rows(torch.from_numpy(rng.normal(size=(layer.codebooks, 16, layer.out_channels))).float())
            if isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm1d)):
                layer.weight.copy_(torch.from_numpy(rng.uniform(0.4, 1.2, layer.num_features) *
                                                    rng.choice([-1, 1], layer.num_features)))
                layer.bias.copy_(torch.from_numpy(rng.normal(0, 0.3, layer.num_features)))
                layer.momentum = None
    model.train()
    with torch.no_grad():
        model(floats(images))
    return model.eval()


class Everything(nn.Module):
    """Strides, groups, 5x5, 1x1, both kinds of addition, both pools, a hidden and a looked-up linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.bn0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down, self.bn1 = HalutConv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.side, self.bn2 = HalutConv2d(12, 12, 3, 1, 1, groups=3), nn.BatchNorm2d(12)
        self.wide, self.bn3 = HalutConv2d(12, 12, 5, 1, 2, codebooks=7), nn.BatchNorm2d(12)
        self.short = nn.Conv2d(12, 10, 1, 2, bias=False)
        self.long, self.bn4 = HalutConv2d(12, 10, 3, 2, 1), nn.BatchNorm2d(10)
        self.plain = nn.Conv2d(10, 6, 3, padding=1, groups=2)
        self.hidden, self.bn5 = nn.Linear(6 * 4, 9), nn.BatchNorm1d(9)
        self.looked = HalutLinear(9, 7)
        self.last = nn.Linear(7, 10)
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()

    def forward(self, x):
        x = F.relu(self.bn0(self.first(x)))
        x = self.relu(self.bn1(self.down(x)))
        x = x + F.relu(self.bn2(self.side(x)))      # ReLU before the addition
        x = torch.relu(self.bn3(self.wide(x)) + x)  # and behind it
        x = F.relu(self.bn4(self.long(x)) + self.short(x))
        x = F.avg_pool2d(x, 2)
        x = self.relu(self.pool(self.plain(x)))     # the ReLU behind the pool
        x = F.relu(self.bn5(self.hidden(torch.flatten(x, 1))))
        return self.last(self.relu(self.looked(x))) * 0.25


def made_from(model, images):
    """Exporter after emit, tensors and metadata as read back from a file."""
    made = exporter.Exporter(model, [floats(images)], ZERO, SCALE)
    with train_support.folder() as folder:
        path = os.path.join(folder, "m.safetensors")
        exporter.export(model, path, [floats(images)], "m", list("abcdefghij"), ZERO, SCALE)
        tensors, metadata = reference.load(path)
    made.emit()
    return made, tensors, metadata


class Maps(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def check(self, model, images):
        made, tensors, metadata = made_from(model, images)
        for made_map in [step[-1] for step in made.steps if step[0] != "linear"]:
            # A grid holds what was calibrated, so that the clipping that compare() allows is no way out.
            low, high = made_map.step * (0 - made_map.zero), made_map.step * (255 - made_map.zero)
            self.assertTrue((low <= np.minimum(made_map.low, 0) + 1e-6).all(), made_map.name)
            self.assertTrue((high >= made_map.high - 1e-6).all(), made_map.name)
        for image in images[:2]:
            logits, maps = reference.network(tensors, metadata, image)
            maps["input"] = image.astype(np.int64)
            for kind, *rest in made.steps:
                with self.subTest(step=(rest[-1].name if kind != "linear" else kind)):
                    getattr(self, "check_" + kind)(made, maps, *rest)
            self.check_logits(made, maps, logits, metadata)

    @staticmethod
    def real(maps, made):
        """The values that the integers of a map stand for."""
        zero = np.array(ZERO) if made.name == "input" else np.full(made.shape[0], made.zero)
        return made.step.reshape(-1, 1, 1) * (maps[made.name].astype(np.float64) - zero.reshape(-1, 1, 1))

    def compare(self, maps, made, want, slack):
        """want [M][h][w] in steps; slack [M] in steps besides the rounding."""
        want = np.clip(want / made.step.reshape(-1, 1, 1) + made.zero, 0, 255)
        error = np.abs(maps[made.name] - want).max((1, 2))
        self.assertTrue((error <= 0.5 + slack).all(), f"{made.name}: {error.max():.2f} steps, allowed {slack.max()}")

    def check_convolution(self, _, maps, layer, norm, source, made):
        x = torch.from_numpy(self.real(maps, source))[None]
        with torch.no_grad():
            flat = isinstance(layer, (nn.Linear, HalutLinear))
            y = layer.float()((x.flatten(1) if flat else x).float())
            y = norm(y) if norm is not None else y
        y = y[0].double().numpy().reshape(made.shape)
        relu = made.low.min() >= 0
        factor = np.abs(exporter.fold(layer, norm)[0])
        if isinstance(layer, HalutConv2d):
            rows = layer.rows().detach().numpy()
            unit = (rows.max(1) - rows.min(1)).max(0) / 254
            slack = layer.codebooks * 0.5 * factor * unit / made.step
        else:
            weight = exporter.spread(layer, source) * source.step.reshape(1, -1, 1, 1)
            unit = np.maximum(np.abs(weight).max((1, 2, 3)) / 127, 258 / 65536 * made.step / factor)
            slack = weight[0].size * 255 * 0.5 * factor * unit / made.step / 4
        self.compare(maps, made, np.maximum(y, 0) if relu else y, slack + 0.05 + 255 * 0.5 / 300)

    def check_add(self, _, maps, a, b, relu, made):
        y = self.real(maps, a) + self.real(maps, b)
        self.compare(maps, made, np.maximum(y, 0) if relu else y, np.full(made.shape[0], -0.49))

    def check_pool(self, _, maps, op, kernel, stride, source, made):
        x = torch.from_numpy(self.real(maps, source))
        y = (F.max_pool2d if op == "maxpool" else F.avg_pool2d)(x, kernel, stride).numpy()
        self.compare(maps, made, y, np.full(made.shape[0], -0.49 if op == "maxpool" else 0.01))

    def check_linear(self, *_):
        pass  # check_logits looks at it

    def check_logits(self, made, maps, logits, metadata):
        layer, source = made.steps[-1][1:]
        y = layer(torch.from_numpy(self.real(maps, source)).float().flatten()[None])[0].detach().numpy()
        scale = float(metadata["halut.logit_scale"])
        factor = 0.25 if hasattr(layer, "scaled") else 1.0
        limit = 255 * 0.5 * source.step.mean() * np.abs(layer.weight.detach().numpy()).max() / 127 * layer.in_features
        self.assertLess(np.abs(scale * logits - factor * y).max(), limit)

    def test_of_a_network_with_every_kind_of_layer(self):
        images = photos(24, 32, 1)
        model = randomise(Everything(), images, 1)
        model.last.scaled = True
        self.check(model, images)

    def test_of_the_other_networks(self):
        images = photos(12, 32, 2)
        for name, make in NETS.items():
            model = make()
            for inner, module in list(model.named_modules()):
                if isinstance(module, nn.Conv2d) and inner != "conv1":
                    replace(model, inner, halut_like(module))
            self.check(randomise(model, images, 3), images)


class Program(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def agree(self, model, images):
        """`halut check` replays the golden example that reference.py computed."""
        with train_support.folder() as folder:
            path = os.path.join(folder, "m.safetensors")
            exporter.export(model, path, [floats(images)], "m", [str(i) for i in range(10)], ZERO, SCALE)
            tensors, metadata = reference.load(path)
            x = np.concatenate([images[:5], np.random.default_rng(7).integers(0, 256, (3, 3, 32, 32), np.uint8)])
            golden = reference.run(tensors, metadata, x)
            self.assertGreater(len(np.unique(golden)), 20)
            reference.save(path, {**tensors, "golden.input": x, "golden.output": golden}, metadata)
            for cpu in ("ref", "avx512"):
                done = subprocess.run([train_support.PROGRAM, "check", "--cpu", cpu, path], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                self.assertEqual(done.returncode, 0, done.stdout)
            golden[-1, -1] += 1
            reference.save(path, {**tensors, "golden.input": x, "golden.output": golden}, metadata)
            done = subprocess.run([train_support.PROGRAM, "check", path], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
            self.assertNotEqual(done.returncode, 0)

    def test_equals_the_reference_on_every_kind_of_layer(self):
        images = photos(24, 32, 1)
        self.agree(randomise(Everything(), images, 1), images)

    def test_equals_the_reference_on_the_other_networks(self):
        images = photos(12, 32, 2)
        for make in NETS.values():
            model = make()
            for name, module in list(model.named_modules()):
                if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and name != "conv1":
                    replace(model, name, halut_like(module))
            self.agree(randomise(model, images, 3), images)

    def test_is_content_with_odd_classifiers_and_names(self):
        images = photos(8, 8, 1)
        for weight, bias in ((0, 0), (0, 5), (1e-6, 5), (1, 1e9)):
            model = nn.Sequential()
            model.add_module("long" * 30, nn.Conv2d(3, 4, 3))
            for name, layer in (("relu", nn.ReLU()), ("flat", nn.Flatten()), ("last", nn.Linear(144, 10))):
                model.add_module(name, layer)
            nn.init.constant_(model.last.weight, weight)
            nn.init.constant_(model.last.bias, bias)
            with self.subTest(weight=weight, bias=bias), train_support.folder() as folder:
                path = os.path.join(folder, "m.safetensors")
                exporter.export(model, path, [floats(images)], "m", list("abcdefghij"), ZERO, SCALE)
                done = subprocess.run([train_support.PROGRAM, "check", path], text=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT)
                self.assertEqual(done.returncode, 0, done.stdout)


class Plus(nn.Module):
    def forward(self, x):
        return x + 1


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x


class Refusals(unittest.TestCase):
    def refuses(self, text, *layers, end=True, size=8, first=None, coarse=False):
        model = nn.Sequential(first or nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *layers)
        if coarse:
            layers[0].set_rows(100 * torch.randn(layers[0].codebooks, 16, layers[0].out_channels))
        if end:
            model.extend([nn.Flatten(), nn.LazyLinear(10)])
            model(torch.zeros(1, 3, size, size))
        with self.assertRaisesRegex(ValueError, text):
            made_from(model, photos(4, size, 1))

    def test_names_the_layer_and_the_reason(self):
        self.refuses("has no integer form", nn.Sigmoid())
        self.refuses("padded or dilated pooling", nn.MaxPool2d(3, 2, 1))
        self.refuses("ceil_mode", nn.MaxPool2d(3, 2, ceil_mode=True))
        self.refuses("unequal windows", nn.AdaptiveAvgPool2d(3))
        self.refuses("no dilation", nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.ReLU())
        self.refuses("kernel \\[32, 32\\].*at most 31", nn.Flatten(), nn.Linear(4096, 4), nn.ReLU(), size=32)
        self.refuses("padding \\[1, 1\\] is not smaller", nn.Conv2d(4, 4, 1, padding=1))
        self.refuses("only two maps can be added", Plus())
        self.refuses("would not end at the 6", HalutConv2d(4, 4, 3), nn.ReLU6(), coarse=True)
        self.refuses("^0: reads, with padding, .*or the input", first=HalutConv2d(3, 4, 3, 1, 1))
        self.refuses("may be negative", nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.refuses("last layer must be", nn.Flatten(), HalutLinear(4 * 64, 10), end=False)

    def test_of_arguments_that_change_the_result(self):
        for function in (lambda x: torch.add(x, x, alpha=0.5), lambda x: x.add(x, alpha=2),
                         lambda x: x.add_(x, alpha=2)):
            self.refuses("^add_?: only maps as they are", Apply(function))
        for pool in (nn.AvgPool2d(2, divisor_override=3), Apply(lambda x: F.avg_pool2d(x, 2, divisor_override=1)),
                     Apply(lambda x: F.avg_pool2d(x, 2, 2, 0, False, True, 3))):
            self.refuses("divisor_override", pool)
        self.refuses("dilated pooling", Apply(lambda x: torch.max_pool2d(x, 2, 4, 0, 3)))

    def test_of_a_mean_over_other_axes(self):
        for axes in ((1, 2), [1, 3], 1, -1):
            with self.subTest(axes=axes):
                self.refuses("^mean: only a mean over the last two axes", Apply(lambda x: x.mean(axes)),
                             first=nn.Conv2d(3, 6, 3), size=8)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Apply(lambda x: x.mean(dim=(-1, -2))), nn.Linear(4, 10))
        self.assertEqual(made_from(model, photos(4, 8, 1))[0].steps[1][0], "pool")

    def test_of_graphs_that_the_file_cannot_hold(self):
        flat = nn.Flatten()
        logits = (flat, nn.Linear(256, 10))
        self.refuses("several outputs", *logits, Apply(lambda x: (x, x)), end=False)
        self.refuses("^_2: the output must be an nn.Linear's", flat, end=False)
        self.refuses("^relu: the output must be an nn.Linear's", *logits, Apply(torch.relu), end=False)
        self.refuses("^relu_: changes in place what add reads after it",
                     Apply(lambda x: x.relu_() + x))
        self.refuses("^3: 4097 codebooks: at most 4096", flat, HalutLinear(5400, 4, codebooks=4097), nn.ReLU(), size=30,
                     first=nn.Conv2d(3, 6, 3, padding=1))
        self.refuses("^_3: 256 values to 4097 classes: at most 65536 values and 4096", flat, nn.Linear(256, 4097),
                     end=False)
        self.refuses("takes 258 nodes: at most 256", *[nn.MaxPool2d(1) for _ in range(256)])
        for name in ("weight", "bias"):
            layer = nn.Conv2d(4, 4, 1)
            getattr(layer, name).data[0] = float("nan")
            self.refuses(f"^2: its {name} is not finite", layer)

    def test_of_no_images(self):
        with self.assertRaisesRegex(ValueError, "^images: there are none"):
            exporter.Exporter(nn.Sequential(nn.Conv2d(3, 4, 3)), [], ZERO, SCALE)

    def test_of_arguments_that_the_file_cannot_hold(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        good = {"name": "m", "labels": ["a", "b"], "version": 1, "input_zero": ZERO, "input_scale": SCALE}
        for key, value, text in (("name", ".m", "name '.m': must be 1 to 63 of"), ("name", "a b", "name 'a b'"),
                                 ("name", "m" * 64, "1 to 63"), ("version", 0, "version 0: must be a whole number"),
                                 ("version", "1", "version '1'"), ("labels", "ab", "labels: must be a list"),
                                 ("labels", [0, 1], "labels: must be a list"), ("labels", ["a"], "1 for 2 classes"),
                                 ("input_zero", (1, 2), "input_zero .1, 2.: must be 3 whole numbers"),
                                 ("input_zero", (0.5, 0, 0), "whole numbers"), ("input_zero", (256, 0, 0), "0 to 255"),
                                 ("input_scale", 0, "input_scale 0: must"), ("input_scale", (1, 1), "one a channel")):
            with self.subTest(key=key, value=value), train_support.folder() as folder:
                path = os.path.join(folder, "m.safetensors")
                with self.assertRaisesRegex(ValueError, text):
                    exporter.export(model, path, [floats(photos(4, 8, 1))], **{**good, key: value})
                self.assertFalse(os.path.exists(path))

    def test_takes_out_what_nobody_reads(self):
        class Auxiliary(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(144, 10)

            def forward(self, x):
                x = F.relu(self.body(x))
                torch.sigmoid(x.mean((1, 2)))
                return self.head(x.flatten(1))

        made, _, metadata = made_from(Auxiliary(), photos(4, 8, 1))
        self.assertEqual([node["op"] for node in json.loads(metadata["halut.graph"])], ["conv", "linear"])

    def test_of_an_input_that_no_convolution_reads(self):
        rest = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()
        for name, *layers in (("_0", nn.AvgPool2d(2), *rest, nn.Linear(16, 10)),
                              ("_0", nn.MaxPool2d(2), *rest, nn.Linear(16, 10)),
                              ("_0", nn.AdaptiveAvgPool2d(4), *rest, nn.Linear(16, 10)),
                              ("add", Residual(nn.Conv2d(3, 3, 1)), *rest, nn.Linear(144, 10)),
                              ("_1", nn.Flatten(), nn.Linear(192, 10))):
            with self.subTest(layers=layers), self.assertRaisesRegex(ValueError, f"^{name}: reads the input"):
                made_from(nn.Sequential(*layers), photos(4, 8, 1))

    def test_takes_a_relu_in_wherever_it_stands(self):
        for between in ((nn.Identity(),), (nn.BatchNorm2d(4), nn.Dropout()), (nn.Flatten(), nn.Dropout()),
                        (nn.MaxPool2d(2), nn.Dropout(), nn.Flatten())):
            for relu in (nn.ReLU(), Apply(torch.relu_), Apply(F.relu_)):
                wide = 64 if isinstance(between[0], nn.MaxPool2d) else 256
                hidden = () if nn.Flatten in map(type, between) else (nn.Flatten(),)
                model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *between, relu, *hidden, nn.Linear(wide, 6),
                                      nn.Dropout(), nn.ReLU(), nn.Linear(6, 10)).eval()
                images = photos(24, 8, 1)
                with self.subTest(between=between, relu=relu):
                    made, tensors, metadata = made_from(model, images)
                    self.assertEqual([step[0] for step in made.steps if step[0] != "pool"],
                                     ["convolution", "convolution", "linear"])
                    got = reference.run(tensors, metadata, images) * float(metadata["halut.logit_scale"])
                    want = model(floats(images)).detach().numpy()
                    self.assertLess(np.abs(got - want).max(), 0.1 * np.abs(want).max())

    def test_pools_to_the_size_that_an_adaptive_pool_asks_for(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                              nn.Linear(16, 10))
        made, _, metadata = made_from(model, photos(4, 8, 1))
        self.assertEqual(made.steps[1][2], [4, 4])
        self.assertEqual(json.loads(metadata["halut.graph"])[1]["kernel"], [4, 4])


class Calibrated(unittest.TestCase):
    def test_on_all_pictures_of_a_batch(self):
        images = photos(300, 16, 1) // 8
        images[-1] = 255
        model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10))
        nn.init.ones_(model[0].weight)
        made, _, _ = made_from(model, images)
        brightest = model[:2](floats(images[-1:])).max().item()
        self.assertGreater(made.steps[0][-1].high.min(), 0.9 * brightest)


class ZeroPoints(unittest.TestCase):
    def test_hold_channels_that_lean_to_either_side(self):
        low, high = np.array([1.0, 0.0, 0.2]), np.array([0.0, 1.0, 0.9])
        zero = exporter.zero_point(low, high)
        step = exporter.span(low, high, zero)
        self.assertTrue((low <= zero * step + 1e-9).all() and (high <= (255 - zero) * step + 1e-9).all())
        self.assertLess(step.max(), 4 / 255)

    def test_of_maps_without_negative_values_are_zero(self):
        self.assertEqual(exporter.zero_point(np.zeros(2), np.ones(2)), 0)


if __name__ == "__main__":
    unittest.main()
