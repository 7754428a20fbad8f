#!/usr/bin/python3
# test: tables tied to dense weights: the regression, the gradient, checkpoints, and untying
# timeout: 200
# tier: full
"""Small layers with random trees, against NumPy on one-hot rows written out."""
import copy
import unittest
from unittest import mock

import train_support

torch = train_support.need_torch()
import numpy as np  # noqa: E402
import torch.nn as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from train import fit as loop  # noqa: E402
from train import layers, tied  # noqa: E402
from train.convert import halut_like, halut_resnet9  # noqa: E402
from train.net import LAYERS, ResNet9  # noqa: E402


def layer_and_rows(channels=4, outputs=6, codebooks=7, count=400):
    """A layer with random trees, the dense one it stands for, and im2col rows whose columns hang together."""
    dense = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
    layer = halut_like(dense, codebooks)
    edges = layer.ranges()
    for c in range(codebooks):
        layer.split[c] = torch.randint(edges[c], edges[c + 1], (4,))
    layer.threshold.data.copy_(torch.rand(codebooks, 16))
    rows = torch.relu(torch.randn(count, 5) @ torch.randn(5, layer.columns) + 0.3 * torch.randn(count, layer.columns))
    return dense, layer, rows


def hot_rows(layer, rows):
    codes = tied.flat(layer).codes(rows[..., None, None]).numpy()
    hot = np.zeros((len(rows), 16 * layer.codebooks))
    for c, line in enumerate(codes):
        hot[np.arange(len(rows)), 16 * c + line] = 1
    return hot


class Projection(unittest.TestCase):
    def test_is_ridge_regression_towards_the_mean_patches(self):
        _, layer, rows = layer_and_rows()
        target = rows + 0.1 * torch.randn_like(rows)
        hot, want = hot_rows(layer, rows), np.zeros((16 * layer.codebooks, layer.columns))
        edges = layer.ranges()
        for entry in range(len(want)):
            own = slice(edges[entry // 16], edges[entry // 16 + 1])
            if hot[:, entry].any():
                want[entry, own] = target.double().numpy()[hot[:, entry] > 0, own].mean(0)
        # Least squares with one more row an entry, which holds the entry to its mean.
        pull = np.eye(len(want)) * np.sqrt(2.5)
        wide = np.concatenate([target.double().numpy() - hot @ want, np.zeros_like(want)])
        want += np.linalg.lstsq(np.concatenate([hot, pull]), wide, rcond=None)[0]
        got = tied.projection(layer, rows, target, ridge=2.5).numpy()
        self.assertLess(np.abs(got - want).max(), 1e-3 * np.abs(want).max())

    def test_is_the_same_on_every_device(self):
        _, layer, rows = layer_and_rows()
        here = tied.projection(layer, rows, rows)
        with mock.patch.dict(layers.PASSES, clear=True):
            self.assertLess((tied.projection(layer, rows, rows) - here).abs().max().item(), 1e-4)


class Tying(unittest.TestCase):
    def tied_layer(self):
        dense, layer, rows = layer_and_rows()
        tied.tie(layer, dense.weight, tied.projection(layer, rows, rows))
        return dense, layer.train()

    def test_rebuilds_patches_and_multiplies_them(self):
        dense, layer = self.tied_layer()
        x = torch.rand(2, 4, 5, 6)
        patches = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, layer.columns)
        rebuilt = hot_rows(layer, patches) @ layer.parametrizations.table[0].projection.double().numpy()
        want = rebuilt @ dense.weight.detach().double().flatten(1).t().numpy()
        got = layer(x).detach().permute(0, 2, 3, 1).reshape(len(want), -1).numpy()
        self.assertLess(np.abs(got - want).max(), 0.02 * np.abs(want).max())  # the table's bfloat16

    def test_gradients(self):
        dense, layer = self.tied_layer()
        x = torch.rand(2, 4, 5, 6, requires_grad=True)
        grad = torch.randn_like(layer(x))
        layer(x).backward(grad)
        other = x.detach().clone().requires_grad_()
        dense(other).backward(grad)
        self.assertLess((x.grad - other.grad).abs().max().item(), 1e-4)  # straight through the rebuilding
        patches = F.unfold(x.detach(), 3, padding=1).transpose(1, 2).reshape(-1, layer.columns)
        rebuilt = hot_rows(layer, patches) @ layer.parametrizations.table[0].projection.double().numpy()
        want = grad.permute(1, 0, 2, 3).reshape(len(dense.weight), -1).double().numpy() @ rebuilt
        got = layers.learned_tables(layer).grad.flatten(1).numpy()
        self.assertLess(np.abs(got - want).max(), 0.02 * np.abs(want).max())

    def test_learns_the_weights(self):
        _, layer = self.tied_layer()
        parts = loop.groups(nn.Sequential(layer), 0.1, 0)
        self.assertIs(parts[0]["params"][0], layers.learned_tables(layer))
        self.assertFalse(layer.threshold.requires_grad)
        x, before = torch.rand(2, 4, 5, 6), layer.rows().detach().clone()
        optimiser = loop.descent([{"params": part["params"]} for part in parts], 0.1)
        layer(x).square().sum().backward()
        optimiser.step()
        layer.refresh()
        self.assertGreater((layer.rows() - before).abs().max().item(), 0)

    def test_copies_share_what_is_constant(self):
        _, layer = self.tied_layer()
        other = copy.deepcopy(layer)
        self.assertIs(other.parametrizations.table[0].projection, layer.parametrizations.table[0].projection)
        self.assertIsNot(layers.learned_tables(other), layers.learned_tables(layer))

    def test_untying_leaves_the_table(self):
        _, layer = self.tied_layer()
        x = torch.rand(2, 4, 5, 6)
        want = layer(x).detach()
        tied.untie(nn.Sequential(layer))
        self.assertIsInstance(layer.table, nn.Parameter)
        self.assertLess((layer(x) - want).abs().max().item(), 0.02 * want.abs().max().item())

    def test_refuses_groups_and_few_prototypes(self):
        for layer in (halut_like(nn.Conv2d(4, 4, 3, groups=2)), halut_like(nn.Conv2d(4, 4, 3), prototypes=4)):
            with self.assertRaisesRegex(ValueError, "without groups, of 16 prototypes"):
                tied.tie(layer, torch.zeros(4, 4, 3, 3), torch.zeros(64, 36))


class Checkpoints(unittest.TestCase):
    def test_are_loaded_tied_and_untied(self):
        sizes = {"width": 4, "top": 8}
        model = ResNet9(**sizes)
        for name in LAYERS:
            block = getattr(model, name)
            dense, layer = block.conv, halut_like(block.conv)
            tied.tie(layer, dense.weight, torch.randn(16 * layer.codebooks, layer.columns))
            block.conv = layer
        self.assertTrue(tied.is_tied(model))
        x = torch.rand(2, 3, 32, 32)
        again = halut_resnet9(model.state_dict(), **sizes)
        self.assertTrue(tied.is_tied(again))
        self.assertTrue(torch.equal(model.eval()(x), again.eval()(x)))
        free = halut_resnet9(tied.untie(again).state_dict(), **sizes)
        self.assertFalse(tied.is_tied(free))
        self.assertLess((free.eval()(x) - model(x)).abs().max().item(), 0.05 * model(x).abs().max().item() + 1e-3)


if __name__ == "__main__":
    unittest.main()
