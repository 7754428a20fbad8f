#!/usr/bin/python3
# test: the training loop: a run that was interrupted ends with the weights of one that was not
# timeout: 200
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
"""Small networks on random pictures: what is compared is bit for bit, so what they learn does not matter."""
import copy
import csv
import functools
import os
import unittest
from unittest import mock

import train_support

torch = train_support.need_torch()
import numpy as np  # noqa: E402
import torch.nn as nn  # noqa: E402
from train import fit as loop  # noqa: E402
from train import kernels  # noqa: E402
from train.data import Batches  # noqa: E402
from train.layers import HalutConv2d  # noqa: E402
from train.run import accuracy, recalibrate  # noqa: E402


class Interrupted(Exception):
    pass


class Failing(Batches):
    """Breaks off in the middle of an epoch."""

    def __init__(self, *arguments, at):
        super().__init__(*arguments)
        self.at = at

    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if self.epoch - 1 == self.at and i == 2:
                raise Interrupted
            yield batch


def pictures(count):
    rng = np.random.default_rng(4)
    return rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count)


def network(looked_up):
    torch.manual_seed(5)
    second = HalutConv2d(4, 6, 3, 2, 1) if looked_up else nn.Conv2d(4, 6, 3, 2, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(6), nn.ReLU(),
                          nn.Flatten(), nn.Dropout(0.3), nn.Linear(6 * 16, 10))
    if looked_up:
        with torch.no_grad():
            second.split.copy_(9 * torch.arange(4).view(-1, 1) + torch.randint(0, 9, (4, 4)))
            second.threshold.copy_(torch.rand(4, 16))
            second.set_rows(torch.randn(4, 16, 6))
    return model


def recipe(share=0.5, epochs=3, **more):
    return loop.Recipe(epochs, 1e-2, groups=lambda model: loop.groups(model, 0.01, share), refresh=3, **more)


class Statistics(unittest.TestCase):
    def test_are_the_average_over_some_batches(self):
        for norm, x in ((nn.BatchNorm2d(3), torch.randn(3, 6, 3, 2, 2)), (nn.BatchNorm1d(3), torch.randn(3, 6, 3))):
            recalibrate(nn.Sequential(norm), zip(x, x), 2)
            self.assertTrue(torch.allclose(norm.running_mean, x[:2].transpose(0, 2).flatten(1).mean(1), atol=1e-6))
            self.assertEqual(norm.momentum, 0.1)

    def test_stay_where_there_is_no_batch(self):
        model = nn.Sequential(nn.BatchNorm2d(3))
        model[0].running_mean.fill_(7)
        with self.assertRaisesRegex(ValueError, "no batch to measure batch norm on"):
            recalibrate(model, Batches(*pictures(19), 20), 2)
        self.assertTrue((model[0].running_mean == 7).all())


class Resume(unittest.TestCase):
    def run_to(self, path, looked_up, kind, batches, teacher=None):
        model = network(looked_up)
        return loop.train(model, batches, pictures(20), path, kind, teacher, batches.again(20, 1))[0]

    def compare(self, looked_up, kind, teacher=None):
        images = pictures(100)
        with train_support.folder() as folder:
            whole = self.run_to(f"{folder}/whole.pt", looked_up, kind, Batches(*images, 20), teacher)
            with self.assertRaises(Interrupted):
                self.run_to(f"{folder}/part.pt", looked_up, kind, Failing(*images, 20, at=1), teacher)
            self.assertEqual(loop.load_state(f"{folder}/part.pt")["epoch"], 1)
            part = self.run_to(f"{folder}/part.pt", looked_up, kind, Batches(*images, 20), teacher)
            self.assertEqual((part.step, whole.step), (15, 15))
            for mine, other in ((part.model, whole.model), (part.average.model, whole.average.model)):
                for name, value in mine.state_dict().items():
                    self.assertTrue(torch.equal(value, other.state_dict()[name]), name)
            logs = []
            for name in ("whole", "part"):
                with open(f"{folder}/{name}.pt.csv", newline="") as file:
                    logs.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)])
            self.assertEqual(len(logs[0]), 3)
            self.assertEqual(*logs)
            return logs[0]

    def test_of_a_dense_network(self):
        rows = self.compare(False, recipe(schedule=loop.triangle, optimiser=loop.descent, plain=True))
        self.assertEqual(list(rows[0]), ["epoch", "loss", "validation", "validation_average"])

    def test_of_looked_up_layers_and_a_teacher(self):
        rows = self.compare(True, recipe(distil=0.9, mixed=0.5), network(False))
        self.assertEqual(list(rows[0]), ["epoch", "loss", "validation_average"])

    def test_of_answers_in_the_place_of_labels(self):
        images, _ = pictures(100)
        answers = np.random.default_rng(6).normal(size=(100, 10)).astype(np.float32)
        x, y = next(iter(Batches(images, answers, 20)))
        told, student = torch.randn(20, 10), torch.randn(20, 10)
        self.assertEqual(y.shape, (20, 10))
        self.assertEqual(loop.distil(student, None, told, 0), loop.distil(student, told, torch.zeros(20).long(), 1))
        warm = loop.distil(student, None, told, 0, temperature=1)
        wanted = torch.nn.functional.kl_div(student.log_softmax(1), told.softmax(1), reduction="batchmean")
        self.assertAlmostEqual(warm.item(), wanted.item(), 5)
        losses = [loop.Trainer(network(True), recipe(temperature=t), 10).advance(x, y) for t in (1, 1, 4)]
        self.assertEqual(losses[0], losses[1])
        self.assertNotAlmostEqual(losses[0], losses[2], 3)
        trainer = loop.Trainer(network(True), recipe(mixed=0.5), 10)
        losses = [trainer.advance(x, y) for _ in range(9)]
        self.assertLess(losses[-1], losses[0])

    def test_takes_the_settings_of_its_own_recipe(self):
        model, other = network(True), network(True)
        state = loop.Trainer(model, recipe(0.5), 10).state()
        trainer = loop.Trainer(other, recipe(0.25), 10)
        trainer.restore(state)
        self.assertEqual([part["share"] for part in trainer.optimiser.param_groups], [1.0, 0.25, 1.0])


