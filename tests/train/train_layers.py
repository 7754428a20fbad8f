#!/usr/bin/python3
# test: training kernels and layers against plain NumPy, gradients against finite differences
# timeout: 200
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
"""The reference here is loops over positions, levels and rows; it shares nothing with what it checks."""
import copy
import unittest
from unittest import mock

import train_support

torch = train_support.need_torch()
import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from train import kernels, layers, norms, tensors  # noqa: E402
from train.convert import fill, halut_like, random_patches  # noqa: E402
from train.layers import HalutConv2d, HalutLinear, padded  # noqa: E402
from train.net import Block  # noqa: E402

# images, channels, height, width, kernel, stride, padding, codebooks, outputs, groups
SHAPES = [
    (2, 5, 9, 9, 3, 1, 1, 5, 70, 1),
    (2, 6, 9, 7, 3, 2, 1, 6, 64, 1),
    (2, 6, 8, 8, 3, 2, 1, 6, 10, 2),
    (1, 3, 7, 8, 5, 1, 2, 3, 130, 1),
    (2, 4, 6, 5, 3, 1, 0, 7, 20, 1),     # 36 columns in 7 codebooks
    (1, 4, 6, 6, 3, 1, 2, 4, 12, 4),
    (3, 9, 4, 4, 1, 1, 0, 2, 65, 1),     # 9 columns in 2 codebooks
    (2, 17, 5, 5, 1, 2, 0, 17, 3, 1),
    (1, 2, 5, 6, (2, 3), 1, 1, 4, 8, 1),
    (2, 20, 1, 1, 3, 1, 1, 20, 6, 1),
]


