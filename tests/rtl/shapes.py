#!/usr/bin/python3
# test: shapes nobody chose, from NumPy (models/reference.py) through driver and bus; two codebooks an input channel
# timeout: 300
"""SHAPES_SEED=N repeats a run."""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../models"))
import reference  # noqa: E402

PROGRAM = os.path.join(os.environ.get("HALUT_BUILD", "build"), "halut")
SEED = int(os.environ.get("SHAPES_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
# Everything resident; two buffers that tiles pass through; and the C kernels.
BACKENDS = "rtl", "rtl:resident=8", "cpu"
COMMON = {"halut.format": "1", "halut.version": "1", "halut.name": "shapes"}


def halut(*arguments):
    done = subprocess.run([PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise AssertionError(f"halut {' '.join(arguments)}: {done.stderr} (seed {SEED})")
    return done.stdout


def has_rtl():
    """A build without it says so before it looks at options."""
    done = subprocess.run([PROGRAM, "bench", "--backend", "rtl:none=1", "models/signal.safetensors"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0, PROGRAM
    return "without Verilator" not in done.stderr


def trees(random, codebooks, outputs):
    """Thresholds and tables. Output 0 has the highest entries only, output 1 the lowest: the largest sums there are."""
    threshold = random.integers(0, 256, (codebooks, 16)).astype(np.uint8)
    threshold[:, 0] = 0
    table = random.integers(-128, 128, (outputs, codebooks, 16)).astype(np.int8)
    table[0] = 127
    if outputs > 1:
        table[1] = -128
    return threshold, table


def product(random, codebooks, outputs, columns):
    """A product whose scale is 1, so that its floats are the int32 sums."""
    threshold, table = trees(random, codebooks, outputs)
    ones = np.ones((codebooks, 4), np.float32)
    return {"split": random.integers(0, columns, (codebooks, 4)).astype(np.uint32), "low": 0 * ones, "inverse": ones,
            "threshold": threshold, "table": table, "scale": np.ones(outputs, np.float32),
            "bias": np.zeros(outputs, np.float32)}, {**COMMON, "halut.kind": "product", "halut.columns": str(columns)}


def ranges(random, channels, kernel):
    """The columns of an im2col row in two ranges a channel, of 5 and of 4 columns, in any order: some straddle two
    channels. Four columns of each are what its tree reads."""
    width = random.permutation(np.repeat([5, 4], channels))
    end = np.cumsum(width)
    assert end[-1] == channels * kernel
    return np.array([np.sort(random.choice(np.arange(e - w, e), 4, replace=False)) for w, e in zip(width, end)])


class Network:
    """3x32x32 pictures, an exact layer, learned layers of two codebooks an input channel, ten classes."""

    def __init__(self, random):
        self.random, self.graph, self.tensors, self.channels = random, [], {}, 3

    def node(self, op, **attributes):
        name = f"n{len(self.graph)}"
        self.graph.append({"op": op, "name": name, "in": [self.graph[-1]["name"] if self.graph else "input"],
                           **attributes})
        return name

    def requantised(self, name, outputs, spread):
        self.tensors[name + ".bias"] = np.full(outputs, 2 * spread, np.int32)
        self.tensors[name + ".scale"] = np.full(outputs, min(65535, 255 * 65536 // (4 * spread)), np.uint16)
        self.channels = outputs

    def conv(self, outputs, stride):
        name = self.node("conv", kernel=[3, 3], stride=[stride, stride], pad=[1, 1])
        self.tensors[name + ".weight"] = self.random.integers(-8, 9, (outputs, self.channels, 3, 3)).astype(np.int8)
        self.requantised(name, outputs, 3000)

    def halut(self, outputs, stride):
        name = self.node("halut", kernel=[3, 3], stride=[stride, stride], pad=[1, 1])
        codebooks = 2 * self.channels
        split = ranges(self.random, self.channels, 9)
        assert (split[:, 0] // 9 != split[:, 3] // 9).any(), "no range straddles two channels"
        threshold, table = trees(self.random, codebooks, outputs)
        self.tensors.update({name + ".split": split.astype(np.uint16), name + ".threshold": threshold,
                             name + ".table": table})
        self.requantised(name, outputs, int(74 * codebooks ** 0.5))
        # What the largest sums become shows every bit of theirs.
        self.tensors[name + ".bias"][:2] = -127 * codebooks + 300, 128 * codebooks + 500
        self.tensors[name + ".scale"][:2] = 65535 // 8, 65535 // 8

    def finished(self):
        self.node("maxpool", kernel=[2, 2], stride=[2, 2])
        name = self.node("linear")
        self.tensors[name + ".weight"] = self.random.integers(-128, 128, (10, 4 * self.channels)).astype(np.int8)
        self.tensors[name + ".bias"] = np.zeros(10, np.int32)
        return self.tensors, {
            **COMMON, "halut.kind": "network", "halut.graph": json.dumps(self.graph), "halut.logit_scale": "0.01",
            "halut.input": json.dumps({"channels": 3, "height": 32, "width": 32, "zero": [120, 120, 120]}),
            "halut.labels": json.dumps([f"class {k}" for k in range(10)])}


@unittest.skipUnless(has_rtl(), "this build has no rtl backend")
class Shapes(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(SEED)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def test_random_products_are_numpys(self):
        sizes = [(512, 256, 33), (257, 129, 4)]  # two tiles each way; one codebook and one lane past a tile
        sizes += [[int(np.exp(self.random.uniform(0, np.log(most)))) for most in (600, 300, 70)] for _ in range(10)]
        for codebooks, outputs, rows in sizes:
            columns = int(self.random.integers(1, 80))
            tensors, metadata = product(self.random, codebooks, outputs, columns)
            reference.save(self.path("product.safetensors"), tensors, metadata)
            x = self.random.integers(0, 256, (rows, columns)).astype(np.float32)
            np.save(self.path("x.npy"), x)
            want = reference.run(tensors, metadata, x)
            for backend in BACKENDS:
                with self.subTest(codebooks=codebooks, outputs=outputs, rows=rows, backend=backend, seed=SEED):
                    halut("matmul", self.path("product.safetensors"), self.path("x.npy"), "--backend", backend,
                          "-o", self.path("y.npy"))
                    np.testing.assert_array_equal(np.load(self.path("y.npy")), want)

    def test_two_codebooks_a_channel(self):
        """Layers of 16, 32 and 512 codebooks over 8, 16 and 256 channels; the last has 256 outputs."""
        network = Network(self.random)
        network.conv(8, 2)
        network.halut(16, 2)
        network.halut(256, 1)
        network.halut(256, 2)
        tensors, metadata = network.finished()
        self.assertEqual(tensors["n3.table"].shape, (256, 512, 16))
        reference.save(self.path("net.safetensors"), tensors, metadata)
        images = self.random.integers(0, 256, (4, 3, 32, 32), np.uint8)
        with open(self.path("test_batch.bin"), "wb") as file:
            for image in images:
                file.write(b"\0" + image.tobytes())
        logits = reference.run(tensors, metadata, images)
        self.assertGreater(len(np.unique(logits)), 30)  # the layers have not saturated it
        want = hashlib.sha256(logits.astype("<i4").tobytes()).hexdigest()
        for backend in BACKENDS:
            with self.subTest(backend=backend, seed=SEED):
                said = json.loads(halut("eval", self.path("net.safetensors"), "--data", self.folder, "--json",
                                        "--threads", "2", "--batch", "3", "--backend", backend))
                self.assertEqual(said["images"], 4)
                self.assertEqual(said["logits_sha256"], want)


if __name__ == "__main__":
    print(f"shapes.py: SHAPES_SEED={SEED}", flush=True)
    unittest.main()