class Sizes(unittest.TestCase):
    def test_of_pictures_and_labels_that_do_not_fit_are_refused(self):
        images, labels = pictures(20)
        for x, y, text in ((images / 255, labels, "images float64 .20, 3, 32, 32.: must be uint8"),
                           (images[0], labels, "images uint8 .3, 32, 32.: must be uint8"),
                           (images[:, :1], labels, "must be uint8 .n..3."),
                           (images, labels[:19], "19 labels for 20 images"),
                           (images, labels / 2, "labels float64 .20.: must be whole numbers")):
            with self.subTest(text=text):
                with self.assertRaisesRegex(ValueError, text):
                    Batches(x, y, 10)
                with self.assertRaisesRegex(ValueError, text):
                    accuracy(network(False), x, y)
        for kind in (np.uint8, np.int32):
            self.assertEqual(Batches(images, labels.astype(kind), 10).labels.dtype, torch.int64)

    def test_batches_keep_the_size_of_the_pictures(self):
        labels = pictures(40)[1]
        for height, width in ((24, 40), (40, 24), (32, 32)):
            grey = np.full((40, 3, height, width), 77, np.uint8)
            for x, _ in Batches(grey, labels, 20, 3):
                self.assertEqual(x.shape, (20, 3, height, width))
            hole = [x for x, _ in Batches(grey, labels, 20, 3, 8)][0]
            self.assertGreater((hole != x).sum(), 0)