def im2col(x, kernel, stride, pad):
    """x [n][c][h][w] to [positions][columns]."""
    n, channels, height, width = x.shape
    out_h, out_w = [(s + 2 * pad - k) // stride + 1 for s, k in zip((height, width), kernel)]
    rows = np.zeros((n * out_h * out_w, channels * kernel[0] * kernel[1]), x.dtype)
    for p in range(len(rows)):
        image, oy, ox = p // (out_h * out_w), p // out_w % out_h, p % out_w
        for column in range(rows.shape[1]):
            c, ky, kx = column // (kernel[0] * kernel[1]), column // kernel[1] % kernel[0], column % kernel[1]
            y, xx = oy * stride + ky - pad, ox * stride + kx - pad
            if 0 <= y < height and 0 <= xx < width:
                rows[p, column] = x[image, c, y, xx]
    return rows


def descend(values, threshold, node, level):
    while level < 4:
        node = 2 * node + int(values[level] > threshold[node])
        level += 1
    return node - 16


def reference_codes(layer, columns):
    split, threshold = layer.split.numpy(), layer.threshold.detach().numpy()
    return np.array([[descend(row[split[c]], threshold[c], 1, 0) for row in columns]
                     for c in range(layer.codebooks)], np.uint8)


def random_layer(shape, seed, whole, prototypes=16):
    """A layer and an input; whole numbers make every sum exact and every tie happen."""
    n, channels, height, width, kernel, stride, pad, codebooks, outputs, groups = shape
    rng = np.random.default_rng(seed)
    layer = HalutConv2d(channels, outputs, kernel, stride, pad, groups=groups, codebooks=codebooks,
                        prototypes=prototypes)
    edges = layer.ranges()
    layer.split.copy_(torch.from_numpy(np.array([rng.integers(edges[c], edges[c + 1], 4) for c in range(codebooks)])))

    def draw(*size):
        values = rng.integers(-3, 4, size) if whole else rng.normal(size=size)
        return torch.from_numpy(values.astype(np.float32))
    with torch.no_grad():
        layer.threshold.copy_(draw(codebooks, 16))
        layer.close_levels()
        layer.set_rows(draw(codebooks, 16, outputs))
        layer.bias.copy_(draw(outputs))
    return layer, draw(n, channels, height, width)


def random_layers(whole):
    """One a shape with 16 prototypes, and one with fewer."""
    for seed, shape in enumerate(SHAPES):
        for prototypes in (16, (2, 4, 8)[seed % 3]):
            yield shape, *random_layer(shape, seed, whole, prototypes)


def columns_of(layer, x):
    return im2col(x.numpy(), layer.kernel_size, layer.stride, layer.padding)


class Kernels(unittest.TestCase):
    def each(self, whole):
        for shape, layer, x in random_layers(whole):
            with self.subTest(shape=shape, prototypes=layer.prototypes):
                yield layer, x

    def test_encode_walks_the_tree_and_ties_go_left(self):
        for layer, x in self.each(True):
            codes = layer.codes(x).numpy()
            self.assertTrue(np.array_equal(codes, reference_codes(layer, columns_of(layer, x))))
            self.assertFalse((codes % (16 // layer.prototypes)).any())

    def test_forward_adds_the_rows_that_the_codes_name(self):
        for layer, x in self.each(True):
            codes, rows = reference_codes(layer, columns_of(layer, x)), layer.rows().detach().numpy()
            want = sum(rows[c, codes[c]] for c in range(layer.codebooks)) + layer.bias.detach().numpy()
            y = layer(x).detach().permute(0, 2, 3, 1).reshape(len(want), -1).numpy()
            self.assertTrue(np.array_equal(y, want))

    def test_table_gradient_scatters_the_output_gradient(self):
        for layer, x in self.each(True):
            codes = reference_codes(layer, columns_of(layer, x))
            y = layer(x)
            grad = torch.randint(-4, 5, y.shape).float()
            y.backward(grad)
            flat = grad.permute(0, 2, 3, 1).reshape(codes.shape[1], -1).numpy()
            want = np.zeros((layer.codebooks, 16, layer.out_channels), np.float32)
            for c in range(layer.codebooks):
                np.add.at(want[c], codes[c], flat)
            full = layer.table.grad.permute(1, 2, 0, 3).reshape(layer.codebooks, 16, -1)
            self.assertTrue(np.array_equal(full[..., :layer.out_channels].numpy(), want))
            self.assertEqual(full[..., layer.out_channels:].abs().sum().item(), 0)
            self.assertTrue(torch.equal(layer.bias.grad, grad.sum((0, 2, 3))))

    def test_table_gradient_agrees_with_finite_differences(self):
        for layer, x in self.each(False):
            weight = torch.randn_like(layer(x).detach())

            def loss():
                y = layer(x)
                return (weight * y + 0.1 * y * y).double().sum()
            loss().backward()
            rng = np.random.default_rng(3)
            for _ in range(6):
                at = tuple(rng.integers(0, s) for s in layer.table.shape)
                with torch.no_grad():
                    old = layer.table[at].item()
                    layer.table[at] = old + 0.125
                    up = loss()
                    layer.table[at] = old - 0.125
                    down = loss()
                    layer.table[at] = old
                got, want = layer.table.grad[at].item(), ((up - down) / 0.25).item()
                if at[0] * layers.BLOCK + at[3] < layer.out_channels:
                    self.assertAlmostEqual(got, want, delta=1e-3 + 1e-3 * abs(want))

    def test_path_gradients_are_what_the_other_way_would_change(self):
        felt = []
        for layer, x in self.each(False):
            layer.train()
            layer(x)
            layer.refresh()
            columns = columns_of(layer, x)
            grad = torch.randn(len(columns), padded(layer.out_channels))
            along = kernels.along(grad, layer.direction, False)
            self.assertLess((along - grad @ layer.direction.t()).abs().max().item(), 1e-3)
            window = torch.rand(layer.codebooks) + 0.5 * layer.spread
            got = kernels.threshold_gradient(layer, x, layer.threshold, window, along)
            self.assertEqual(got[:, layer.prototypes:].abs().sum().item(), 0)
            want, want_columns = self.path_reference(layer, columns, window.numpy(), along.numpy())
            self.assertLess(np.abs(got.numpy() - want).max(), 1e-4 * (1 + np.abs(want).max()))
            want_x = F.fold(torch.from_numpy(want_columns).view(len(x), -1, layer.columns).transpose(1, 2), x.shape[2:],
                            layer.kernel_size, padding=layer.padding, stride=layer.stride)
            got_x = kernels.input_gradient(layer, x, layer.threshold, window, along)
            self.assertLess((got_x - want_x).abs().max().item(), 1e-4 * (1 + want_x.abs().max().item()))
            felt.append(np.abs(want).max() > 0)
        self.assertGreater(np.mean(felt), 0.9)  # the smallest map may have no value near a threshold

    def test_thresholds_feel_a_narrower_window_than_inputs(self):
        layer = HalutConv2d(2, 3, 3, padding=1)
        layer.spread.copy_(torch.tensor([2.0, 5.0]))
        felt = {}

        def keep(name, of):
            def call(layer, x, threshold, window, along):
                felt[name] = window.tolist()
                return of(layer, x, threshold, window, along)
            return mock.patch.object(kernels, name, call)
        with keep("input_gradient", kernels.input_gradient), keep("threshold_gradient", kernels.threshold_gradient):
            layer(torch.randn(4, 2, 6, 6, requires_grad=True)).sum().backward()
        self.assertEqual(felt["input_gradient"], [2.0, 5.0])
        self.assertTrue(np.allclose(felt["threshold_gradient"], [0.6, 1.5]))

    @staticmethod
    def path_reference(layer, columns, window, along):
        """Gradients of the thresholds and, [positions][columns], of what is compared with them."""
        along = along.T.reshape(layer.codebooks, layers.RANK, -1)
        split, threshold = layer.split.numpy(), layer.threshold.detach().numpy()
        basis, window = layer.basis.numpy(), window.astype(np.float64)
        want, of_columns = np.zeros((layer.codebooks, 16)), np.zeros(columns.shape)
        for c in range(layer.codebooks):
            for p, row in enumerate(columns):
                values, node = row[split[c]], 1
                leaf = descend(values, threshold[c], 1, 0)
                for level in range(4):
                    right = int(values[level] > threshold[c, node])
                    other = descend(values, threshold[c], 2 * node + 1 - right, level + 1)
                    weight = max(0, 1 - abs(values[level] - float(threshold[c, node])) / window[c])
                    change = (basis[c, :, leaf] - basis[c, :, other]) @ along[c, :, p]
                    push = (-change if right else change) * weight / window[c]
                    want[c, node] += push
                    of_columns[p, split[c, level]] -= push
                    node = 2 * node + right
        return want, of_columns


class Devices(unittest.TestCase):
    """tensors.py, which every device but the CPU runs on, made to run on the CPU, against kernels.c."""

    def passes(self, layer, x, grad, elsewhere):
        with mock.patch.dict(layers.PASSES, clear=elsewhere):
            x = x.clone().requires_grad_()
            codes, y = layer.codes(x), layer(x)
            layer.zero_grad(set_to_none=True)
            y.backward(grad)
            return codes, y.detach(), x.grad, layer.table.grad, layer.threshold.grad

    def agree(self, layer, x, limit, fast_limit):
        layer.train()
        layer(x)
        layer.refresh()
        grad = torch.randn_like(layer(x))
        for layer.fast in (False, True):
            codes, *mine = self.passes(layer, x, grad, True)
            wanted, *others = self.passes(layer, x, grad, False)
            self.assertTrue(torch.equal(codes, wanted))
            for name, got, want in zip(("y", "x", "table", "threshold"), mine, others):
                error = (got - want).abs().max().item() / (1 + want.abs().max().item())
                allowed = fast_limit if layer.fast and name == "table" else limit
                self.assertLessEqual(error, allowed, f"{name}, fast {layer.fast}")
                self.assertEqual(got.dtype, torch.float32)

    def test_give_what_the_kernels_give(self):
        for whole in (True, False):
            for shape, layer, x in random_layers(whole):
                with self.subTest(shape=shape, prototypes=layer.prototypes, whole=whole):
                    self.agree(layer, x, 1e-4, 3e-2)  # a CPU without bfloat16 also rounds what it sums to it

    def test_give_the_same_in_parts(self):
        with mock.patch.object(tensors, "HOT_MAX", 1000):
            self.agree(*random_layer(SHAPES[0], 0, False), 1e-4, 3e-2)

    def test_linear_layers_give_the_same(self):
        layer, x = random_layer(SHAPES[1], 4, False)
        layer.linear = True
        self.agree(layer, x, 1e-4, 3e-2)

    def test_need_no_cpu(self):
        """PyTorch's meta device computes shapes only, and refuses to mix with a tensor that was made elsewhere."""
        for shape, layer, x in random_layers(False):
            layer, x = layer.to("meta").train(), x.to("meta").requires_grad_()
            for layer.fast in (False, True):
                y = layer(x)
                layer.refresh()
                y.backward(torch.zeros_like(y))
            self.assertEqual((x.grad.shape, x.grad.device.type), (x.shape, "meta"))

    def test_refresh_alike(self):
        layer, x = random_layer(SHAPES[2], 3, False, 8)
        layer.linear = True
        layer.train()
        found = []
        for elsewhere in (False, True):
            with mock.patch.dict(layers.PASSES, clear=elsewhere):
                layer(x)
                layer.refresh()
                found.append([layer.surrogate.clone(), layer.spread.clone(),
                              layer.basis.transpose(1, 2) @ layer.direction.view(layer.codebooks, layers.RANK, -1)])
        for mine, other in zip(*found):
            self.assertLess((mine - other).abs().max().item(), 1e-4)


class Surrogate(unittest.TestCase):
    def test_input_gradient_is_that_of_the_surrogate_convolution(self):
        for seed, shape in enumerate(SHAPES):
            for fast in (False, True):
                with self.subTest(shape=shape, fast=fast):
                    layer, x = random_layer(shape, seed, False)
                    layer.linear = True
                    layer.train()
                    layer(x)
                    layer.refresh()
                    layer.fast = fast
                    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
                    y = layer(mine)
                    dense = F.conv2d(other, layer.surrogate, stride=layer.stride, padding=layer.padding,
                                     groups=layer.groups)
                    grad = torch.randn_like(y)
                    y.backward(grad)
                    dense.backward(grad)
                    limit = (2e-2 if fast else 1e-5) * (1 + other.grad.abs().max().item())
                    self.assertLess((mine.grad - other.grad).abs().max().item(), limit)

    def test_surrogate_is_the_ridge_fit_of_the_looked_up_rows(self):
        layer, x = random_layer(SHAPES[4], 1, False)
        layer.linear = True
        layer.train()
        layer(x)
        layer.refresh()
        columns = columns_of(layer, x).astype(np.float64)
        codes = reference_codes(layer, columns.astype(np.float32))
        rows, edges = layer.rows().detach().numpy(), layer.ranges()
        got = layer.surrogate.permute(1, 2, 3, 0).reshape(layer.columns, -1).numpy()
        for c in range(layer.codebooks):
            part = columns[:, edges[c]:edges[c + 1]]
            part = part - part.mean(0)
            square = part.T @ part
            square += (0.05 * np.diag(square).mean() + 1e-6) * np.eye(len(square))
            want = np.linalg.solve(square, part.T @ rows[c, codes[c]])
            self.assertLess(np.abs(got[edges[c]:edges[c + 1]] - want).max(), 1e-4)

    def test_directions_hold_a_table_of_low_rank_exactly(self):
        layer, x = random_layer(SHAPES[0], 2, False)
        low = torch.randn(5, 16, layers.RANK) @ torch.randn(5, layers.RANK, 70)
        low -= low.mean(1, keepdim=True)
        layer.set_rows(low + torch.randn(5, 1, 70))
        layer.train()
        layer(x)
        layer.refresh()
        direction = layer.direction.view(5, layers.RANK, -1)[..., :70]
        self.assertLess((layer.basis.transpose(1, 2) @ direction - low).abs().max().item(), 1e-4)


class Layers(unittest.TestCase):
    def test_width_decides_the_codebooks(self):
        for layer, codebooks, widest in ((HalutConv2d(4, 3, 3, width=9), 4, 9), (HalutConv2d(4, 3, 3, width=10), 4, 9),
                                         (HalutConv2d(4, 3, 3, width=8), 5, 8), (HalutLinear(9, 2, width=9), 1, 9),
                                         (halut_like(torch.nn.Conv2d(2, 2, 5), width=25), 2, 25),
                                         (halut_like(torch.nn.Linear(10, 2), width=3), 4, 3)):
            edges = layer.ranges()
            self.assertEqual((layer.codebooks, len(edges), edges[-1]), (codebooks, codebooks + 1, layer.columns))
            self.assertEqual(max(b - a for a, b in zip(edges, edges[1:])), widest)

    def test_fewer_prototypes_leave_the_deeper_levels_alone(self):
        layer, x = random_layer(SHAPES[0], 5, False, 4)
        layer.train()
        layer(x)
        layer.refresh()
        rows = layer.rows().detach()
        self.assertTrue(torch.equal(rows[:, ::4].repeat_interleave(4, 1), rows))
        optimiser = torch.optim.AdamW([layer.threshold, layer.table], lr=0.1, weight_decay=0)
        layer(x).square().sum().backward()
        optimiser.step()
        self.assertTrue((layer.threshold[:, 4:] == layers.NEVER).all())
        self.assertTrue(torch.isfinite(layer.threshold).all())
        self.assertFalse((layer.codes(x) % 4).any())

    def test_takes_the_shape_of_what_it_replaces(self):
        for dense, shape in ((torch.nn.Conv2d(4, 6, 3, 2, 1, groups=2), (2, 4, 9, 8)),
                             (torch.nn.Conv2d(3, 5, (1, 3), bias=False), (1, 3, 4, 7)),
                             (torch.nn.Linear(9, 5), (4, 9)), (torch.nn.Linear(9, 5), (2, 3, 9))):
            with self.subTest(dense=dense):
                x = torch.randn(shape)
                halut = halut_like(dense)
                self.assertEqual(halut(x).shape, dense(x).shape)
                self.assertEqual(halut.bias is None, dense.bias is None)

    def test_rows_are_the_table_as_it_was_set(self):
        layer, rows = HalutConv2d(3, 70, 3), torch.randn(3, 16, 70)
        layer.set_rows(rows)
        self.assertTrue(torch.equal(layer.rows(), rows))
        self.assertTrue(torch.equal(layer.table[1, 2, 15, :6], rows[2, 15, 64:]))

    def test_stand_a_model_moved_to_channels_last(self):
        layer, x = random_layer(SHAPES[0], 5, False)
        want = layer(x)
        want.square().sum().backward()
        grad, layer.table.grad = layer.table.grad, None
        layer.to(memory_format=torch.channels_last)
        got = layer(x)
        got.square().sum().backward()
        self.assertTrue(torch.equal(got, want) and torch.equal(layer.table.grad, grad))

    def test_linear_looks_up_each_row(self):
        layer = HalutLinear(8, 3, codebooks=2)
        with torch.no_grad():
            layer.split.copy_(torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]))
            layer.set_rows(torch.arange(96.0).view(2, 16, 3))
        self.assertEqual(layer(torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 1]]))[0].tolist(), [75, 77, 79])

    def test_refuses_what_it_cannot_do(self):
        for dense, text in ((torch.nn.Conv2d(3, 3, 3, dilation=2), "dilation"),
                            (torch.nn.Conv2d(3, 3, 3, padding="same"), "padding"),
                            (torch.nn.Conv2d(3, 3, 3, stride=(1, 2)), "alike")):
            with self.assertRaisesRegex(ValueError, text):
                halut_like(dense)
        for options, text in (({"codebooks": 10}, "10 codebooks for 9 columns"),
                              ({"codebooks": 0}, "0 codebooks for 9 columns"),
                              ({"width": 10}, "codebooks 10 columns wide of 9 columns"),
                              ({"width": 0}, "codebooks 0 columns wide of 9 columns"),
                              ({"width": 3, "codebooks": 3}, "one decides the other"),
                              ({"stride": (1, 2)}, "stride .1, 2., padding 0: must be alike"),
                              ({"padding": [0, 1]}, "padding .0, 1.: must be alike"),
                              ({"stride": 0}, "stride 0: must be at least 1"),
                              ({"padding": -1}, "padding -1: must be at least 0"),
                              ({"groups": 0}, "groups 0: must be at least 1"),
                              ({"groups": 2}, "groups 2: must divide 1 in_channels and 1 out_channels"),
                              ({"prototypes": 12}, "12 prototypes: 2, 4, 8 or 16")):
            with self.assertRaisesRegex(ValueError, text):
                HalutConv2d(1, 1, 3, **options)
        with self.assertRaises(TypeError):
            HalutConv2d(1, 1, 3, 1, 0, 2)  # nn.Conv2d's dilation
        with self.assertRaisesRegex(ValueError, "only Conv2d and Linear"):
            halut_like(torch.nn.ConvTranspose2d(1, 1, 3))

    def test_refuses_inputs_that_do_not_fit(self):
        for layer, shape, text in ((HalutConv2d(4, 2, 3), (1, 3, 8, 8), "input .1, 3, 8, 8.: must be .n..4."),
                                   (HalutConv2d(4, 2, 3), (4, 8, 8), "input .4, 8, 8.: must be .n..4."),
                                   (HalutConv2d(4, 2, 3), (1, 4, 2, 8), "smaller than the kernel .3, 3."),
                                   (HalutLinear(6, 2), (2, 3), "input .2, 3.: the last dimension must be 6")):
            with self.subTest(shape=shape), self.assertRaisesRegex(ValueError, text):
                layer(torch.zeros(shape))
        with self.assertRaisesRegex(ValueError, "must be .n..4."):
            HalutConv2d(4, 2, 3).codes(torch.zeros(1, 3, 8, 8))

    def test_goes_left_where_the_learner_found_no_cut(self):
        threshold = np.full((1, 16), 255, np.uint8)
        threshold[0, 1] = 254
        layer = HalutLinear(2, 1, codebooks=1)
        fill(layer, {"split": np.array([[0, 1, 1, 1]]), "low": np.zeros((1, 4), np.float32),
                     "inverse": np.ones((1, 4), np.float32), "threshold": threshold,
                     "table": np.arange(16, dtype=np.int8).reshape(1, 1, 16), "scale": np.ones(1, np.float32),
                     "bias": np.zeros(1, np.float32)})
        x = torch.tensor([[254.4, 1e6], [254.6, 1e6], [0, 0]])
        self.assertEqual(layer(x).flatten().tolist(), [0, 8, 0])

    def test_samples_rows_of_the_im2col_matrix(self):
        for seed, shape in enumerate(SHAPES):
            layer, x = random_layer(shape, seed, False)
            dense = torch.nn.Conv2d(shape[1], 1, layer.kernel_size, layer.stride, layer.padding)
            every = sorted(map(tuple, columns_of(layer, x)))
            rows = random_patches(dense, x, len(every), np.random.default_rng(0))
            self.assertEqual(sorted(map(tuple, rows.numpy())), every)


