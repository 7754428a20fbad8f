#!/usr/bin/python3
# test: the shape of a converted ResNet-9 is that of its weights; options that name layers; teachers
# timeout: 200
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
import argparse
import functools
import io
import os
import subprocess
import sys
import unittest
from unittest import mock

import numpy as np
import train_support

torch = train_support.need_torch()
from train import answers, convert, data, export, finetune, mean, run, teacher  # noqa: E402
from train.airbench import FILTERS, Airbench, AirbenchReLU  # noqa: E402
from train.convert import halut_network, layer_codebooks, untrained  # noqa: E402
from train.data import normalise  # noqa: E402
from train.layers import halut_layers  # noqa: E402
from train.net import ResNet9  # noqa: E402
from train.networks import keep, load_teacher  # noqa: E402

SIZES = {"width": 4, "top": 16}


class Shape(unittest.TestCase):
    def test_is_one_codebook_a_channel_where_nothing_says_otherwise(self):
        layers = halut_layers(halut_network(**SIZES))
        self.assertEqual([layer.codebooks for layer in layers], [layer.in_channels for layer in layers])

    def test_is_read_from_the_weights(self):
        names = [f"{name}.conv" for name in ResNet9.INNER]
        model = untrained(ResNet9(**SIZES), names, {"conv4.conv": 32, "res2a.conv": 20})
        for layer in halut_layers(model):
            layer.set_rows(torch.randn(layer.codebooks, 16, layer.out_channels))
        again = halut_network(model.state_dict(), **SIZES)
        self.assertEqual([layer.codebooks for layer in halut_layers(again)], [4, 8, 8, 8, 32, 20, 16])
        x = torch.randn(2, 3, 32, 32)
        self.assertTrue(torch.equal(model.eval()(x), again.eval()(x)))

    def test_option_names_a_layer_of_the_network(self):
        convert.check_layers(ResNet9, [("conv2.conv", 9), ("res2b.conv", 9)])
        for network, name in ((ResNet9, "conv1"), (ResNet9, "fc"), (AirbenchReLU, "res1a")):
            with self.assertRaisesRegex(ValueError, f"^--codebooks {name}: must be one of {network.INNER[0]}, "):
                convert.check_layers(network, [(f"{network.INNER[1]}.conv", 9), (f"{name}.conv", 9)])
        with train_support.folder() as folder:  # before anything is read
            path = os.path.join(folder, "teacher.pt")
            torch.save({"average": ResNet9().state_dict()}, path)
            command = ["convert", "--teacher", path, "--data", "none", "--out", "none", "--codebooks", "conv9=4"]
            with mock.patch.object(sys, "argv", command), self.assertRaisesRegex(ValueError, "^--codebooks conv9: "):
                convert.main()

    def test_option_names_a_layer_and_a_number(self):
        self.assertEqual(layer_codebooks("conv4=512"), ("conv4.conv", 512))
        for text in ("conv4", "conv4=", "conv4=-1", "=9"):
            with self.assertRaisesRegex(argparse.ArgumentTypeError, f"^'{text}' is not LAYER=N$"):
                layer_codebooks(text)


    def test_of_the_other_network_is_read_from_its_weights_too(self):
        model = untrained(AirbenchReLU(), [f"{name}.conv" for name in AirbenchReLU.INNER], {"conv2.conv": 192})
        again = halut_network(model.state_dict())
        self.assertIsInstance(again, AirbenchReLU)
        self.assertEqual([layer.codebooks for layer in halut_layers(again)], [24, 192, 64, 256, 256, 256])
        x = torch.randn(2, 3, 32, 32)
        self.assertTrue(torch.equal(model.eval()(x), again.eval()(x)))
        with self.assertRaisesRegex(ValueError, "^weights of none of these networks: resnet9, airbench, airbench-relu"):
            halut_network({"a.weight": x})
        with self.assertRaisesRegex(ValueError, "^weights of an airbench, which cannot be converted$"):
            halut_network(Airbench().state_dict())

