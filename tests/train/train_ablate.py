#!/usr/bin/python3
# test: the ablation: its initial tables, its gradients, its page, and that a finished part is not done again
# timeout: 120
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
import argparse
import json
import os
import unittest
from unittest import mock

import train_support

torch = train_support.need_torch()
from train import ablate  # noqa: E402
from train.convert import dense_matrix, halut_like, halut_network  # noqa: E402
from train.fit import Recipe  # noqa: E402
from train.net import ResNet9  # noqa: E402


class Tables(unittest.TestCase):
    def test_centres_are_those_of_the_clusters(self):
        truth = 10 * torch.randn(2, 16, 3)
        truth = truth[:, :, None] + 0.01 * torch.randn(2, 16, 20, 3)
        points = truth.reshape(2, 320, 3)
        with mock.patch.object(torch, "randperm", return_value=20 * torch.arange(16)):
            found = ablate.centres(points, None)
        self.assertTrue(torch.allclose(found, truth.mean(2), atol=1e-4))

    def test_each_start_is_better_than_the_one_before(self):
        dense = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
        rows = (torch.randn(3000, 6) @ torch.randn(6, 36)).relu()
        harmed = (rows + 0.3 * torch.randn_like(rows)).relu()
        wanted, errors = rows @ dense_matrix(dense), []
        for name, fill in ablate.TABLES.items():
            layer = halut_like(dense)
            fill(layer, dense, harmed, wanted, train_support.PROGRAM)
            layer.padding, layer.kernel_size = 0, (3, 3)
            with torch.no_grad():
                y = layer(harmed.view(-1, 4, 3, 3)).flatten(1)
            errors.append(((y - wanted).square().mean() / wanted.var(0).mean()).item())
        self.assertGreater(errors[0], 1, errors)  # worse than the mean
        self.assertEqual(errors, sorted(errors, reverse=True))
        self.assertLess(errors[3], 0.5)


class Study(unittest.TestCase):
    def test_frozen_surrogate_is_the_dense_convolution(self):
        sizes = {"width": 2, "top": 4}
        dense, model = ResNet9(**sizes), halut_network(**sizes)
        trainer = ablate.DenseSurrogate(model, Recipe(1, 1e-3, distil=0.9), 1, dense)
        model.train()
        trainer.refresh(torch.randn(2, 3, 32, 32))
        for name in ResNet9.INNER:
            self.assertTrue(getattr(model, name).conv.linear)
            self.assertTrue(torch.equal(getattr(model, name).conv.surrogate, getattr(dense, name).conv.weight))

    def test_does_nothing_twice_and_writes_every_row(self):
        results = {json.dumps(settings): [10.04, 2, 50, 1.5, 3] for _, _, *settings in ablate.RUNS}
        with train_support.folder() as folder:
            with open(os.path.join(folder, "results.json"), "w") as file:
                options = {"epochs": 2, "steps": 120, "rate": 0.003, "images": 1}
                json.dump({"options": options, "dense": [70, 0.9], **results}, file)
            args = argparse.Namespace(out=folder, data=None, images=1, epochs=2, steps=120, rate=0.003)
            nothing = (torch.zeros(1).numpy(), torch.zeros(1).numpy())
            with mock.patch.object(ablate, "load", return_value=nothing), mock.patch.object(ablate, "Batches"), \
                    mock.patch.object(ablate.Study, "teacher", return_value=None), \
                    mock.patch.object(ablate.Study, "start", side_effect=AssertionError("started")):
                study = ablate.Study(args, torch.device("cpu"))
                text = study.text(study.run())
                self.assertEqual(text.count("| 10.0 | 2.000 | 50.0 | 1.500 | 3 |"), len(ablate.RUNS))
                for heading, label, *_ in ablate.RUNS:
                    self.assertIn(f"| {heading} | converted", text)
                    self.assertIn(f"| {label} |", text)
                study.results.pop(json.dumps(list(ablate.RUNS[-1][2:])))
                with self.assertRaisesRegex(AssertionError, "started"):
                    study.run()
                args.steps = 60
                with self.assertRaisesRegex(ValueError, "made with .*'steps': 120.*, not .*'steps': 60"):
                    ablate.Study(args, torch.device("cpu"))


if __name__ == "__main__":
    unittest.main()