class Norms(unittest.TestCase):
    """norms.c against PyTorch's own passes in float64."""

    def pair_of(self, images, channels, height, width, pool, mean=1):
        norm = torch.nn.BatchNorm2d(channels)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        x = (2 * torch.randn(images, channels, height, width) + mean).round()  # so that windows have equal values
        return norm, x.contiguous(memory_format=torch.channels_last), copy.deepcopy(norm).double(), x.double(), pool

    def shapes(self):
        for shape in ((3, 32, 6, 8), (2, 64, 4, 4), (1, 16, 2, 2), (5, 48, 10, 2)):
            for pool in (False, True):
                with self.subTest(shape=shape, pool=pool):
                    yield self.pair_of(*shape, pool)

    def test_are_batch_norm_relu_and_pooling(self):
        for case in self.shapes():
            self.compare(*case, 1e-5)

    def test_take_a_mean_far_from_zero(self):
        self.compare(*self.pair_of(3, 32, 6, 8, True, mean=2000), 1e-3)

    def test_tell_that_training_has_diverged(self):
        for value in (float("nan"), float("inf")):
            norm, x, _, _, pool = self.pair_of(2, 16, 4, 4, False)
            x[0, 3, 1, 1] = value
            with self.assertRaisesRegex(FloatingPointError, "training has diverged"):
                norms.norm_relu(norm, x, pool)

    def compare(self, norm, x, plain, x64, pool, error):
        x.requires_grad_()
        x64.requires_grad_()
        self.assertTrue(norms.fits(norm, x, pool))
        y, y64 = norms.norm_relu(norm, x, pool), F.relu(plain(x64))
        y64 = F.max_pool2d(y64, 2) if pool else y64
        grad = torch.randn(y.shape)
        y.backward(grad)
        y64.backward(grad.double())
        for got, want in ((y, y64), (x.grad, x64.grad), (norm.weight.grad, plain.weight.grad),
                          (norm.bias.grad, plain.bias.grad), (norm.running_mean, plain.running_mean),
                          (norm.running_var, plain.running_var)):
            self.assertLess((got - want).abs().max().item(), error * want.abs().max().item())

    def test_do_not_fit_what_the_kernels_cannot_take(self):
        norm, x, _, _, _ = self.pair_of(2, 32, 5, 6, False)
        self.assertTrue(norms.fits(norm, x, False))
        self.assertFalse(norms.fits(norm, x, True))  # an odd height
        self.assertFalse(norms.fits(norm, x[:0], False))
        self.assertFalse(norms.fits(norm, x.contiguous(), False))
        self.assertFalse(norms.fits(norm, x.double(), False))
        self.assertFalse(norms.fits(torch.nn.BatchNorm2d(8), x[:, :8].contiguous(memory_format=torch.channels_last),
                                    False))
        self.assertFalse(norms.fits(torch.nn.BatchNorm2d(32, affine=False), x, False))
        self.assertFalse(norms.fits(norm.eval(), x, False))

    def test_are_what_a_block_trains_with(self):
        torch.manual_seed(4)
        block = Block(3, 16, pool=True).to(memory_format=torch.channels_last)
        x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        with mock.patch.object(norms, "norm_relu", wraps=norms.norm_relu) as fused:
            y = block(x)
            self.assertEqual(fused.call_count, 1)
            with mock.patch.object(norms, "fits", return_value=False):
                self.assertLess((block(x) - y).abs().max().item(), 1e-5)
            block.eval()(x)
            self.assertEqual(fused.call_count, 1)


if __name__ == "__main__":
    unittest.main()
