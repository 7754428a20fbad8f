#!/usr/bin/env python3
# test: compare, timing, codes and explain, against NumPy on the model's file
# timeout: 240
"""What a user can recompute by hand: everything here is checked with models/reference.py from the file alone."""
import base64
import hashlib
import io
import json
import os
import sys
import time
import unittest

import numpy as np

from daemon import NETWORK, PRODUCT, TOP, Daemon, has_accelerator, needs_accelerator

sys.path.insert(0, os.path.join(TOP, "models"))
import reference  # noqa: E402

RESIDUAL = os.path.join(TOP, "models", "golden", "residual.safetensors")
STRIDES = os.path.join(TOP, "models", "golden", "strides.safetensors")
SMALL = os.path.join(TOP, "models", "golden", "product-small.safetensors")
LEARNED = ("halut2", "halut7", "halut10")  # of RESIDUAL: on the first map, after an addition, on 4x4


class Both(unittest.TestCase):
    """Both backends; skipped where the build has no accelerator."""

    @classmethod
    def setUpClass(cls):
        if not has_accelerator():
            return
        cls.daemon = Daemon("--backend", "both", models=(RESIDUAL, SMALL))
        cls.tensors, cls.metadata = reference.load(RESIDUAL)
        cls.image = cls.tensors["golden.input"][0]

    @classmethod
    def tearDownClass(cls):
        if has_accelerator():
            cls.daemon.stop()

    def setUp(self):
        needs_accelerator(self)

    def classify(self, query, status=200, body=None):
        answer = self.daemon.ask("POST", "/v1/classify?" + query, self.image.tobytes() if body is None else body)
        self.assertEqual(answer.status, status, answer.body[:200])
        return answer

    def test_compare_network(self):
        digest = hashlib.sha256(self.tensors["golden.output"][0].tobytes()).hexdigest()
        for backend in ("cpu", "rtl"):
            reply = self.classify("compare=true&backend=" + backend).json()
            self.assertEqual(reply["backend"], backend)
            self.assertEqual(reply["compare"], {"identical": True, "backends": ["cpu", "rtl"],
                                                "sha256": {"cpu": digest, "rtl": digest}, "first_difference": None})
            device = reply["device"]
            self.assertEqual(device["backend"], "rtl")
            self.assertGreater(device["cycles"], device["stalls"])
            self.assertAlmostEqual(device["utilisation"], 1 - device["stalls"] / device["cycles"], places=4)
            self.assertGreater(device["energy_uj"], 0)
        self.assertNotIn("compare", self.classify("compare=false").json())

    def test_compare_in_json(self):
        body = json.dumps({"compare": True, "image": {"b64": base64.b64encode(self.image.tobytes()).decode()}})
        reply = self.classify("", body=body.encode()).json()
        self.assertTrue(reply["compare"]["identical"])
        body = json.dumps({"model": "golden-product-small", "compare": 1, "a": [[1]]})
        answer = self.daemon.ask("POST", "/v1/matmul", body.encode())
        self.assertEqual(answer.status, 400)
        self.assertIn("compare: must be true, false or a word", answer.json()["error"])

    def test_compare_product_and_count(self):
        tensors, _ = reference.load(SMALL)
        before = self.counter("halutd_crosscheck_total")
        body = io.BytesIO()
        np.save(body, tensors["golden.input"])
        answer = self.daemon.ask("POST", "/v1/matmul?compare=true", body.getvalue())
        self.assertEqual(answer.status, 200, answer.body[:200])
        compared = answer.json()["compare"]
        self.assertEqual(compared["sha256"]["rtl"], hashlib.sha256(tensors["golden.output"].tobytes()).hexdigest())
        self.assertTrue(compared["identical"])
        self.assertEqual(self.counter("halutd_crosscheck_total"), before + 1)
        self.assertEqual(self.counter("halutd_crosscheck_mismatch_total"), 0)

    def counter(self, name):
        for line in self.daemon.ask("GET", "/metrics").body.decode().splitlines():
            if line.startswith(name + " "):
                return int(line.split()[1])
        raise KeyError(name)

    def test_device_of_a_batch(self):
        reply = self.classify("backend=rtl&timing=layers").json()
        self.assertGreater(reply["device"]["cycles"], 0)
        names = [layer["name"] for layer in reply["layers"]]
        self.assertIn("halut2+maxpool3", names)


