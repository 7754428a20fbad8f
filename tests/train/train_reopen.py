#!/usr/bin/python3
# test: served networks made float networks again, and a layer of it learned in fewer codebooks
# timeout: 200
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
import unittest

import train_support

torch = train_support.need_torch()
import numpy as np  # noqa: E402
import reference  # noqa: E402
from train.airbench import AirbenchReLU  # noqa: E402
from train.convert import halut_like, halut_network, replace  # noqa: E402
from train.data import CLASSES, normalise  # noqa: E402
from train.export import export  # noqa: E402
from train.layers import HalutConv2d, halut_layers  # noqa: E402
from train.net import ResNet9  # noqa: E402
from train.reopen import HALF, STEP, learn_again, outputs_of, reopen  # noqa: E402

DENSE = "res1b"  # is kept dense, to be reopened as well


def served(path, model):
    """That of random trees and tables, with its norms measured, as `path`. Returns the pictures."""
    rng = np.random.default_rng(5)
    images, _ = train_support.gratings(64, 3)
    with torch.no_grad():
        for name in model.INNER:
            if name != DENSE:
                layer = halut_like(model.get_submodule(f"{name}.conv"))
                edges = layer.ranges()
                split = [rng.integers(edges[c], edges[c + 1], 4) for c in range(layer.codebooks)]
                layer.split.copy_(torch.from_numpy(np.array(split)))
                layer.threshold.copy_(torch.from_numpy(rng.uniform(0.05, 1, layer.threshold.shape)))
                layer.set_rows(torch.from_numpy(rng.normal(size=(layer.codebooks, 16, layer.out_channels))).float())
                replace(model, f"{name}.conv", layer)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.weight.copy_(torch.from_numpy(rng.uniform(0.4, 1.2, norm.num_features)))
            norm.bias.copy_(torch.from_numpy(rng.normal(0, 0.3, norm.num_features)))
            norm.momentum = None
        model.train()(normalise(images))
    export(model.eval(), path, [normalise(images)], "small", CLASSES)
    return images


def agreement(model, path, images):
    """Share of equal answers of a float network and of reference.py on `path`, and the error of the logits."""
    tensors, metadata = reference.load(path)
    want = reference.run(tensors, metadata, images) * float(metadata["halut.logit_scale"])
    with torch.no_grad():
        got = model(normalise(images)).numpy()
    return (got.argmax(1) == want.argmax(1)).mean(), np.sqrt(np.square(got - want).mean()) / want.std()


class Reopened(unittest.TestCase):
    def setUp(self):
        folder = train_support.folder()
        self.addCleanup(folder.cleanup)
        self.path = f"{folder.name}/small.safetensors"
        self.images = served(self.path, ResNet9(width=4, top=16))
        self.model = reopen(self.path, [normalise(self.images[:32]), normalise(self.images[32:])])

    def test_answers_as_the_served_file(self):
        same, error = agreement(self.model, self.path, self.images)
        print(f"same answer {same:.2f}, error {error:.3f} of the logits' spread")
        self.assertGreaterEqual(same, 0.9)
        self.assertLess(error, 0.25)

    def test_with_whitening_answers_as_the_served_file(self):
        model = AirbenchReLU(widths=(8, 12, 16))
        model.look(normalise(train_support.gratings(64, 3)[0]))
        images = served(self.path, model)
        again = reopen(self.path, [normalise(images)])
        self.assertIsInstance(again, AirbenchReLU)
        same, error = agreement(again, self.path, images)
        print(f"same answer {same:.2f}, error {error:.3f} of the logits' spread")
        self.assertGreaterEqual(same, 0.9)
        self.assertLess(error, 0.25)

    def test_has_blocks_that_give_each_served_map_for_the_one_before(self):
        _, maps = reference.network(*reference.load(self.path), self.images[0])
        reads = {"conv1": None, "conv2": "conv1_conv", "res1a": "max_pool2d", "res1b": "res1a_conv", "conv3": "add",
                 "conv4": "max_pool2d_1", "res2a": "max_pool2d_2", "res2b": "res2a_conv"}
        gives = {"conv2": "max_pool2d", "conv3": "max_pool2d_1", "conv4": "max_pool2d_2"}
        for name, source in reads.items():
            x = torch.from_numpy(maps[source])[None] * STEP if source else normalise(self.images[:1])
            with torch.no_grad():
                y = (self.model.get_submodule(name)(x) / STEP)[0].numpy()
            want = maps[gives.get(name, f"{name}_conv")].astype(np.float32)
            inside = want < 255  # above, the served map ends
            self.assertTrue(inside.mean() > 0.9 and (want > 0).mean() > 0.1, name)
            self.assertLess(np.abs(y - want)[inside].max(), HALF + 0.01, name)

    def test_has_the_served_trees_and_sums_of_variance_1(self):
        tensors, _ = reference.load(self.path)
        sizes = {"width": self.model.conv1.conv.out_channels, "top": self.model.fc.in_features}
        again = halut_network(self.model.state_dict(), **sizes).eval()  # as finetune has it
        x = normalise(self.images)
        self.assertLess((again(x) - self.model(x)).abs().max().item(), 1e-4)
        self.assertNotIsInstance(self.model.get_submodule(f"{DENSE}.conv"), HalutConv2d)
        self.assertTrue(np.array_equal(self.model.conv3.conv.split.numpy(), tensors["conv3_conv.split"]))
        seen = {}
        for name in ("conv1", "conv3", DENSE):
            self.model.get_submodule(f"{name}.conv").register_forward_hook(
                lambda _, args, y, name=name: seen.update({name: y}))
        with torch.no_grad():
            self.model(normalise(self.images))
        for name, y in seen.items():
            variance = y.transpose(0, 1).flatten(1).var(1, unbiased=False)
            self.assertLess((variance[variance > 1e-3] - 1).abs().max().item(), 1e-3, name)

    def test_learns_a_layer_again_onto_its_own_outputs(self):
        before = self.model.conv4.conv
        x = torch.rand(3, 16, 3, 3)
        with torch.no_grad():
            whole = before(x)[:, :, 1, 1]
            self.assertTrue(torch.equal(outputs_of(before, x.reshape(3, -1)), whole))
            self.assertEqual(before.padding, 1)
        report = learn_again(self.model, "conv4.conv", 8, self.images, train_support.PROGRAM)
        self.assertEqual([layer.codebooks for layer in halut_layers(self.model)], [4, 8, 8, 8, 16, 16])
        self.assertLess(report["nmse"], 0.9)


if __name__ == "__main__":
    unittest.main()
