#!/usr/bin/env python3
# test: the shipped network: its accuracy on CIFAR-10's test images, the same logits from every backend
# timeout: 300
import json
import os
import subprocess
import unittest

BUILD = os.environ.get("HALUT_BUILD", "build")
DATA = os.environ.get("HALUT_CIFAR10", "")
MODEL = "models/resnet9-cifar10.safetensors"
TOP1_MIN = 0.911  # on the first 5,000 images; the file was measured above it when it was made


def evaluate(*options):
    done = subprocess.run([os.path.join(BUILD, "halut"), "eval", MODEL, "--data", DATA, "--json", *options],
                          check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


HAS_DATA = os.path.exists(os.path.join(DATA, "test_batch.bin"))


@unittest.skipUnless(HAS_DATA, "no data")
class Shipped(unittest.TestCase):
    def test_accuracy(self):
        result = evaluate("--limit", "5000")
        self.assertEqual(result["images"], 5000)
        self.assertGreaterEqual(result["top1"], TOP1_MIN)

    def test_every_way_to_compute_gives_the_same_logits(self):
        wanted = evaluate("--limit", "40")["logits_sha256"]
        for options in (["--cpu", "ref"], ["--cpu", "ssse3"], ["--cpu", "avx2", "--batch", "1"],
                        ["--threads", "3", "--batch", "7"], ["--backend", "rtl"]):
            with self.subTest(options):
                self.assertEqual(evaluate("--limit", "40", *options)["logits_sha256"], wanted)


if __name__ == "__main__":
    if not HAS_DATA:
        print("skip: accuracy of the shipped network: HALUT_CIFAR10 names no folder with test_batch.bin")
    unittest.main()