class Shadow(unittest.TestCase):
    def test_computes_a_sample_again(self):
        needs_accelerator(self)
        daemon = Daemon("--backend", "both", "--shadow", "1/3", models=(RESIDUAL, SMALL))
        try:
            image = reference.load(RESIDUAL)[0]["golden.input"][0].tobytes()
            for backend in ("cpu", "rtl", "cpu", "cpu", "rtl", "rtl", "cpu"):
                self.assertEqual(daemon.ask("POST", "/v1/classify?backend=" + backend, image).status, 200)
            daemon.ask("POST", "/v1/classify?compare=true", image)  # is compared already: not offered
            end = time.monotonic() + 60
            while "\nhalutd_shadow_runs_total 2\n" not in (text := daemon.ask("GET", "/metrics").body.decode()):
                self.assertLess(time.monotonic(), end, text)
                time.sleep(0.05)
            self.assertIn("\nhalutd_crosscheck_mismatch_total 0\n", text)
            self.assertIn("\nhalutd_crosscheck_total 3\n", text)
            self.assertIn("\nhalutd_shadow_dropped_total 0\n", text)
        finally:
            self.assertEqual(daemon.stop(), 0)


class One(unittest.TestCase):
    """The CPU backend alone."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(models=(NETWORK, RESIDUAL, STRIDES, SMALL, PRODUCT))
        cls.tensors, cls.metadata = reference.load(RESIDUAL)
        cls.images = cls.tensors["golden.input"]

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def ask(self, path, body, status=200):
        answer = self.daemon.ask("POST", path, body)
        self.assertEqual(answer.status, status, answer.body[:200])
        return answer

    def refused(self, path, body, says, status=400):
        self.assertIn(says, self.ask(path, body, status).json()["error"])

    def test_compare_needs_two(self):
        image = self.images[0].tobytes()
        self.refused("/v1/classify?model=golden-residual&compare=true", image, "only cpu is open")
        self.refused("/v1/classify?model=golden-residual&compare=yes", image, "compare: must be true or false")

    def test_layers_and_server_timing(self):
        path = "/v1/classify?model=golden-residual&timing="
        answer = self.ask(path + "layers", self.images[0].tobytes())
        layers = answer.json()["layers"]
        graph = [node["name"] for node in json.loads(self.metadata["halut.graph"])]
        self.assertEqual(sorted("+".join(layer["name"] for layer in layers).split("+")), sorted(graph))
        for layer in layers:
            self.assertEqual(len(layer["name"].split("+")), len(layer["op"].split("+")))
        fused = {layer["name"]: layer["op"] for layer in layers}
        self.assertEqual(fused["halut5+add6"], "halut+add")
        taken = sum(layer["us"] for layer in layers)
        self.assertTrue(0 < taken <= answer.json()["timing_us"]["compute"] + 1)
        for value in ("layers", "phases"):
            header = self.ask(path + value, self.images[0].tobytes()).headers["server-timing"]
            self.assertRegex(header, r"^queue;dur=\d+\.\d+, decode;dur=\d+\.\d+, compute;dur=\d+\.\d+$")
        self.assertNotIn("layers", self.ask(path + "phases", self.images[0].tobytes()).json())
        self.assertNotIn("server-timing", self.ask("/v1/classify?model=golden-residual",
                                                   self.images[0].tobytes()).headers)
        self.refused(path + "nodes", self.images[0].tobytes(), 'timing: must be "layers" or "phases"')

    def test_product_from_codes(self):
        """codes=true, and the file's table: the product by hand, to the last bit."""
        for path, rows in ((SMALL, None), (PRODUCT, 3)):
            tensors, metadata = reference.load(path)
            if rows is None:
                x = tensors["golden.input"]
            else:
                columns = int(metadata["halut.columns"])
                x = np.random.default_rng(5).normal(size=(rows, columns)).astype(np.float32)
            body = json.dumps({"model": metadata["halut.name"], "codes": True, "a": x.tolist()})
            reply = self.ask("/v1/matmul", body.encode()).json()
            codes = np.array(reply["codes"])
            self.assertEqual(codes.shape, (len(x), len(tensors["split"])))
            table = tensors["table"].astype(np.int64)  # [outputs][codebooks][16]
            picked = np.take_along_axis(table[None], codes[:, None, :, None], axis=3)[..., 0]
            c = picked.sum(axis=2).astype(np.float32) * tensors["scale"] + tensors["bias"]
            self.assertEqual(np.array(reply["c"], np.float32).tobytes(), c.tobytes())
            self.assertEqual(c.tobytes(), reference.product(tensors, x).tobytes())
        self.refused("/v1/matmul?model=signal&codes=conv1", b"{}", "codes: must be true or false")

    def test_codes_of_npy_come_as_json(self):
        tensors, _ = reference.load(SMALL)
        body = io.BytesIO()
        np.save(body, tensors["golden.input"])
        path = "/v1/matmul?model=golden-product-small"
        plain = self.ask(path, body.getvalue())
        asked = self.ask(path + "&codes=true", body.getvalue())
        self.assertEqual(plain.headers["content-type"], "application/x-npy")
        self.assertEqual(len(asked.json()["codes"]), len(tensors["golden.input"]))
        self.assertIn("server-timing", self.ask(path + "&timing=phases", body.getvalue()).headers)

    def layer(self, tensors, metadata, image, name):
        """By NumPy: what a learned layer reads, its patches, its codes [positions][codebooks]."""
        node = next(node for node in json.loads(metadata["halut.graph"]) if node["name"] == name)
        source = reference.network(tensors, metadata, image)[1][node["in"][0]]
        rows, _, _ = reference.patches(source, node["kernel"], node["stride"], node["pad"], [0] * len(source))
        value = rows[tensors[name + ".split"]]
        codes = [reference.encode(v, t) for v, t in zip(value, tensors[name + ".threshold"])]
        return source, value, np.array(codes).T

    def test_codes_of_a_layer(self):
        body = json.dumps({"model": "golden-residual", "instances": self.images[:3].tolist()}).encode()
        for name in LEARNED:
            codes = self.ask("/v1/classify?codes=" + name, body).json()["codes"]
            self.assertEqual((codes["layer"], codes["images"]), (name, 3))
            want = [self.layer(self.tensors, self.metadata, image, name)[2] for image in self.images[:3]]
            np.testing.assert_array_equal(np.array(codes["values"]), np.concatenate(want))
            self.assertEqual(codes["height"] * codes["width"] * 3, len(codes["values"]))
        unasked = json.dumps({"model": "golden-residual", "instances": self.images[:1].tolist(), "compare": False,
                              "timing": False, "codes": False})
        reply = self.ask("/v1/classify", unasked.encode()).json()
        self.assertFalse({"compare", "layers", "codes"} & set(reply))
        self.refused("/v1/classify?model=golden-residual&codes=conv1", self.images[0].tobytes(),
                     "there is: halut2, halut4", 404)

    def test_codes_limit(self):
        images = [[0] * 3072] * 65  # of 1024 positions and 64 codebooks each
        body = json.dumps({"model": "resnet9-cifar10", "codes": "conv2_conv", "instances": images}).encode()
        self.refused("/v1/classify", body, "exceed 4194304 in a reply", 413)

    def check_explained(self, path, place):
        tensors, metadata = reference.load(path)
        image, name = tensors["golden.input"][0], metadata["halut.name"]
        body = json.dumps({"instances": [image.tolist()]}).encode()
        layers = self.daemon.ask("GET", f"/v1/models/{name}").json()["layers"]
        self.assertEqual([one["name"] for one in layers], [n["name"] for n in json.loads(metadata["halut.graph"])])
        for layer in (one for one in layers if one["op"] == "halut"):
            y, x, m = (place[0] % layer["height"], place[1] % layer["width"], place[2] % layer["channels"])
            query = f"model={name}&layer={layer['name']}&y={y}&x={x}&output={m}"
            reply = self.ask("/v1/explain?" + query, body).json()
            source, value, codes = self.layer(tensors, metadata, image, layer["name"])
            at = y * layer["width"] + x
            table, threshold = tensors[layer["name"] + ".table"], tensors[layer["name"] + ".threshold"]
            self.assertEqual(len(reply["paths"]), layer["codebooks"])
            self.assertEqual(reply["input_shape"], list(source.shape))
            for c, one in enumerate(reply["paths"]):
                self.assertEqual((one["codebook"], one["code"]), (c, codes[at, c]))
                self.assertEqual(one["entries"], table[m, c].tolist())
                self.assertEqual(one["entry"], table[m, c, codes[at, c]])
                for level, step in enumerate(one["levels"]):
                    inside = 0 <= step["y"] < source.shape[1] and 0 <= step["x"] < source.shape[2]
                    seen = source[step["channel"], step["y"], step["x"]] if inside else 0
                    self.assertEqual((step["value"], seen), (value[c, level, at], value[c, level, at]))
                    self.assertEqual(step["threshold"], threshold[c, step["node"]])
                    self.assertEqual(step["right"], bool(step["value"] > step["threshold"]))
                self.assertEqual(int("".join("01"[step["right"]] for step in one["levels"]), 2), one["code"])
            self.assertEqual(sum(one["entry"] for one in reply["paths"]), reply["sum"])
            self.assertEqual((reply["bias"], reply["scale"]), (tensors[layer["name"] + ".bias"][m],
                                                               tensors[layer["name"] + ".scale"][m]))
            made = reference.network(tensors, metadata, image)[1][layer["name"]][m]
            self.assertEqual(reply["map"], made.tolist())
            self.assertEqual(reply["value"], made[y, x])
            by_hand = min(max(reply["sum"] + reply["bias"], 0), 65535) * reply["scale"] >> 16
            self.assertEqual(min(by_hand, 255), reply["value"])
            one = self.ask(f"/v1/explain?{query}&codebook={layer['codebooks'] - 1}", body).json()
            self.assertEqual((one["paths"], one["sum"]), (reply["paths"][-1:], reply["sum"]))

    def test_explain(self):
        for place in ((0, 0, 0), (5, 2, 7), (15, 15, 19)):
            self.check_explained(RESIDUAL, place)
        self.check_explained(STRIDES, (3, 1, 2))

    def test_explain_refuses(self):
        image, path = self.images[0].tobytes(), "/v1/explain?model=golden-residual"
        self.refused(path, image, "layer: which learned layer")
        self.refused(path + "&layer=conv1", image, "no learned layer named", 404)
        self.refused(path + "&layer=halut2&x=16", image, "x: must be in 0..15 in layer halut2, not 16")
        self.refused(path + "&layer=halut2&y=16", image, "y: must be in 0..15")
        self.refused(path + "&layer=halut2&output=16", image, "output: must be in 0..15")
        self.refused(path + "&layer=halut2&codebook=8", image, "codebook: must be in 0..7")
        self.refused(path + "&layer=halut2&x=-1", image, "x: must be a whole number in 0..65535")
        self.refused(path + "&layer=halut2&x=1e3", image, "x: must be a whole number")
        self.refused(path + "&layer=" + "n" * 64, image, "layer: no layer has so long a name")
        self.refused(path + "&layer=halut2&top=5", image, 'unknown parameter "top"')
        two = json.dumps({"instances": self.images[:2].tolist()}).encode()
        self.refused(path + "&layer=halut2", two, "one image can be explained, not 2")
        codes = json.dumps({"instances": self.images[:1].tolist(), "codes": "halut4"}).encode()
        self.refused(path + "&layer=halut2", codes, "/v1/explain has its layer already")
        one = {"instances": self.images[:1].tolist(), "codes": False}
        for more, given in (("&timing=layers", one), ("", {**one, "timing": "layers"})):
            answer = self.daemon.ask("POST", path + "&layer=halut2" + more, json.dumps(given).encode())
            self.assertEqual(answer.status, 200, answer.body)
            self.assertTrue(answer.json()["layers"])
        self.refused(path + "&layer=halut2&compare=true", image, "compare: needs two backends")


if __name__ == "__main__":
    unittest.main()
