#!/usr/bin/python3
# test: the model card: with a dense teacher beside the network, and without one
# timeout: 300
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
import argparse
import os
import sys
import unittest
from unittest import mock

import train_support

torch = train_support.need_torch()
try:
    import matplotlib  # noqa: F401
except ImportError as missing:
    print(f"skip: the card's plots: {missing}; Debian: python3-matplotlib")
    sys.exit(77)
from train import report  # noqa: E402
from train.airbench import Airbench, AirbenchReLU  # noqa: E402
from train.convert import halut_network  # noqa: E402
from train.data import CLASSES, normalise  # noqa: E402
from train.export import export  # noqa: E402
from train.net import ResNet9  # noqa: E402

TEST, TRAIN = 40, 1200  # images; the last 5,000 of all training images are the validation split


class Card(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = train_support.folder()
        train_support.write_batch(cls.path("test_batch.bin"), *train_support.gratings(TEST, 1))
        for i in range(1, 6):
            train_support.write_batch(cls.path(f"data_batch_{i}.bin"), *train_support.gratings(TRAIN, 1 + i))
        model = halut_network()
        for layer in ResNet9.INNER:
            table = getattr(model, layer).conv.table
            torch.nn.init.normal_(table, std=0.1)
        torch.save({"average": ResNet9().state_dict()}, cls.path("teacher.pt"))
        torch.save({"model": model.state_dict()}, cls.path("start.pt"))
        torch.save({"average": model.state_dict()}, cls.path("halut.pt"))
        export(model.eval(), cls.path("m.safetensors"), [normalise(train_support.gratings(50, 9)[0])], "m", CLASSES)
        with open(cls.path("halut.pt.csv"), "w") as file:
            file.write("epoch,loss,validation_average,seconds\n1,2.5,10.00,1800\n2,2.25,20.00,1800\n")
        with open(cls.path("commands.txt"), "w") as file:
            file.write("python3 -m train.reopen --out reopened.pt\n")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder.name, name)

    def card(self, name, *options):
        command = ["report", "--halut", self.path("halut.pt"), "--model", self.path("m.safetensors"), "--data",
                   self.folder.name, "--program", train_support.PROGRAM, "--logs", self.path("halut.pt.csv"), "--out",
                   self.path(name + ".md"), *options]
        with mock.patch.object(sys, "argv", command):
            report.main()
        with open(self.path(name + ".md")) as file:
            return file.read()

    def drawn(self, name):
        return sorted(f[len(name) + 1:-4] for f in os.listdir(self.folder.name) if f.startswith(name + "-"))

    def test_with_a_teacher(self):
        card = self.card("full", "--teacher", self.path("teacher.pt"), "--start", self.path("start.pt"))
        self.assertIn("| dense teacher, float | PyTorch | ", card)
        self.assertIn("| res2b | ", card)
        self.assertIn("--teacher teacher.pt --start start.pt --halut halut.pt", card)
        self.assertIn("| together |  | 1.00 |", card)
        self.assertIn(f"All figures are of the test split\n({TEST} images)", card)
        self.assertEqual(self.drawn("full"), ["curves", "layers", "reliability"])

    def test_names_the_network_that_it_trains(self):
        args = argparse.Namespace(model="a.safetensors", logs=[self.path("halut.pt.csv")], teacher="", start="",
                                  halut="", commands="", extra="")
        for network, name in ((ResNet9, "resnet9"), (AirbenchReLU, "airbench-relu")):
            text = report.commands(args, halut_network(network=network), None)
            self.assertIn(f"train.teacher --network {name} --data DIR --out teacher.pt --epochs 2\n", text)
            self.assertIn("--out models/a.safetensors\n", text)

    def test_with_one_of_another_shape(self):
        torch.save({"average": Airbench().state_dict()}, self.path("airbench.pt"))
        options = ["--teacher", self.path("airbench.pt"), "--start", self.path("start.pt")]
        with self.assertRaisesRegex(SystemExit, "airbench.pt has another shape: .*: give --commands"):
            self.card("other", *options)
        card = self.card("other", *options, "--commands", self.path("commands.txt"))
        self.assertIn("| Airbench, the teacher, float | PyTorch | ", card)
        self.assertNotIn("dense teacher, int8", card)
        self.assertNotIn("Error of each layer", card)

    def test_without_one(self):
        card = self.card("bare", "--commands", self.path("commands.txt"))
        self.assertNotIn("dense teacher", card)
        self.assertNotIn("Error of each layer", card)
        self.assertIn("python3 -m train.reopen --out reopened.pt\n", card)
        self.assertIn("train.report --halut halut.pt --commands commands.txt --model models/m.safetensors ", card)
        self.assertIn("| **Halut, int8 tables and u8 maps, as served** | `halut eval` | ", card)
        self.assertIn("choices were made on 5,000 images kept out of the training set.", card)
        self.assertEqual(self.drawn("bare"), ["curves", "reliability"])

    def test_of_a_run_that_learned_from_the_validation_split_too(self):
        with open(self.path("whole.txt"), "w") as file:
            file.write("python3 -m train.finetune --whole --out halut.pt\n")
        card = self.card("whole", "--commands", self.path("whole.txt"))
        self.assertIn("5,000 images of the training set that only the last run learned from.", card)
        self.assertNotIn("kept out of", card)

    def test_refuses_half_of_what_is_compared(self):
        for options in (["--start", "s.pt"], ["--teacher", "t.pt"], []):
            with mock.patch("sys.stderr"), self.assertRaises(SystemExit) as exit_:
                self.card("none", *options)
            self.assertEqual(exit_.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