class Means(unittest.TestCase):
    def states(self, count):
        models = [halut_network(**SIZES) for _ in range(count)]
        for layer in (layer for model in models for layer in halut_layers(model)):
            layer.set_rows(torch.randn(layer.codebooks, 16, layer.out_channels))
        return [model.state_dict() for model in models]

    def test_are_of_tables_and_of_all_that_is_dense(self):
        one, other = self.states(2)
        result = mean.mean([one, other], [0.25, 0.75])
        self.assertEqual(set(result), set(one))
        for name in ("conv3.conv.table", "conv1.conv.weight", "res1a.bn.weight", "fc.bias"):
            self.assertTrue(torch.allclose(result[name], 0.25 * one[name] + 0.75 * other[name]), name)
        halut_network(result, **SIZES)

    def test_are_not_of_other_trees(self):
        one, other = self.states(2)
        other["conv4.conv.split"] = other["conv4.conv.split"] + 1
        with self.assertRaisesRegex(ValueError, "^conv4.conv.split differs"):
            mean.mean([one, other], [0.5, 0.5])

    def test_are_not_of_other_shapes(self):
        one, other = self.states(2)
        other["conv4.conv.split"] = other["conv4.conv.split"][:4]
        with self.assertRaisesRegex(ValueError, "^conv4.conv.split has not the same shape in all"):
            mean.mean([one, other], [0.5, 0.5])
        del other["conv4.conv.split"]
        with self.assertRaisesRegex(ValueError, "^conv4.conv.split has not the same shape in all"):
            mean.mean([one, other], [0.5, 0.5])

    def test_command_gives_each_the_same_share_and_refuses_others(self):
        states = self.states(2)
        with train_support.folder() as folder:
            paths = [os.path.join(folder, name) for name in ("one.pt", "other.pt", "mean.pt")]
            for path, state in zip(paths, states):
                torch.save({"average": state}, path)
            command = ["mean", "--of", *paths[:2], "--data", "none", "--out", paths[2]]
            pictures, small = train_support.gratings(250, 4), functools.partial(halut_network, **SIZES)
            with mock.patch.object(sys, "argv", command), mock.patch.object(mean, "load", lambda *_: pictures), \
                    mock.patch.object(mean, "halut_network", small):
                mean.main()
            middle = torch.load(paths[2])["average"]
            self.assertTrue(torch.allclose(middle["conv3.conv.table"], sum(s["conv3.conv.table"] for s in states) / 2))
            self.assertFalse(torch.equal(middle["conv1.bn.running_mean"], states[0]["conv1.bn.running_mean"]))
            for shares in (["0.5"], ["0.5", "0.6"]):
                with mock.patch.object(sys, "argv", [*command, "--shares", *shares]), mock.patch("sys.stderr"):
                    with self.assertRaises(SystemExit) as exit_:
                        mean.main()
                self.assertEqual(exit_.exception.code, 2)


class FinetuneOptions(unittest.TestCase):
    REFUSED = (
        (("--distil", "0.5"), "--distil: there is no --teacher to learn from"),
        (("--temperature", "1"), "--temperature: there is no --teacher to learn from"),
        (("--ask-once",), "--ask-once: there is no --teacher to ask"),
        (("--teacher", "a.pt", "--blends"), "--blends: their answers come from --ask-once"),
        (("--teacher", "a.pt", "b.pt"), "--teacher: 2 of them answer with --ask-once only"),
        (("--teacher", "a.pt", "--distil", "1.5"), "--distil 1.5: a share from 0 to 1"),
        (("--teacher", "a.pt", "--temperature", "0"), "--temperature 0: must be above 0"),
    )

    def test_that_cannot_be_followed_are_refused(self):
        for options, told in self.REFUSED:
            command = ["finetune", "--start", "none", "--data", "none", "--out", "none", *options]
            with mock.patch.object(sys, "argv", command), mock.patch("sys.stderr", io.StringIO()) as errors, \
                    self.assertRaises(SystemExit) as exit_:
                finetune.main()
            self.assertEqual(exit_.exception.code, 2)
            self.assertIn(f"error: {told}\n", errors.getvalue())

    def test_of_runs_that_would_do_nothing_or_write_over_their_start(self):
        with train_support.folder() as folder:
            path = os.path.join(folder, "a.pt")
            torch.save({"average": ResNet9().state_dict()}, path)
            for stage, options, told in (
                    (finetune, ("--start", path, "--out", "none", "--epochs", "0"), "--epochs 0: must be at least 1"),
                    (teacher, ("--out", "none", "--epochs", "0"), "--epochs 0: must be at least 1"),
                    (finetune, ("--start", path, "--out", "none"), f"--start: {path} has averaged weights only"),
                    (teacher, ("--start", path, "--out", path), f"--start: {path} is where it starts from"),
                    (export, ("--start", path, "--out", "none"), f"--start: nothing in {path} is looked up")):
                with mock.patch.object(sys, "argv", [stage.__name__, "--data", folder, *options]), \
                        mock.patch("sys.stderr", io.StringIO()) as errors, self.assertRaises(SystemExit) as exit_:
                    stage.main()
                self.assertEqual(exit_.exception.code, 2)
                self.assertIn(f"error: {told}", errors.getvalue())

    def test_of_export_name_the_model(self):
        with train_support.folder() as folder, mock.patch.object(export, "load") as load:
            load.return_value = train_support.gratings(20, 5)
            start = os.path.join(folder, "start.pt")
            torch.save({"model": halut_network().state_dict()}, start)
            for options, name, description in (
                    (("--out", "here/mine.safetensors"), "mine", "ResNet-9 for CIFAR-10, its inner convolutions"),
                    (("--out", "a b", "--name", "c", "--description", "d"), "c", "d")):
                with mock.patch.object(sys, "argv", ["export", "--start", start, "--data", "none", *options]), \
                        mock.patch.object(export, "export") as written:
                    export.main()
                self.assertEqual(written.call_args.args[3], name)
                self.assertTrue(written.call_args.kwargs["description"].startswith(description))
            load.reset_mock()
            with mock.patch.object(sys, "argv", ["export", "--start", start, "--data", "none", "--out", "a b"]), \
                    self.assertRaisesRegex(ValueError, "^name 'a b': must be"):
                export.main()
            load.assert_not_called()

    def test_keep_the_validation_split_out_but_with_whole(self):
        images, labels = train_support.gratings(50, 5)
        with train_support.folder() as folder, mock.patch.object(data, "VALIDATION", 20):
            train_support.write_training(folder, images, labels)
            start = os.path.join(folder, "start.pt")
            torch.save({"model": halut_network().state_dict()}, start)
            for options, learned in (((), 30), (("--whole",), 50)):
                command = ["finetune", "--start", start, "--data", folder, "--out", "none", "--batch", "10", *options]
                with mock.patch.object(sys, "argv", command), mock.patch.object(finetune, "train") as train:
                    finetune.main()
                _, batches, (held, _), *_ = train.call_args.args
                self.assertEqual(batches.labels.tolist(), labels[:learned].tolist())
                self.assertTrue(np.array_equal(batches.images[:, :, 4:-4, 4:-4], images[:learned]))
                self.assertTrue(np.array_equal(held, images[30:]))


