#!/usr/bin/env python3
# test: halut learn and halut matmul as a user runs them
# timeout: 120
"""Learns, multiplies, compares and makes the mistakes users make. Needs NumPy; HALUT_BUILD is the build folder."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
except ImportError:
    print("skip: this Python has no numpy (the Debian package is python3-numpy)")
    sys.exit(77)

HALUT = str(pathlib.Path(os.environ.get("HALUT_BUILD", "build")).resolve() / "halut")


class Learn(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        rng = np.random.default_rng(1)
        self.a = np.maximum(rng.normal(size=(1500, 4)) @ rng.normal(size=(4, 24)), 0).astype(np.float32)
        self.b = rng.normal(size=(24, 5)).astype(np.float32)
        np.save(self.path("a.npy"), self.a)
        np.save(self.path("b.npy"), self.b)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def halut(self, *words):
        return subprocess.run([HALUT, *words], capture_output=True, text=True, cwd=self.folder.name, check=False)

    def learn(self, *more):
        return self.halut("learn", "--a", "a.npy", "--b", "b.npy", "-C", "6", "-o", "p.safetensors", *more)

    def works(self, done):
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def fails(self, done, code, text):
        self.assertEqual((done.returncode, done.stdout), (code, ""))
        self.assertEqual(done.stderr, text + "\n")
        self.assertFalse(os.path.exists(self.path("c.npy")))

    def test_the_report_is_of_what_matmul_gives(self):
        report = json.loads(self.works(self.learn("--json", "--heldout", "0.2")))
        self.assertEqual((report["learn_rows"], report["heldout_rows"], report["name"]), (1200, 300, "p"))
        self.works(self.halut("check", "p.safetensors"))
        self.works(self.halut("matmul", "p.safetensors", "a.npy", "-o", "c.npy"))
        c = np.load(self.path("c.npy"))
        exact = self.a.astype(float) @ self.b
        mse = ((c - exact)[1200:] ** 2).mean()
        self.assertEqual((c.shape, c.dtype), ((1500, 5), np.float32))
        self.assertAlmostEqual(report["mse"] / mse, 1, places=5)
        self.assertAlmostEqual(report["nmse"], mse / exact[1200:].var(axis=0).mean(), places=6)
        self.assertAlmostEqual(report["r2"], 1 - report["nmse"], places=8)
        self.assertLess(report["nmse"], 0.25)
        compare = self.halut("matmul", "p.safetensors", "a.npy", "--compare", "b.npy", "--json")
        compared = json.loads(self.works(compare))
        self.assertAlmostEqual(compared["mse"] / ((c - exact) ** 2).mean(), 1, places=5)
        self.assertEqual(compared["lookups"], 1500 * 6 * 5)

    def test_batches_and_instructions_change_nothing(self):
        self.works(self.learn())
        results = []
        for more in ([], ["--batch", "1"], ["--batch", "77", "--cpu", "ref"], ["--batch", "4096", "--cpu", "ssse3"]):
            self.works(self.halut("matmul", "p.safetensors", "a.npy", "-o", "c.npy", *more))
            results.append(np.load(self.path("c.npy")).tobytes())
        self.assertEqual(len(set(results)), 1)

    def test_float64_gives_the_same_file(self):
        self.works(self.learn())
        first = pathlib.Path(self.path("p.safetensors")).read_bytes()
        np.save(self.path("a.npy"), self.a.astype(np.float64))
        self.works(self.learn("--threads", "3"))
        second = pathlib.Path(self.path("p.safetensors")).read_bytes()
        begin = 8 + int.from_bytes(first[:8], "little")
        self.assertEqual(first[begin:], second[8 + int.from_bytes(second[:8], "little"):])

    def test_rows_are_the_first_ones(self):
        self.works(self.learn("--rows", "400", "--heldout", "0"))
        first = pathlib.Path(self.path("p.safetensors")).read_bytes()
        np.save(self.path("a.npy"), self.a[:400])
        self.works(self.learn("--heldout", "0"))
        self.assertEqual(first, pathlib.Path(self.path("p.safetensors")).read_bytes())

    def test_uint8_samples_are_taken_as_they_are(self):
        u8 = np.clip(self.a * 40, 0, 255).astype(np.uint8)
        np.save(self.path("a.npy"), u8)
        self.works(self.learn())
        self.works(self.halut("matmul", "p.safetensors", "a.npy", "-o", "c.npy"))
        c = np.load(self.path("c.npy"))
        exact = u8.astype(float) @ self.b
        self.assertLess(((c - exact) ** 2).mean(), 0.25 * exact.var(axis=0).mean())

    def test_mistakes_are_named(self):
        say = "halut learn: "
        self.fails(self.halut("learn", "--a", "a.npy"), 2,
                   say + "--a, --b, --codebooks and --output are needed; see --help")
        self.fails(self.learn("--by-input", "--by-output"), 2, say + "--by-input and --by-output exclude each other")
        self.fails(self.learn("--rows", "1501"), 1, say + "--rows 1501: a.npy has 1500")
        self.fails(self.learn("--target", "b.npy"), 1,
                   say + "b.npy is 24 x 5, but a.npy times b.npy is 1500 x 5")
        self.fails(self.learn("-C", "25"), 2, say + "--codebooks 25: a.npy has 24 columns, and each is in one")
        self.fails(self.learn("-K", "3"), 2, say + "--prototypes takes 2, 4, 8 or 16, not 3")
        self.fails(self.learn("-o", "-"), 2, say + "--output - is no file: the standard output takes no arrays or "
                   "models; to write a file of that name say ./-")
        for count in "1025", "4096":  # past what the learner takes, whatever the columns
            self.fails(self.learn("-C", count), 2,
                       say + f'--codebooks takes a whole number from 1 to 1024, not "{count}"')
        rule = '": 1 to 63 of A-Z a-z 0-9 _ . - are possible, and no dot first'
        for name in ".x", 64 * "n", "":  # told before anything is read
            self.fails(self.learn("--a", "none.npy", "--name", name), 2, f'{say}--name "{name}{rule}')
        stem = "1." + 63 * "n"
        self.fails(self.learn("-o", f"{stem}.safetensors"), 2, f'{say}name "{stem}{rule} (give one with --name)')
        self.a[7, 3] = np.nan
        np.save(self.path("a.npy"), self.a)
        self.fails(self.learn(), 1,
                   say + "invalid argument: a, row 7, column 3 (from 0) is nan: every value must be finite")
        self.assertFalse(os.path.exists(self.path("p.safetensors")))

    def test_fortran_order_gives_the_same(self):
        self.works(self.learn())
        self.works(self.halut("matmul", "p.safetensors", "a.npy", "-o", "c.npy", "--batch", "100"))
        with open(self.path("p.safetensors"), "rb") as file:
            learned = file.read()
        for name, kind in (("a.npy", np.float32), ("wide.npy", np.float64)):
            np.save(self.path(name), np.asfortranarray(self.a.astype(kind)))
            self.works(self.halut("matmul", "p.safetensors", name, "-o", "again.npy", "--batch", "100", "--compare",
                                  "b.npy"))
            self.assertEqual(np.load(self.path("again.npy")).tobytes(), np.load(self.path("c.npy")).tobytes())
        self.works(self.learn())  # from a.npy as it is now
        with open(self.path("p.safetensors"), "rb") as file:
            self.assertEqual(file.read(), learned)
        written = []
        for order in "C", "F":
            np.save(self.path("a.npy"), np.array(np.abs(self.a) * 40 % 256, np.uint8, order=order))
            self.works(self.learn("--rows", "300"))
            with open(self.path("p.safetensors"), "rb") as file:
                written.append(file.read())
        self.assertEqual(*written)

    def test_a_product_beyond_float32_is_named(self):
        self.a[7] *= 1e30
        np.save(self.path("a.npy"), self.a)
        self.b[:, :3] = 0
        self.b[:, 3] = -1e15
        np.save(self.path("b.npy"), self.b)
        self.fails(self.learn(), 1, "halut learn: invalid argument: a times b, row 7, column 3 (from 0) is -inf: every "
                   "value must be finite")

    def test_json_has_null_for_what_is_no_number(self):
        self.works(self.learn())
        self.a[7, 3] = np.nan
        np.save(self.path("a.npy"), self.a)
        report = json.loads(self.works(self.halut("matmul", "p.safetensors", "a.npy", "--compare", "b.npy", "--json")))
        self.assertEqual([report[key] for key in ("mse", "variance", "nmse")], [None] * 3)
        self.b[:] = 0
        np.save(self.path("b.npy"), self.b)
        self.a[7, 3] = 0
        np.save(self.path("a.npy"), self.a)
        report = json.loads(self.works(self.learn("--json")))
        self.assertEqual([report[key] for key in ("mse", "variance", "nmse", "r2")], [0, 0, None, None])
        self.assertRegex(self.works(self.learn()), r"as served \(int8 tables\) +0 not finite not finite\n")

    def test_matmul_refuses_what_does_not_fit(self):
        self.works(self.learn())
        say = "halut matmul: "
        np.save(self.path("w.npy"), self.a[:, :23])
        self.fails(self.halut("matmul", "p.safetensors", "w.npy", "-o", "c.npy"), 1,
                   say + "w.npy: rows of 24 values are needed, as p.safetensors was learned on them")
        self.fails(self.halut("matmul", "p.safetensors", "a.npy", "--compare", "a.npy"), 1,
                   say + "a.npy: a matrix of 24 x 5 is needed")
        self.fails(self.halut("matmul", "p.safetensors", "a.npy"), 2,
                   say + "--output or --compare is needed; see --help")
        self.fails(self.halut("matmul", "p.safetensors", "a.npy", "-o", "-"), 2, say + "--output - is no file: the "
                   "standard output takes no arrays or models; to write a file of that name say ./-")
        os.mkfifo(self.path("fifo"))
        self.fails(self.halut("matmul", "p.safetensors", "a.npy", "-o", "fifo"), 1, say + "fifo: input/output "
                   "error: cannot write fifo: what is no regular file is there and stays")
        self.fails(self.halut("matmul", "p.safetensors", "a.npy", "-o", "c.npy", "--backend", "abacus"), 2,
                   say + 'unknown backend "abacus"; this program has: cpu, rtl')


if __name__ == "__main__":
    unittest.main()
