#!/usr/bin/env python3
# test: halut check, show, eval, bench and classify as a user runs them, against the reference
# timeout: 200
"""Needs NumPy. HALUT_BUILD is the build folder; the models are models/golden and random ones made here."""
import hashlib
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

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(TOP / "models"), str(TOP / "models/golden")]
import make  # noqa: E402
import reference  # noqa: E402

HALUT = str(pathlib.Path(os.environ.get("HALUT_BUILD", "build")).resolve() / "halut")
GOLDEN = sorted((TOP / "models/golden").glob("*.safetensors"))
IMAGES = 23


def halut(*words, data=None):
    return subprocess.run([HALUT, *map(str, words)], capture_output=True, input=data, timeout=120, check=False)


class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        net = make.Net("small", [3, 32, 32], [125, 123, 114], 21)
        net.conv(8)
        net.halut(16)
        net.pool("maxpool", (2, 2))
        before = net.halut(16)
        net.halut(16)
        net.add(before)
        net.pool("maxpool", (4, 4))
        net.linear(10)
        cls.labels = "airplane automobile bird cat deer dog frog horse ship truck".split()
        cls.model = cls.path / "small.safetensors"
        net.save(str(cls.model), cls.labels, 2, "made by a test")
        random = np.random.default_rng(3)
        cls.truth = random.integers(0, 10, IMAGES)
        cls.images = random.integers(0, 256, (IMAGES, 3, 32, 32)).astype(np.uint8)
        records = np.concatenate([cls.truth[:, None].astype(np.uint8), cls.images.reshape(IMAGES, -1)], 1)
        (cls.path / "test_batch.bin").write_bytes(records.tobytes())
        cls.logits = reference.run(*reference.load(str(cls.model)), cls.images)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def json(self, *words):
        done = halut(*words, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, b"")
        return json.loads(done.stdout)

    def fails(self, code, text, *words):
        done = halut(*words)
        self.assertEqual(done.returncode, code, done.stdout)
        self.assertIn(text, done.stderr.decode())

    def test_golden_files_hold_what_the_reference_computes(self):
        self.assertGreaterEqual(len(GOLDEN), 8)
        for path in GOLDEN + sorted((TOP / "models").glob("*.safetensors")):
            tensors, metadata = reference.load(str(path))
            if "golden.input" not in tensors:
                continue
            with self.subTest(path=path.name):
                x, y = tensors["golden.input"][:2], tensors["golden.output"][:2]
                self.assertEqual(reference.run(tensors, metadata, x).tobytes(), y.tobytes())

    def test_check_finds_a_wrong_example(self):
        for path in GOLDEN:
            done = halut("check", path)
            self.assertEqual((done.returncode, done.stderr), (0, b""))
        tensors, metadata = reference.load(str(GOLDEN[0]))
        wrong = tensors["golden.output"].copy()
        wrong[1, 1] += 1
        bad = str(self.path / "bad.safetensors")
        reference.save(bad, {**tensors, "golden.output": wrong}, metadata)
        self.fails(1, f"example 1, logit 1 is {wrong[1, 1] - 1}, not {wrong[1, 1]}", "check", bad)
        self.fails(1, "cannot open", "check", GOLDEN[0], self.path / "none")

    def test_check_says_which_file_or_option_is_wrong(self):
        two = GOLDEN[:2]
        done = halut("check", "-b", "rtl:trace=/nowhere/at/all.fst", *two)
        if b"without Verilator" not in done.stderr:
            self.assertEqual(done.returncode, 1)
            for line, path in zip(done.stderr.decode().splitlines(), two, strict=True):
                self.assertTrue(line.startswith(f"halut check: {path}: "), line)
        for backend in "gpu", "cpu:speed=1", "cpu:cpu=z80":
            done = halut("check", "-b", backend, *two)
            self.assertEqual((done.returncode, done.stderr.count(b"\n")), (2, 1), done.stderr)

    def test_a_model_does_not_command_the_terminal(self):
        tensors, metadata = reference.load(str(self.model))
        evil = ["\x1b]0;a\x07", "b\nc", "d\x7f", "e\u009bm", "caf\u00e9"] + self.labels[5:]
        metadata["halut.labels"] = json.dumps(evil)
        metadata["halut.description"] = "\x1b[2Jabout"
        path, raw, pixel = self.path / "evil.safetensors", self.path / "evil.raw", self.path / "pixel.raw"
        reference.save(str(path), tensors, metadata)
        raw.write_bytes(self.images[0].tobytes())
        pixel.write_bytes(self.images[1].tobytes())
        for words in (["show", path], ["classify", "-k", 10, "--thumbnail", "never", path, raw],
                      ["classify", "-k", 10, path, raw, pixel], ["eval", path, "--data", self.path]):
            done = halut(*words)
            self.assertEqual(done.returncode, 0, done.stderr)
            text = done.stdout.decode()
            self.assertEqual({c for c in text if c < " " or "\x7f" <= c < "\xa0"}, {"\n"})
            for label in "?]0;a?", "b?c", "d?", "e?m", "caf":
                self.assertIn(label, text)
        self.assertIn("\n?[2Jabout\n", halut("show", path).stdout.decode())
        metadata["halut.\x1b[2J"] = ""
        reference.save(str(path), tensors, metadata)
        self.assertIn(b'metadata "halut.?[2J" is not known', halut("show", path).stderr)

    def test_output_that_is_lost_is_an_error(self):
        for words in "--help", "--version", "help", "help show", "show --help", f"show {self.model}":
            for to in ">/dev/full", ">&-":
                done = subprocess.run(f"{HALUT} {words} {to}", shell=True, capture_output=True, check=False)
                self.assertEqual(done.returncode, 1, (words, to))
                self.assertRegex(done.stderr.decode(), r"^halut( show)?: cannot write the output: ")

    def test_eval_scores_and_hashes_the_logits(self):
        order = np.argsort(-self.logits, axis=1, kind="stable")
        wanted = hashlib.sha256(self.logits.astype("<i4").tobytes()).hexdigest()
        for words in ([], ["--cpu", "ref"], ["--cpu", "ssse3", "--batch", 1], ["--batch", 7, "--threads", 3],
                      ["--cpu", "avx2", "--batch", 64, "-t1"]):
            with self.subTest(words=words):
                is_ = self.json("eval", self.model, "--data", self.path, *words)
                self.assertEqual(is_["logits_sha256"], wanted)
                self.assertEqual(is_["images"], IMAGES)
                self.assertAlmostEqual(is_["top1"], np.mean(order[:, 0] == self.truth), 6)
                self.assertAlmostEqual(is_["top5"], np.mean((order[:, :5] == self.truth[:, None]).any(1)), 6)
                self.assertGreater(is_["images_per_second"], 0)
                confusion = np.zeros((10, 10), int)
                np.add.at(confusion, (self.truth, order[:, 0]), 1)
                self.assertEqual(is_["confusion"], confusion.tolist())
        part = self.json("eval", self.model, "--data", self.path, "--limit", 5)
        self.assertEqual(part["images"], 5)
        self.assertEqual(part["logits_sha256"], hashlib.sha256(self.logits[:5].tobytes()).hexdigest())
        self.assertIn(b"automobile", halut("eval", self.model, "--data", self.path).stdout)

    def test_eval_names_what_is_wrong(self):
        self.fails(2, "--data DIR is required", "eval", self.model)
        self.fails(2, "did you mean --batch?", "eval", self.model, "--bach", 3)
        self.fails(2, "--threads takes a whole number from 1 to 256", "eval", self.model, "-t", "0")
        self.fails(2, 'unknown backend "gpu"', "eval", self.model, "--data", self.path, "--backend", "gpu")
        self.fails(2, "is none of test, train, validation", "eval", self.model, "-d", self.path, "-s", "foo")
        self.fails(1, "data_batch_1.bin", "eval", self.model, "--data", self.path, "--split", "train")
        self.fails(1, "a product has no classes", "eval", TOP / "models/golden/product-one.safetensors", "-d", ".")
        broken = self.path / "broken"
        broken.mkdir()
        (broken / "test_batch.bin").write_bytes(bytes(3072))
        self.fails(1, "3072 bytes are not records of 3073 bytes", "eval", self.model, "--data", broken)
        (broken / "test_batch.bin").write_bytes(bytes(3073) + b"\x0a" + bytes(3072))
        self.fails(1, "label of image 1 is 10", "eval", self.model, "--data", broken)

    def test_bench_counts_what_it_ran(self):
        is_ = self.json("bench", self.model, "--seconds", 0.05, "--batch", 4, "--threads", 2)
        lookups = 16 * 8 * 32 * 32 + 2 * 16 * 16 * 16 * 16
        self.assertEqual(is_["lookups_per_image"], lookups)
        self.assertEqual(sum(layer["lookups"] for layer in is_["layers"]), lookups)
        self.assertEqual([layer["name"] for layer in is_["layers"]],
                         ["conv1", "halut2+maxpool3", "halut4", "halut5+add6", "maxpool7", "linear8"])
        looking = [layer["name"] for layer in is_["layers"] if layer["ceiling_lookups_per_cycle"] > 0]
        self.assertEqual(looking, ["halut2+maxpool3", "halut4", "halut5+add6"])
        self.assertGreater(is_["images_per_second"], 0)
        self.assertGreater(is_["cpu_seconds_per_image"], 0)
        self.assertGreater(is_["clock_ghz"], 0.1)
        self.assertEqual(is_["images"] % 4, 0)
        product = self.json("bench", TOP / "models/golden/product-wide.safetensors", "--seconds", 0.02)
        self.assertEqual(product["lookups_per_image"], 2700)
        for options in (["--backend", "cpu:threads=1,cpu=ref"], ["--cpu", "ref"],
                        ["--backend", "cpu:cpu=ref", "--cpu", "ssse3"]):
            self.assertEqual(self.json("bench", self.model, "--seconds", 0.01, *options)["cpu"], "ref")

    def test_show_tells_the_shapes(self):
        is_ = self.json("show", self.model)
        self.assertEqual([node["op"] for node in is_["layers"]],
                         "conv halut maxpool halut halut add maxpool linear".split())
        self.assertEqual(is_["layers"][1]["output"], [16, 32, 32])
        self.assertEqual(is_["table_bytes"], 16 * (16 * 8 + 2 * 16 * 16))
        self.assertEqual(is_["golden"], 2)
        self.assertEqual(is_["layers"][1]["multiplications"], 9 * 8 * 16 * 32 * 32)
        text = halut("show", self.model).stdout.decode()
        self.assertIn("made by a test", text)
        self.assertIn(f"{16 * 8 * 32 * 32 + 2 * 16 * 16 * 16 * 16} lookups an image", text)
        product = self.json("show", TOP / "models/golden/product-small.safetensors")
        self.assertEqual((product["columns"], product["codebooks"], product["outputs"]), (24, 6, 5))

    def test_classify_ranks_by_logit(self):
        raw = self.path / "image.raw"
        raw.write_bytes(self.images[0].tobytes())
        top = self.json("classify", self.model, raw, "-k", 3)[0]["top"]
        order = np.argsort(-self.logits[0], kind="stable")
        self.assertEqual([entry["index"] for entry in top], order[:3].tolist())
        self.assertEqual([entry["logit"] for entry in top], self.logits[0][order[:3]].tolist())
        scaled = self.logits[0].astype(float) * 0.0001
        share = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
        for entry in top:
            self.assertAlmostEqual(entry["probability"], share[entry["index"]], 6)
        done = halut("classify", self.model, "-", data=self.images[0].tobytes())
        self.assertIn(self.labels[order[0]].encode(), done.stdout)
        # One bad image fails, and does not keep the other back.
        done = halut("classify", self.model, self.model, raw)
        self.assertEqual(done.returncode, 1)
        self.assertIn(self.labels[order[0]].encode(), done.stdout)
        self.assertIn(b"neither PNG nor JPEG", done.stderr)
        self.fails(2, "--fit takes crop or squash", "classify", self.model, raw, "--fit", "stretch")

    def test_json_shows_a_path_that_is_no_utf8(self):
        folder = self.path / os.fsdecode(b"caf\xc3\xa9\xe9\xf0\x9f")
        folder.mkdir()
        raw, model, learned = folder / "image.raw", folder / "m.safetensors", folder / "l.safetensors"
        raw.write_bytes(self.images[0].tobytes())
        model.write_bytes(self.model.read_bytes())
        shown = f"{self.path}/caf\u00e9\ufffd\ufffd\ufffd/"
        self.assertEqual([one["file"] for one in self.json("classify", self.model, raw)], [shown + "image.raw"])
        self.assertEqual(self.json("show", model)["file"], shown + "m.safetensors")
        for name in "a", "b":
            np.save(str(folder / name), np.random.default_rng(1).normal(size=(64, 64)))
        self.assertEqual(self.json("learn", "--a", folder / "a.npy", "--b", folder / "b.npy", "-C", 4, "-o",
                                   learned)["file"], shown + "l.safetensors")

    def test_classify_prints_a_table_or_pictures(self):
        paths = [self.path / f"{i}.raw" for i in range(3)]
        for path, image in zip(paths, self.images):
            path.write_bytes(image.tobytes())
        likeliest = [self.labels[logits.argmax()] for logits in self.logits[:3]]
        rows = halut("classify", "-m", self.model, *paths).stdout.decode().splitlines()
        self.assertEqual([row.split()[0] for row in rows], list(map(str, paths)))
        self.assertEqual([row.split()[2] for row in rows], likeliest)
        self.assertEqual({row.count("%") for row in rows}, {3})
        self.assertEqual(len(self.json("classify", "-m", self.model, *paths)[0]["top"]), 5)
        image = self.images[0].astype(int)
        image[:, :, :16], image[:, :, 16:] = 7, 200
        paths[0].write_bytes(image.astype(np.uint8).tobytes())
        lines = halut("classify", "-m", self.model, "--thumbnail", "always", paths[0]).stdout.decode().splitlines()
        self.assertEqual([line.count("\u2580") for line in lines], [0] + 8 * [16])
        for line in lines[1:]:
            self.assertEqual(line.count("\x1b[38;2;7;7;7m\x1b[48;2;7;7;7m"), 8)
            self.assertEqual(line.count("\x1b[38;2;200;200;200m\x1b[48;2;200;200;200m"), 8)
        self.fails(2, "--thumbnail takes auto, always or never", "classify", "--thumbnail", "x", self.model, paths[0])

    def test_classify_finds_a_model(self):
        raw = self.path / "found.raw"
        raw.write_bytes(self.images[0].tobytes())
        os.environ["HALUT_MODEL"] = str(self.model)
        try:
            self.assertEqual(self.json("classify", raw), self.json("classify", self.model, raw))
        finally:
            del os.environ["HALUT_MODEL"]
        self.fails(2, "no image", "classify", self.model)
        with tempfile.TemporaryDirectory() as folder:  # a program that was copied away from its models
            alone = pathlib.Path(folder) / "halut"
            alone.write_bytes(pathlib.Path(HALUT).read_bytes())
            alone.chmod(0o755)
            done = subprocess.run([alone, "classify", raw], capture_output=True, cwd=folder, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"HALUT_MODEL", done.stderr)
            models = pathlib.Path(folder) / "models"
            models.mkdir()
            (models / "resnet9-cifar10.safetensors").write_bytes(self.model.read_bytes())
            done = subprocess.run([alone, "classify", raw], capture_output=True, cwd=folder, check=True)
            self.assertIn(b"%", done.stdout)

    def test_the_tool_explains_itself(self):
        commands = "learn matmul classify eval bench show check serve".split()
        text = halut("--help").stdout.decode()
        for command in commands:
            self.assertIn(command, text)
            if command != "serve":
                done = halut(command, "--help")
                self.assertEqual(done.returncode, 0)
                self.assertIn(f"Usage: halut {command} ", done.stdout.decode())
        self.fails(2, 'did you mean "classify"?', "clasify")
        self.assertEqual(halut().returncode, 2)
        self.assertRegex(halut("--version").stdout.decode(), r"^halut \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    unittest.main()