class Steps(unittest.TestCase):
    def steps(self, share):
        model = network(True)
        trainer = loop.Trainer(model, recipe(share), 10)
        before = model[3].threshold.detach().clone()
        for x, y in Batches(*pictures(60), 20):
            trainer.advance(x, y)
        return (model[3].threshold - before).abs().max().item()

    def test_move_thresholds_at_a_share_of_the_rate(self):
        self.assertGreater(self.steps(0.5), 0)

    def test_with_a_share_of_0_do_not_compute_their_gradient(self):
        with mock.patch.object(kernels, "threshold_gradient", side_effect=AssertionError("computed")):
            self.assertEqual(self.steps(0), 0)
            with self.assertRaisesRegex(AssertionError, "computed"):
                self.steps(0.5)

    def test_with_a_frozen_first_layer_compute_no_gradient_of_its_output(self):
        model = network(True)
        model[0].requires_grad_(False)
        model[1].requires_grad_(False)
        trainer, before = loop.Trainer(model, recipe(0), 10), copy.deepcopy(model)
        with mock.patch.object(kernels, "input_gradient", side_effect=AssertionError("computed")):
            for x, y in Batches(*pictures(60), 20):
                trainer.advance(x, y)
        self.assertTrue(torch.equal(model[0].weight, before[0].weight))
        self.assertFalse(torch.equal(model[3].table, before[3].table))

    def test_leave_early(self):
        with train_support.folder() as folder:
            trainer, _ = loop.train(network(False), Batches(*pictures(60), 20), pictures(10), f"{folder}/x.pt",
                                    recipe(), steps=2)
            self.assertEqual(trainer.step, 2)
            self.assertFalse(os.path.exists(f"{folder}/x.pt"))

    def test_leave_early_counts_from_where_it_goes_on(self):
        with train_support.folder() as folder:
            def run(epochs, steps):
                return loop.train(network(False), Batches(*pictures(60), 20), pictures(10), f"{folder}/x.pt",
                                  recipe(epochs=epochs), steps=steps)[0].step
            self.assertEqual((run(1, 0), run(3, 2)), (3, 5))

    def test_log_forgets_the_epochs_after_the_checkpoint(self):
        with train_support.folder() as folder:
            def run(epochs):
                loop.train(network(False), Batches(*pictures(60), 20), pictures(10), f"{folder}/x.pt",
                           recipe(epochs=epochs))
            run(1)
            with open(f"{folder}/x.pt.csv", "a") as file:
                file.write("2,9,9,9\r\n3,")
            run(2)
            with open(f"{folder}/x.pt.csv", newline="") as file:
                rows = list(csv.reader(file))
            self.assertEqual([row[0] for row in rows], ["epoch", "1", "2"])
            self.assertNotEqual(rows[2][1], "9")

    def test_leave_frozen_thresholds_frozen(self):
        model = network(True)
        model[3].threshold.requires_grad_(False)
        loop.groups(model, 0.01)
        self.assertFalse(model[3].threshold.requires_grad)

    def test_need_a_batch(self):
        with train_support.folder() as folder, self.assertRaisesRegex(ValueError, "no batch to train on"):
            loop.fit(network(False), Batches(*pictures(19), 20), pictures(10), f"{folder}/x.pt", 1)

    def test_schedules(self):
        cosine = functools.partial(loop.cosine, total=1000, warm=100)
        self.assertAlmostEqual(cosine(0), 0.01)
        self.assertAlmostEqual(cosine(500), 0.5)
        self.assertLess(cosine(999), 1e-5)
        self.assertEqual(loop.cosine(0, 5), 1)  # too short to warm up
        self.assertAlmostEqual(loop.triangle(100, 1000), 0.5)
        self.assertAlmostEqual(loop.triangle(600, 1000), 0.5)
        self.assertEqual(loop.triangle(1000, 1000), 0)

    def test_blends_pairs_with_both_labels(self):
        x, y = torch.arange(8.0).view(8, 1, 1, 1), torch.arange(8)
        self.assertIs(loop.blend(x, y, 0)[0], x)
        torch.manual_seed(3)
        shares = set()
        for _ in range(20):
            mixed, first, second, kept = loop.blend(x, y, 0.5)
            shares.add(kept)
            self.assertTrue(torch.allclose(mixed.flatten(), kept * first + (1 - kept) * second))
            self.assertEqual(sorted(second.tolist()), list(range(8)))
        self.assertIn(1.0, shares)
        self.assertGreater(len(shares), 5)

    def test_decay_matrices_and_tables_only(self):
        model = network(True)
        parts = loop.groups(model, 0.1)
        names = {id(p): name for name, p in model.named_parameters()}
        found = [sorted(names[id(p)] for p in part["params"]) for part in parts]
        self.assertEqual(found, [["0.weight", "3.table", "8.weight"], ["3.threshold"],
                                 ["0.bias", "1.bias", "1.weight", "3.bias", "4.bias", "4.weight", "8.bias"]])
        self.assertEqual([part["weight_decay"] for part in parts], [0.1, 0, 0])
        dense = loop.groups(model, 0.1, decay_dense=False)
        self.assertEqual([names[id(p)] for p in dense[0]["params"]], ["3.table"])
        slow = loop.groups(model, 0.1, threshold_share=0.2, decay_dense=False, dense_share=0.3)
        self.assertEqual([part["share"] for part in slow], [1, 0.2, 0.3])

    def test_move_large_tables_at_their_own_share(self):
        model = network(True)
        with mock.patch.object(loop, "LARGE", model[3].table.numel() - 1):
            parts = loop.groups(model, 0.1, large_share=0.5)
            self.assertEqual([part["share"] for part in parts], [1, 0.5, 0.5, 1])
            self.assertEqual([len(part["params"]) for part in parts[:2]], [2, 1])
            self.assertIs(parts[1]["params"][0], model[3].table)
            self.assertEqual(parts[1]["weight_decay"], 0.1)
        self.assertEqual([part["share"] for part in loop.groups(model, 0.1, large_share=0.5)], [1, 0.5, 1])


if __name__ == "__main__":
    unittest.main()