class Commands(unittest.TestCase):
    def run_stage(self, stage, *options):
        models = os.path.join(train_support.TOP, "models")
        done = subprocess.run([sys.executable, "-m", f"train.{stage}", *options], text=True, capture_output=True,
                              env={**os.environ, "PYTHONPATH": models})
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        return done.stderr

    def test_tell_their_user_in_one_line(self):
        with train_support.folder() as folder:
            path = os.path.join(folder, "start.pt")
            torch.save({"model": ResNet9().state_dict()}, path)
            rest = ("--data", folder, "--out", os.path.join(folder, "out"))
            self.assertEqual(self.run_stage("mean", "--of", path, *rest),
                             f"error: {path} has no averaged weights: it is what convert writes\n")
            self.assertRegex(self.run_stage("teacher", *rest), "^error: .*No such file.*data_batch_1.bin'\n$")
            with open(path, "w") as file:
                file.write("cut")
            self.assertRegex(self.run_stage("export", "--start", path, *rest), f"^error: {path}: no checkpoint.*\n$")

    def test_show_where_a_fault_of_ours_is(self):
        def faulty():
            np.zeros(3).reshape(2)

        with self.assertRaisesRegex(ValueError, "cannot reshape"):
            run.command(faulty)
        with self.assertRaisesRegex(SystemExit, "^error: 2 labels for 1 images$"):
            run.command(lambda: data.targets([1, 2], [1]))


class Bright(torch.nn.Module):
    """Says how bright a picture is at its left and right edge."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * torch.stack([x[:, 0, :, 0].mean(1), x[:, 0, :, -1].mean(1)], 1)


class Teachers(unittest.TestCase):
    def test_are_asked_once_about_views_of_each_image(self):
        images = np.random.default_rng(2).integers(0, 256, (7, 3, 32, 32), np.uint8)
        images[:, :, :, :4] //= 2  # the left is darker, also where the view is shifted
        self.assertTrue(np.array_equal(answers.view(images, 0), images))
        self.assertTrue(np.array_equal(answers.view(images, 1), images[..., ::-1]))
        self.assertTrue(np.array_equal(answers.view(images, 2)[:, :, 1:, :-1], images[:, :, :-1, 1:]))
        with train_support.folder() as folder:
            path = os.path.join(folder, "answers.npz")
            told = answers.ask_once(path, [Bright()], images, 2)
            shares = [torch.softmax(Bright()(normalise(answers.view(images, n))) / 2, 1) for n in range(4)]
            wanted = (sum(shares) / 4).detach()
            self.assertTrue(torch.allclose(torch.softmax(torch.from_numpy(told) / 2, 1), wanted, atol=1e-6))
            with mock.patch.object(answers, "ask"):  # not again
                self.assertTrue(np.array_equal(answers.ask_once(path, [Bright()], images, 2), told))
            with self.assertRaisesRegex(SystemExit, "answers.npz: answers of or to other images than these"):
                answers.ask_once(path, [Bright()], images[:6], 2)

    def test_are_not_taken_for_others(self):
        images = np.random.default_rng(2).integers(0, 256, (2, 3, 8, 8), np.uint8)
        one, other = Bright(), Bright()
        other.scale.data.fill_(-3)
        with train_support.folder() as folder:
            path = os.path.join(folder, "answers.npz")
            told = answers.ask_once(path, [one, other], images, 2)
            self.assertTrue(np.array_equal(answers.ask_once(path, [other, one], images, 2), told))
            for teachers in ([one], [one, one], []):
                with self.assertRaisesRegex(SystemExit, "answers.npz: answers of or to other teachers than"):
                    answers.ask_once(path, teachers, images, 2)

    def test_answer_together(self):
        images = np.random.default_rng(2).integers(0, 256, (5, 3, 32, 32), np.uint8)
        one, other = Bright(), Bright()
        other.scale.data.fill_(-3)
        share = [torch.softmax(torch.from_numpy(answers.ask(asked, images, 2)) / 2, 1)
                 for asked in ([one], [other], [one, other])]
        self.assertTrue(torch.allclose((share[0] + share[1]) / 2, share[2], atol=1e-6))
        self.assertFalse(torch.allclose(share[0], share[1], atol=1e-2))

    def test_are_asked_about_blends(self):
        images = np.random.default_rng(2).integers(0, 256, (50, 3, 8, 8), np.uint8)
        mixed = answers.blends(images, 3)
        self.assertTrue(np.array_equal(mixed, answers.blends(images, 3)))
        self.assertFalse(np.array_equal(mixed, answers.blends(images, 4)))
        kept = set()
        for image, blend in zip(images.astype(float), mixed.astype(float)):
            shares = [((blend - other) * (image - other)).sum() / max(((image - other) ** 2).sum(), 1)
                      for other in images]
            errors = [np.abs(share * image + (1 - share) * other - blend).max() for share, other in zip(shares, images)]
            best = int(np.argmin(errors))
            self.assertLess(errors[best], 1.1)
            kept.add(round(shares[best], 1))
        self.assertTrue(all(0.5 <= share <= 1 for share in kept), kept)
        self.assertGreater(len(kept), 4)

    def test_are_believed_in_part(self):
        told, labels = np.array([[1, 2, 0], [3, 0, 0]], np.float32), np.array([2, 0])
        target = torch.softmax(torch.from_numpy(answers.believe(told, labels, 0.75, 2)) / 2, 1)
        wanted = 0.75 * torch.softmax(torch.from_numpy(told) / 2, 1) + 0.25 * torch.eye(3)[labels]
        self.assertTrue(torch.allclose(target, wanted, atol=1e-6))
        more = answers.believe(told, labels[:1], 0.75, 2)  # the second is a blend's
        self.assertTrue(np.allclose(more[0], answers.believe(told[:1], labels[:1], 0.75, 2)[0], atol=1e-6))
        self.assertTrue(torch.allclose(torch.softmax(torch.from_numpy(more[1] - told[1]), 0), torch.full((3,), 1 / 3)))
        alone = answers.believe(told, labels, 0, 2)
        self.assertTrue(np.isfinite(alone).all())
        self.assertEqual(alone.argmax(1).tolist(), [2, 0])

    def test_are_told_by_their_weights(self):
        x = torch.randn(2, 3, 32, 32)
        with train_support.folder() as folder:
            path, kept = os.path.join(folder, "teacher.pt"), os.path.join(folder, "kept.safetensors")
            for model in (ResNet9(), Airbench(), AirbenchReLU()):
                torch.save({"average": model.state_dict()}, path)
                y = model.eval()(x)
                self.assertTrue(torch.allclose(load_teacher(path).eval()(x), y, atol=1e-5))
                keep(model, kept)
                self.assertTrue(torch.allclose(load_teacher(kept).eval()(x), y, atol=1e-2 * y.abs().max().item()))

    def test_are_nothing_else(self):
        with train_support.folder() as folder:
            path = os.path.join(folder, "start.pt")
            torch.save({"model": ResNet9().state_dict()}, path)
            tuned = os.path.join(folder, "tuned.pt")
            torch.save({"average": halut_network().state_dict()}, tuned)
            for other in (path, tuned, os.path.join(train_support.TOP, "models", "signal.safetensors")):
                with self.assertRaisesRegex(SystemExit, f"^{other}: not what `teacher` writes$"):
                    load_teacher(other)
            model = ResNet9()
            model.conv1.bn.running_var.fill_(1e6)
            with self.assertRaisesRegex(SystemExit, "conv1.bn.running_var does not fit into float16"):
                keep(model, path)

    def test_with_relu_begin_as_those_with_gelu(self):
        model, images = Airbench(), train_support.gratings(400, 3)[0]
        for name, value in model.named_parameters():  # what training may leave, but for gains below zero
            if ".bn" in name:
                value.data.uniform_(0.5, 1.5)
        run.recalibrate(model, data.Batches(images, np.zeros(400, int), 100), 4)

        def pad(x):  # what the other does to the right and below
            return torch.nn.functional.pad(x, (0, 1, 0, 1))

        with mock.patch("torch.nn.functional.gelu", torch.relu):
            other, x = AirbenchReLU.of(model, normalise(images[:100])), normalise(images[100:150])
            self.assertTrue(torch.allclose(model.eval()(pad(x)), other.eval()(x), atol=1e-4))
        self.assertEqual([block.pool for block in (other.conv1, other.conv2, other.conv5)], [True, False, True])

    def test_of_another_shape_cannot_be_converted(self):
        with train_support.folder() as folder:
            path = os.path.join(folder, "teacher.pt")
            torch.save({"average": Airbench().state_dict()}, path)
            with mock.patch.object(sys, "argv", ["convert", "--teacher", path, "--data", "none", "--out", "none"]), \
                    self.assertRaisesRegex(ValueError, "^weights of an airbench, which cannot be converted$"):
                convert.main()

    def test_learn_from_others_themselves(self):
        images, labels = train_support.gratings(60, 5)
        with train_support.folder() as folder, mock.patch.object(data, "VALIDATION", 20):
            train_support.write_training(folder, images, labels)
            path, out = os.path.join(folder, "a.pt"), os.path.join(folder, "b.pt")
            torch.save({"average": Airbench().state_dict()}, path)
            command = ["teacher", "--network", "airbench-relu", "--start", path, "--data", folder, "--out", out,
                       "--batch", "10", "--teacher", path, "--ask-once", "--blends"]
            with mock.patch.object(sys, "argv", command), mock.patch.object(teacher, "train") as train:
                train.return_value = (None, None)
                teacher.main()
            model, batches, _, _, recipe, asked = train.call_args.args
            self.assertIsInstance(model, AirbenchReLU)
            self.assertEqual(tuple(batches.labels.shape), (80, 10))
            self.assertEqual((recipe.distil, asked), (0.9, None))
            self.assertTrue(os.path.exists(out + ".answers-2.npz"))
            with mock.patch.object(sys, "argv", command[:-2]), mock.patch.object(teacher, "train") as train:
                train.return_value = (None, None)
                teacher.main()
            self.assertEqual(tuple(train.call_args.args[1].labels.shape), (40,))
            self.assertIsInstance(train.call_args.args[5], Airbench)
            fresh = [*command[:3], *command[5:11]]
            with mock.patch.object(sys, "argv", fresh), mock.patch.object(teacher, "train") as train:
                train.return_value = (None, None)
                teacher.main()
            model = train.call_args.args[0]
            self.assertIsNone(train.call_args.args[5])
            self.assertTrue(torch.equal(model.whiten.weight[:12], -model.whiten.weight[12:]))
            self.assertEqual(model.whiten.weight[:, :, 0].abs().max().item(), 0)
            with mock.patch.object(sys, "argv", [*command[:1], "--network", "resnet9", *command[3:]]), \
                    mock.patch("sys.stderr", io.StringIO()) as errors, self.assertRaises(SystemExit):
                teacher.main()
            self.assertIn(f"error: --network: {path} is no resnet9\n", errors.getvalue())

    def test_whitening_leaves_noise_of_power_one(self):
        model, x = Airbench(), normalise(train_support.gratings(200, 3)[0])
        model.look(x)
        y = model.whiten(x).transpose(0, 1).flatten(1)
        power = y @ y.T / y.shape[1]
        half = FILTERS // 2
        self.assertTrue(torch.allclose(power[:half, :half], torch.eye(half), atol=0.02), power[:half, :half])
        self.assertTrue(torch.equal(y[:half], -y[half:]))
        self.assertEqual([p for p in model.whiten.parameters() if p.requires_grad], [model.whiten.bias])


if __name__ == "__main__":
    unittest.main()
