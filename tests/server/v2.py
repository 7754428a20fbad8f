#!/usr/bin/python3
# test: the Open Inference Protocol over HTTP, recomputed by the reference
# timeout: 300
"""Every route of /v2 against a real daemon; answers are recomputed by models/reference.py."""
import base64
import json
import os
import signal
import struct
import sys
import tempfile
import time
import unittest
import zlib
from urllib.parse import quote

import numpy as np

from daemon import NETWORK, PIXELS, PRODUCT, TOP, Daemon, needs_accelerator, png, read_answer

sys.path.insert(0, os.path.join(TOP, "models"))
import reference  # noqa: E402

GOLDEN = os.path.join(TOP, "models", "golden")
HEAD = "Inference-Header-Content-Length"
CIFAR, POOLS, SMALL = "resnet9-cifar10", "golden-pools", "golden-product-small"
TYPES = {"UINT8": "<u1", "INT32": "<i4", "FP32": "<f4", "FP64": "<f8"}


def second_version(path, folder):
    """The model as version 2 in a file of its own, with other biases."""
    tensors, metadata = reference.load(path)
    tensors["bias"] = tensors["bias"] + np.float32(1)
    tensors = {name: value for name, value in tensors.items() if not name.startswith("golden")}
    saved = os.path.join(folder, "second.safetensors")
    reference.save(saved, tensors, {**metadata, "halut.version": "2"})
    return saved


def tensor(name, array, datatype=None, **more):
    names = {np.dtype(kind): word for word, kind in TYPES.items()}
    return {"name": name, "shape": list(array.shape), "datatype": datatype or names[array.dtype],
            "data": array.reshape(-1).tolist(), **more}


def binary(name, shape, datatype, data):
    """An input whose data follows the JSON."""
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}


def counted(*pictures):
    return b"".join(struct.pack("<I", len(p)) + p for p in pictures)


def strings(data):
    """The elements of a BYTES tensor."""
    found = []
    while data:
        size, = struct.unpack_from("<I", data)
        found.append(data[4:4 + size].decode())
        data = data[4 + size:]
    return found


def outputs_of(answer):
    """name -> array (or list of strings), of JSON and binary outputs alike."""
    head = int(answer.headers.get(HEAD.lower(), len(answer.body)))
    result, rest, found = json.loads(answer.body[:head]), answer.body[head:], {}
    for output in result["outputs"]:
        kind = output["datatype"]
        if "data" in output:
            values = output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = rest[:size], rest[size:]
            values = strings(values) if kind == "BYTES" else np.frombuffer(values, TYPES[kind])
        found[output["name"]] = values if kind == "BYTES" else np.array(values, TYPES[kind]).reshape(output["shape"])
    assert rest == b"", "bytes that no output has"
    return found


class Case(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        small = os.path.join(GOLDEN, "product-small.safetensors")
        models = [NETWORK, small, second_version(small, cls.folder.name),
                  os.path.join(GOLDEN, "pools.safetensors"), os.path.join(GOLDEN, "strides.safetensors")]
        cls.files = {CIFAR: NETWORK, POOLS: models[3], SMALL: models[2], "first": small}
        cls.daemon = Daemon(*cls.options, models=models)

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        cls.folder.cleanup()
        assert code == 0, f"exit code {code}"

    def ask(self, method, path, body=b"", headers=()):
        answer = self.daemon.ask(method, path, body, headers)
        self.assertIsNotNone(answer, "no answer")
        return answer

    def get(self, path):
        answer = self.ask("GET", path)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.headers["content-type"], "application/json")
        return answer.json()

    def infer(self, model, *inputs, data=b"", version="", headers=(), **more):
        body = json.dumps({"inputs": inputs, **more}).encode()
        if data:
            headers = [*headers, (HEAD, str(len(body)))]
        return self.ask("POST", f"/v2/models/{quote(model)}{version}/infer", body + data, headers)

    def good(self, *args, **keys):
        answer = self.infer(*args, **keys)
        self.assertEqual(answer.status, 200, answer.body[:300])
        return outputs_of(answer)

    def refused(self, status, words, answer):
        self.assertEqual(answer.status, status, answer.body[:300])
        self.assertEqual(list(answer.json()), ["error"])
        self.assertIn(words, answer.error())

    def expected(self, model, x):
        tensors, metadata = reference.load(self.files[model])
        return reference.run(tensors, metadata, x)

    def sample(self, model, rows, seed=1):
        tensors, metadata = reference.load(self.files[model])
        return reference.random_input(tensors, metadata, rows, np.random.default_rng(seed))


class Describing(Case):
    options = ("--server-name", 'my "server"', "--rows-max", "77", "--batch-max", "16", "--workers", "1")

    def test_server(self):
        for path in ("/v2", "/v2/", "/v2?test_1=1&test_2=2"):
            server = self.get(path)
            self.assertEqual(server["name"], 'my "server"')
            self.assertRegex(server["version"], r"^\d+\.\d+\.\d+$")
            self.assertEqual(len(server["extensions"]), len(set(server["extensions"])))
            for word in ("binary_tensor_data", "classification", "statistics", "model_configuration", "parameters",
                         "model_repository", "logging"):
                self.assertIn(word, server["extensions"])

    def test_health(self):
        self.assertEqual(self.get("/v2/health/live"), {"live": True})
        self.assertEqual(self.get("/v2/health/ready"), {"live": True, "ready": True})
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{CIFAR}/ready"):
            answer = self.ask("HEAD", path)
            self.assertEqual((answer.status, answer.body), (200, b""))

    def test_ready_says_no_while_draining(self):
        daemon = Daemon(models=[PRODUCT])
        with daemon.connect() as whole, daemon.connect() as model:
            whole.sendall(b"GET /v2/health/ready HTTP/1.1\r\n")
            model.sendall(b"GET /v2/models/signal/ready HTTP/1.1\r\n")
            daemon.ask("GET", "/v2")
            daemon.process.send_signal(signal.SIGTERM)
            for _ in range(200):
                if "draining" in daemon.said():
                    break
                time.sleep(0.05)
            whole.sendall(b"Host: x\r\n\r\n")
            model.sendall(b"Host: x\r\n\r\n")
            answers = [read_answer(whole), read_answer(model)]
        self.assertEqual([a.status for a in answers], [503, 503])
        self.assertEqual(answers[0].json(), {"live": True, "ready": False, "error": "shutting down"})
        self.assertEqual(answers[1].json(), {"name": "signal", "ready": False, "error": "shutting down"})
        self.assertIn("retry-after", answers[0].headers)
        self.assertEqual(daemon.stop(), 0)

    def test_models(self):
        self.assertEqual(sorted(self.get("/v2/models")["models"]), sorted([CIFAR, POOLS, SMALL, "golden-strides"]))
        for version in ("", "/versions/1", "/versions/latest"):
            self.assertEqual(self.get(f"/v2/models/{CIFAR}{version}/ready"), {"name": CIFAR, "ready": True})
            model = self.get(f"/v2/models/{CIFAR}{version}")
            self.assertEqual(model["name"], CIFAR)
            self.assertEqual(model["versions"], ["1"])
            self.assertEqual(model["platform"], "halut_safetensors")
            self.assertEqual(model["inputs"], [{"name": "image", "datatype": "UINT8", "shape": [-1, 3, 32, 32]}])
            self.assertEqual(model["outputs"], [{"name": "logits", "datatype": "INT32", "shape": [-1, 10]},
                                                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}])
            self.assertTrue(all(isinstance(v, str) for v in model["properties"].values()))
        product = self.get(f"/v2/models/{SMALL}")
        self.assertEqual(sorted(product["versions"]), ["1", "2"])
        self.assertEqual([(t["name"], t["datatype"]) for t in product["inputs"] + product["outputs"]],
                         [("a", "FP32"), ("c", "FP32")])

    def test_unknown_models(self):
        for path in ("/v2/models/nobody", "/v2/models/nobody/ready", "/v2/models/nobody/config",
                     "/v2/models/nobody/stats", f"/v2/models/{'n' * 100}"):
            self.refused(404, "Request for unknown model: 'n", self.ask("GET", path))
        for version in ("9", "v10", "0", "4294967297", "99999999999999999999999"):
            self.refused(404, f"Request for unknown model: '{CIFAR}' version {version} is not found",
                         self.ask("GET", f"/v2/models/{CIFAR}/versions/{version}"))
        self.refused(404, "Request for unknown model: 'nobody' is not found",
                     self.infer("nobody", tensor("a", np.zeros((1, 8), np.float32))))
        self.assertEqual(self.ask("GET", "/v2/models/nobody").error(),
                         "Request for unknown model: 'nobody' is not found")
        self.refused(405, "", self.ask("POST", "/v2/health/live"))
        self.refused(404, "", self.ask("GET", "/v2/nothing"))

    def test_config(self):
        config = self.get(f"/v2/models/{CIFAR}/config")
        self.assertEqual((config["name"], config["backend"], config["max_batch_size"]), (CIFAR, "cpu", 77))
        self.assertEqual(config["input"][0]["dims"], [3, 32, 32])
        self.assertEqual((config["input"][0]["data_type"], config["input"][0]["format"]), ("TYPE_UINT8", "FORMAT_NCHW"))
        self.assertEqual([o["data_type"] for o in config["output"]], ["TYPE_INT32", "TYPE_FP32"])
        self.assertEqual(config["instance_group"], [{"kind": "KIND_CPU", "count": 1}])
        self.assertEqual(self.get(f"/v2/models/{SMALL}/versions/1/config")["input"][0]["format"], "FORMAT_NONE")

    def test_statistics(self):
        def stats():
            all_stats = self.get("/v2/models/stats")["model_stats"]
            self.assertEqual(len(all_stats), 5)
            mine = [s for s in all_stats if (s["name"], s["version"]) == (POOLS, "1")]
            self.assertEqual(self.get(f"/v2/models/{POOLS}/stats")["model_stats"], mine)
            self.assertEqual(self.get(f"/v2/models/{POOLS}/versions/1/stats")["model_stats"], mine)
            return mine[0]

        before = stats()
        x = self.sample(POOLS, 3)
        self.good(POOLS, tensor("image", x))
        self.good(POOLS, tensor("image", x[:1]))
        self.refused(400, "", self.infer(POOLS, tensor("image", x[:, :1])))
        after = stats()
        self.assertEqual(after["inference_count"] - before["inference_count"], 4)
        self.assertEqual(after["execution_count"] - before["execution_count"], 2)
        self.assertGreater(after["last_inference"], 1.7e12)
        for name, more in {"success": 2, "fail": 1, "queue": 2, "compute_input": 2, "compute_infer": 2,
                           "compute_output": 2, "cache_hit": 0, "cache_miss": 0}.items():
            pair = [s["inference_stats"][name] for s in (before, after)]
            self.assertEqual(pair[1]["count"] - pair[0]["count"], more, name)
            self.assertEqual(pair[1]["ns"] > pair[0]["ns"], more > 0, name)
        self.assertGreater(after["memory_usage"][0]["byte_size"], 1000)
        runs = [{entry["batch_size"]: entry for entry in s["batch_stats"]} for s in (before, after)]
        self.assertEqual(len(runs[1]), len(after["batch_stats"]))
        for name in ("compute_input", "compute_infer", "compute_output"):
            for size in (1, 3):
                new, old = runs[1][size][name], runs[0].get(size, {}).get(name, {"count": 0, "ns": 0})
                self.assertEqual(new["count"] - old["count"], 1, (name, size))
                self.assertGreater(new["ns"], old["ns"])
            self.assertEqual(sum(run[name]["ns"] for run in runs[1].values()), after["inference_stats"][name]["ns"])
        self.assertEqual(sum(run["compute_infer"]["count"] for run in runs[1].values()), after["execution_count"])
        self.assertEqual(sum(size * run["compute_infer"]["count"] for size, run in runs[1].items()),
                         after["inference_count"])
        for count in range(1, 67):  # HALUT_RUN_SIZES_MAX are told apart
            self.good(POOLS, tensor("image", self.sample(POOLS, count)))
        last = stats()
        self.assertEqual({s["batch_size"] for s in last["batch_stats"]}, set(range(1, 65)))
        self.assertEqual(last["execution_count"] - after["execution_count"], 66)


class Inferring(Case):
    options = ("--rows-max", "64", "--image-pixels-max", "10000", "--body-max", "2M")

    def test_a_network_gives_the_reference_integers(self):
        x = self.sample(CIFAR, 2)
        got = self.good(CIFAR, tensor("image", x))
        np.testing.assert_array_equal(got["logits"], self.expected(CIFAR, x))
        self.assertEqual(got["logits"].dtype, np.int32)
        scale = float(self.get(f"/v2/models/{CIFAR}")["properties"]["logit_scale"])
        e = np.exp((got["logits"] - got["logits"].max(1, keepdims=True)) * np.float32(scale).astype(float))
        np.testing.assert_allclose(got["probabilities"], e / e.sum(1, keepdims=True), rtol=1e-6)

    def test_nested_and_flat_data_are_the_same(self):
        x = self.sample(POOLS, 5)
        flat = tensor("image", x)
        nested = {**flat, "data": x.tolist()}
        want = self.expected(POOLS, x)
        for form in (flat, nested):
            answer = self.infer(POOLS, form)
            np.testing.assert_array_equal(outputs_of(answer)["logits"], want)
            self.assertEqual([len(o["data"]) for o in answer.json()["outputs"]], [20, 20])
            self.assertEqual([o["shape"] for o in answer.json()["outputs"]], [[5, 4], [5, 4]])

    def test_a_product_gives_the_reference_floats(self):
        x = self.sample(SMALL, 4)
        for version, model in (("", SMALL), ("/versions/2", SMALL), ("/versions/1", "first")):
            want = self.expected(model, x)
            for data in (x, x.astype(np.float64)):
                np.testing.assert_array_equal(self.good(SMALL, tensor("a", data), version=version)["c"], want)
                raw = data.tobytes()
                kind = "FP32" if data is x else "FP64"
                got = self.good(SMALL, binary("a", list(x.shape), kind, raw), data=raw, version=version)
                np.testing.assert_array_equal(got["c"], want)

    def test_fp64_is_rounded_once(self):
        x = self.sample(SMALL, 3).astype(np.float64) * (1 + 2.0**-25)
        np.testing.assert_array_equal(self.good(SMALL, tensor("a", x))["c"], self.expected(SMALL, x.astype(np.float32)))

    def test_answer_members(self):
        x = tensor("image", self.sample(POOLS, 1))
        answer = self.infer(POOLS, x, id="4 ü\n\"2").json()
        self.assertEqual(answer["id"], "4 ü\n\"2")
        self.assertEqual((answer["model_name"], answer["model_version"]), (POOLS, "1"))
        self.assertEqual(answer["parameters"], {"backend": "cpu"})
        self.assertEqual(list(answer), ["id", "model_name", "model_version", "parameters", "outputs"])
        for none in ("", None):
            self.assertNotIn("id", self.infer(POOLS, x, id=none).json())
        self.assertNotIn("id", self.infer(POOLS, x).json())
        self.assertEqual(self.infer(SMALL, tensor("a", self.sample(SMALL, 1))).json()["model_version"], "2")

    def test_output_selection(self):
        x = tensor("image", self.sample(POOLS, 2))
        for names in (["logits"], ["probabilities"], ["probabilities", "logits"], []):
            got = self.infer(POOLS, x, outputs=[{"name": name} for name in names]).json()["outputs"]
            self.assertEqual([o["name"] for o in got], names or ["logits", "probabilities"])
        self.refused(400, "output 'logits' already exists in request",
                     self.infer(POOLS, x, outputs=[{"name": "logits"}, {"name": "logits"}]))
        self.refused(400, f"unexpected inference output 'none' for model '{POOLS}'",
                     self.infer(POOLS, x, outputs=[{"name": "none"}]))
        for bad in ({"name": 5}, {}, 7, None):
            self.refused(400, "outputs", self.infer(POOLS, x, outputs=[bad]))
        self.refused(400, "outputs: must be an array", self.infer(POOLS, x, outputs={"name": "logits"}))

    def test_binary_forms(self):
        x = self.sample(POOLS, 3)
        want, data = self.expected(POOLS, x), x.tobytes()
        given = binary("image", list(x.shape), "UINT8", data)
        json_answer = self.infer(POOLS, given, data=data)
        self.assertEqual(json_answer.headers["content-type"], "application/json")
        self.assertNotIn(HEAD.lower(), json_answer.headers)
        np.testing.assert_array_equal(outputs_of(json_answer)["logits"], want)
        plain = outputs_of(json_answer)["probabilities"]
        mixes = {
            "all": {"parameters": {"binary_data_output": True}},
            "one": {"outputs": [{"name": "probabilities"}, {"name": "logits", "parameters": {"binary_data": True}}]},
            "but one": {"parameters": {"binary_data_output": True},
                        "outputs": [{"name": "logits", "parameters": {"binary_data": False}},
                                    {"name": "probabilities"}]},
        }
        for name, mix in mixes.items():
            for body in (given, tensor("image", x)):
                answer = self.infer(POOLS, body, data=data if body is given else b"", **mix)
                self.assertEqual(answer.headers["content-type"], "application/octet-stream", name)
                got = outputs_of(answer)
                np.testing.assert_array_equal(got["logits"], want, name)
                np.testing.assert_array_equal(got["probabilities"], plain, name)

    def test_raw_binary_request(self):
        x = self.sample(POOLS, 4)
        for rows in (1, 4):
            answer = self.ask("POST", f"/v2/models/{POOLS}/infer", x[:rows].tobytes(), [(HEAD, "0")])
            self.assertEqual(answer.headers["content-type"], "application/octet-stream")
            np.testing.assert_array_equal(outputs_of(answer)["logits"], self.expected(POOLS, x[:rows]))
        a = self.sample(SMALL, 2)
        answer = self.ask("POST", f"/v2/models/{SMALL}/infer", a.tobytes(), [(HEAD, "0")])
        np.testing.assert_array_equal(outputs_of(answer)["c"], self.expected(SMALL, a))
        picture = png(32, 32)
        answer = self.ask("POST", f"/v2/models/{CIFAR}/infer", picture, [(HEAD.lower(), "0")])
        pixels = np.array([128, 64, 32], np.uint8).reshape(1, 3, 1, 1) * np.ones((1, 1, 32, 32), np.uint8)
        np.testing.assert_array_equal(outputs_of(answer)["logits"], self.good(CIFAR, tensor("image", pixels))["logits"])
        for wrong, words in ((b"", "expecting 432 additional bytes"), (x.tobytes()[:-1], "expecting 1 additional"),
                             (x.tobytes() * 17, "batch-size must be <= 64")):
            self.refused(400, words, self.ask("POST", f"/v2/models/{POOLS}/infer", wrong, [(HEAD, "0")]))

    def test_pictures_as_bytes(self):
        pictures = [png(32, 32), png(40, 32, b"\xff\x00\x80"), PIXELS]
        texts = [base64.b64encode(p).decode() for p in pictures]
        want = np.array([outputs_of(self.ask("POST", f"/v2/models/{CIFAR}/infer", p, [(HEAD, "0")]))["logits"][0]
                         for p in pictures])
        data = counted(*pictures)
        for shape in ([3], [3, 1]):
            given = {"name": "image", "shape": shape, "datatype": "BYTES"}
            forms = {"json": self.good(CIFAR, {**given, "data": texts}),
                     "binary": self.good(CIFAR, binary("image", shape, "BYTES", data), data=data),
                     "no size": self.good(CIFAR, given, data=data)}
            if len(shape) == 2:
                forms["nested"] = self.good(CIFAR, {**given, "data": [[text] for text in texts]})
            for name, got in forms.items():
                np.testing.assert_array_equal(got["logits"], want, name)
        for words, shape, blob in (("unexpected additional input data", [3], data + b"x"),
                                   ("cannot hold 3", [3], b"\0" * 11), ("past the end", [3], data[:-1]),
                                   ("picture 1: ", [2], counted(pictures[0], b"junk")),
                                   ("picture 0: image: no bytes", [1], counted(b"")),
                                   ("unexpected shape", [3, 2], data), ("unexpected shape", [], data)):
            self.refused(400, words, self.infer(CIFAR, binary("image", shape, "BYTES", blob), data=blob))
        for words, shape, values in (("of 2 base64 strings", [2], texts), ("data[1]: b64: ", [2], [texts[0], "?"]),
                                     ("data[0]: b64: must be", [1], [[texts[0]]]), ("base64 strings", [1], [1]),
                                     ("data[1]: b64: must be", [2], [texts[0], {}]),
                                     ("data[1]: b64: must be", [2], [texts[0], [0]]),
                                     ("data[0]: image: ", [1], ["QUJD"]), ("base64 strings", [1], texts[0])):
            self.refused(400, words, self.infer(CIFAR, {"name": "image", "shape": shape, "datatype": "BYTES",
                                                        "data": values}))
        self.refused(413, "image-pixels-max", self.infer(CIFAR, {"name": "image", "shape": [1], "datatype": "BYTES",
                                                                 "data": [base64.b64encode(png(200, 200)).decode()]}))
        self.refused(400, "takes 2 channels of 13 x 9", self.infer(
            "golden-strides", {"name": "image", "shape": [1], "datatype": "BYTES", "data": [texts[0]]}))
        self.refused(400, "data-type is 'BYTES'", self.infer(SMALL, {"name": "a", "shape": [1], "datatype": "BYTES",
                                                                     "data": [texts[0]]}))

    def test_a_long_picture_does_not_fill_the_envelope(self):
        # 100 KB of base64 is more than a JSON envelope may be
        noise = np.random.default_rng(3).integers(0, 256, 75000, np.uint8).tobytes()
        answer = self.infer(CIFAR, {"name": "image", "shape": [1], "datatype": "BYTES",
                                    "data": [base64.b64encode(noise).decode()]})
        self.refused(400, "data[0]: image: 75000 bytes", answer)

    def test_classification(self):
        x = self.sample(CIFAR, 2)
        plain = self.good(CIFAR, tensor("image", x))
        labels = json.loads(reference.load(NETWORK)[1]["halut.labels"])

        def lines(values, k, form):
            order = [sorted(range(10), key=lambda i: (-row[i], i))[:k] for row in plain["logits"]]
            return [form.format(values[r][i], i, labels[i]) for r in range(2) for i in order[r]]

        for k in (1, 3, 10, 4294967295):
            want = {"logits": lines(plain["logits"], k, "{}:{}:{}"),
                    "probabilities": lines(plain["probabilities"].astype(float), k, "{:f}:{}:{}")}
            for is_binary in (False, True):
                outputs = [{"name": n, "parameters": {"classification": k, "binary_data": is_binary}} for n in want]
                answer = self.infer(CIFAR, tensor("image", x), outputs=outputs)
                self.assertEqual(outputs_of(answer), want)
                self.assertIn(b'"datatype":"BYTES","shape":[2,%d]' % min(k, 10), answer.body)
        got = self.good(CIFAR, tensor("image", x), parameters={"top": 2})
        self.assertEqual(got["logits"], lines(plain["logits"], 2, "{}:{}:{}"))
        got = self.good(CIFAR, tensor("image", x), outputs=[{"name": "logits", "parameters": {"classification": 0}}])
        np.testing.assert_array_equal(got["logits"], plain["logits"])
        for bad in (-1, 1.5, "3", True, 4294967296):
            self.refused(400, "classification: must be an integer", self.infer(
                CIFAR, tensor("image", x), outputs=[{"name": "logits", "parameters": {"classification": bad}}]))

    def test_classification_of_a_product(self):
        a = self.sample(SMALL, 1)
        values = self.expected(SMALL, a)[0]
        got = self.good(SMALL, tensor("a", a), outputs=[{"name": "c", "parameters": {"classification": 3}}])
        order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:3]
        self.assertEqual(got["c"], [f"{float(values[i]):f}:{i}" for i in order])

    def test_request_parameters(self):
        x = tensor("image", self.sample(POOLS, 1))
        self.good(POOLS, x, parameters={"backend": "cpu", "unknown": 1.5, "sequence_id": "s", "priority": 0,
                                        "timeout": 60000000, "fit": "squash"})
        self.good(POOLS, x, parameters={"sequence_id": 2**63 - 1, "sequence_start": True, "sequence_end": False})
        extensions = self.get("/v2")["extensions"]
        self.assertFalse({"sequence", "schedule_policy"} & set(extensions))  # so clients know that nothing comes of it
        self.good(POOLS, x, parameters=None)
        self.refused(504, "longer than its timeout", self.infer(POOLS, x, parameters={"timeout": 1}))
        for words, parameters in (("\"gpu\" is not open here", {"backend": "gpu"}),
                                  ("backend: must be", {"backend": 1}),
                                  ("binary_data_output: must be", {"binary_data_output": "yes"}),
                                  ("top: must be", {"top": -1}), ("timeout: must be", {"timeout": "soon"}),
                                  ("fit: must be", {"fit": "stretch"}), ("must be an object", [1]),
                                  ("\"triton_x\": triton_ is reserved", {"triton_x": 1}),
                                  ("priority: must be", {"priority": -1}), ("priority: must be", {"priority": "high"}),
                                  ("sequence_id: must be", {"sequence_id": -1}),
                                  ("sequence_id: must be", {"sequence_id": True}),
                                  ("sequence_start: must be", {"sequence_start": 1}),
                                  ("sequence_end: must be", {"sequence_end": "no"}),
                                  ("\"x\" must be a string, a number or a boolean", {"x": [1]})):
            self.refused(400, words, self.infer(POOLS, x, parameters=parameters))
        path = f"/v2/models/{POOLS}/infer?backend="
        body = json.dumps({"inputs": [x]}).encode()
        self.assertEqual(self.ask("POST", path + "cpu&unknown=1", body).status, 200)
        self.refused(400, "is not open here", self.ask("POST", path + "gpu", body))

    def test_parameters_look_inside(self):
        model, x = SMALL, self.sample(SMALL, 3)
        asked = {"codes": True, "timing": "layers"}
        for more in ({}, {"outputs": [{"name": "c", "parameters": {"binary_data": True}}]}):
            answer = self.infer(model, tensor("a", x), parameters=asked, **more)
            self.assertEqual(answer.status, 200, answer.body)
            reply = json.loads(answer.body[:int(answer.headers.get(HEAD.lower(), len(answer.body)))])
            same = self.ask("POST", "/v1/matmul?codes=true", json.dumps({"model": model, "a": x.tolist()}).encode())
            self.assertEqual(reply["codes"], same.json()["codes"])
            self.assertEqual([layer["op"] for layer in reply["layers"]], ["product"])
            self.assertIn("compute;dur=", answer.headers["server-timing"])
        for parameters, words in (({"compare": True}, "compare: needs two backends"), ({"timing": "all"}, "timing")):
            self.refused(400, words, self.infer(model, tensor("a", x), parameters=parameters))

    def test_there_is_no_shared_memory(self):
        x, region = self.sample(SMALL, 1), {"shared_memory_region": "r", "shared_memory_byte_size": 12}
        told = "Unable to find shared memory region: 'r'"
        self.refused(400, told, self.infer(SMALL, tensor("a", x), outputs=[{"name": "c", "parameters": region}]))
        self.refused(400, told, self.infer(SMALL, tensor("a", x, parameters=region)))
        self.refused(400, "shared_memory_region", self.infer(
            SMALL, tensor("a", x), outputs=[{"name": "c", "parameters": {"shared_memory_byte_size": 12}}]))

    def test_refused_tensors(self):
        x = self.sample(POOLS, 1)
        good = tensor("image", x)
        values = good["data"]
        table = [
            ("inference input 'image' data-type is 'FP32', but model 'golden-pools' expects 'UINT8'",
             {"datatype": "FP32"}),
            ("data-type is 'FOO'", {"datatype": "FOO"}), ("data-type is 'NONE'", {"datatype": "NONE"}),
            ("datatype: must be a string", {"datatype": 5}), ("datatype: missing", {"datatype": None}),
            ("unexpected inference input 'y' for model 'golden-pools'", {"name": "y"}),
            ("name: must be a string", {"name": [1]}),
            ("its shape [1,3,12,12] holds 432 values, but 'data' has 431", {"data": values[:-1]}),
            ("its shape [1,3,12,12] holds 432 values, but 'data' has 433", {"data": values + [1]}),
            ("holds 432 values, but 'data' has 0", {"data": []}),
            ("'data' is nested as [3,12,12]", {"data": x[0].tolist()}),
            ("'data' is nested as [1,12,12,3]", {"data": x.transpose(0, 2, 3, 1).tolist()}),
            ("nested deeper", {"data": [x.tolist()]}),
            ("data[5]", {"data": values[:5] + [256] + values[6:]}), ("data[0]", {"data": [-1] + values[1:]}),
            ("data[2]", {"data": values[:2] + [0.5] + values[3:]}), ("data[1]", {"data": [1, True] + values[2:]}),
            ("data[1]", {"data": [1, "2"] + values[2:]}), ("data[1]", {"data": [1, [2]] + values[2:]}),
            ("must be an array of numbers", {"data": "AAAA"}), ("must be an array of numbers", {"data": 7}),
            ("must be an array of numbers", {"data": {"b64": ""}}), ("must be an array of numbers", {"data": ["1"]}),
            ("has neither 'data' nor 'binary_data_size'", {"data": None}),
            ("has both 'data' and 'binary_data_size'", {"parameters": {"binary_data_size": 432}}),
            ("Expected [-1,3,12,12], got [1,12,12,3]. NOTE: pixels are planar", {"shape": [1, 12, 12, 3]}),
            ("got [3,12,12]", {"shape": [3, 12, 12]}), ("got []", {"shape": []}),
            ("'shape' must hold integers of 0 or more", {"shape": [-1, 3, 12, 12]}),
            ("'shape' must hold integers of 0 or more", {"shape": [1.0, 3, 12, 12]}),
            ("'shape' must be an array of at most 8", {"shape": [1] * 9}),
            ("'shape' must be an array", {"shape": "1"}), ("'shape' must be an array", {"shape": None}),
            ("input 'image' is empty: its shape is [0,3,12,12]", {"shape": [0, 3, 12, 12], "data": []}),
            ("exceed maximum size of 9223372036854775807", {"shape": [2**60 + 2, 2**4, 1, 1]}),
            ("exceed maximum size of 9223372036854775807", {"shape": [2**62 + 2, 2**2, 1, 1]}),
            ("inference request batch-size must be <= 64 for 'golden-pools'", {"shape": [2**40, 3, 12, 12]}),
            ("inputs: parameters: must be an object", {"parameters": 1}),
            ("holds 27648 values, but 'data' has 432", {"shape": [64, 3, 12, 12]}),
        ]
        for words, change in table:
            given = {k: v for k, v in {**good, **change}.items() if v is not None}
            self.refused(400, words, self.infer(POOLS, given))

    def test_refused_floats(self):
        a = self.sample(SMALL, 2)
        good = tensor("a", a)
        for words, change in (("data[3]", {"data": good["data"][:3] + [1e39] + good["data"][4:]}),
                              ("data-type is 'INT32', but model", {"datatype": "INT32"}),
                              ("[1][0] is not a finite FP32", {"datatype": "FP64", "data": [0.0] * 24 + [1e300] * 24})):
            self.refused(400, words, self.infer(SMALL, {**good, **change}))
        for kind, value in (("FP32", np.inf), ("FP32", np.nan), ("FP64", 1e300), ("FP64", np.nan)):
            bad = np.zeros((2, 24), TYPES[kind])
            bad[1, 23] = value
            self.refused(400, "[1][23] is not a finite FP32",
                         self.infer(SMALL, binary("a", [2, 24], kind, bad.tobytes()), data=bad.tobytes()))

    def test_refused_bodies(self):
        x = tensor("image", self.sample(POOLS, 1))
        self.refused(400, "expected 1 inputs but got 0 inputs for model 'golden-pools'. Got input(s) [], but missing "
                     "required input(s) ['image']. Please provide all required input(s).", self.infer(POOLS))
        self.refused(400, "input 'image' already exists in request", self.infer(POOLS, x, x))
        self.refused(400, "unexpected inference input 'more'", self.infer(POOLS, x, {**x, "name": "more"}))
        self.refused(400, "inputs: must be an array of objects", self.infer(POOLS, 5))
        path = f"/v2/models/{POOLS}/infer"
        for words, body in (("the body is empty", b""), ("inputs: must be an array", b"{}"),
                            ("inputs: must be an array", b'{"inputs":{}}'), ("must be an object", b"[]"),
                            ("line 1", b'{"inputs":'), ("line 2, column 2", b'{\n]'), ("id: must be", b'{"id":5}'),
                            ("duplicate", b'{"id":"a","id":"b"}'), ("line 1", b"\xff\xfe")):
            answer = self.ask("POST", path, body)
            self.refused(400, words, answer)
        deep = b'{"inputs":' + b"[" * 250000 + b"]" * 250000 + b"}"
        self.refused(400, "nested deeper", self.ask("POST", path, deep))
        deep = b'{"inputs":[{"name":"image","shape":[1,3,12,12],"datatype":"UINT8","data":' + b"[" * 250000 + b"]}]}"
        self.refused(400, "", self.ask("POST", path, deep))
        good = json.dumps({"inputs": [x]})[:-1]
        for more in ('"data":[NaN ,,, foo ]', '"data":"\\q"', '"data":"\x01"',
                     '"outputs":[{"name":"logits","data":[,]}]'):
            self.refused(400, "failed to parse the request JSON buffer: JSON: line 1, column ",
                         self.ask("POST", path, f"{good},{more}}}".encode()))
        for more in ('"parameters":{"data":"x"}', '"outputs":[{"name":"logits","parameters":{"data":"y"}}]'):
            self.assertEqual(self.ask("POST", path, f"{good},{more}}}".encode()).status, 200)
        self.assertEqual(self.ask("POST", path, f"{good}}}".replace('"data"', '"d\\u0061ta"').encode()).status, 200)
        self.refused(400, "JSON", self.ask("POST", path, json.dumps({"inputs": [x]}).encode().replace(b"[1,", b"[NaN,")
                                           .replace(b"1, 3", b"NaN, 3")))

    def test_refused_binary_sizes(self):
        x = self.sample(POOLS, 1)
        data = x.tobytes()
        given = binary("image", list(x.shape), "UINT8", data)
        self.refused(400, "unexpected additional input data for model 'golden-pools'",
                     self.infer(POOLS, given, data=data + b"x"))
        self.refused(400, "unexpected size for input 'image', expecting 1 additional bytes",
                     self.infer(POOLS, given, data=data[:-1]))
        for size, words in ((431, "additional input data"), (433, "expecting 1 additional bytes"),
                            (-1, "must be an integer"), (2**63, "JSON"), ("432", "must be an integer"),
                            (0, "additional input data")):
            self.refused(400, words, self.infer(POOLS, {**given, "parameters": {"binary_data_size": size}}, data=data))
        short = data[:-1]
        self.refused(400, "expecting 1 additional bytes for model",
                     self.infer(POOLS, {**given, "parameters": {"binary_data_size": 431}}, data=short))
        self.refused(400, "unexpected size for input 'image', expecting 432 additional", self.infer(POOLS, given))
        self.refused(400, "additional input data", self.infer(POOLS, tensor("image", x), data=b"x"))

    def test_refused_header_lengths(self):
        body = json.dumps({"inputs": [tensor("image", self.sample(POOLS, 1))]}).encode()
        for value in ("9" * 26, "-1", "abc", "1.5", "", "5x", "+5"):
            self.refused(400, "is not a number of bytes",
                         self.ask("POST", f"/v2/models/{POOLS}/infer", body, [(HEAD, value)]))
        for value in ("99999999999", str(len(body) + 1)):
            self.refused(400, f"{value} is past the {len(body)} bytes",
                         self.ask("POST", f"/v2/models/{POOLS}/infer", body, [(HEAD, value)]))
        self.assertEqual(self.ask("POST", f"/v2/models/{POOLS}/infer", body, [(HEAD, str(len(body)))]).status, 200)
        self.refused(400, "JSON", self.ask("POST", f"/v2/models/{POOLS}/infer", body, [(HEAD, str(len(body) - 1))]))

    def test_a_compressed_body_counts_as_what_it_inflates_to(self):
        x = np.zeros((4, 3, 12, 12), np.uint8)
        body = json.dumps({"inputs": [binary("image", list(x.shape), "UINT8", x.tobytes())]}).encode()
        body += b" " * 1000
        squeezed = zlib.compress(body + x.tobytes())
        self.assertLess(len(squeezed), len(body))
        answer = self.ask("POST", f"/v2/models/{POOLS}/infer", squeezed,
                          [(HEAD, str(len(body))), ("Content-Encoding", "deflate")])
        self.assertEqual(answer.status, 200, answer.body[:300])
        np.testing.assert_array_equal(outputs_of(answer)["logits"], self.expected(POOLS, x))

    def test_no_content_type_is_needed(self):
        body = json.dumps({"inputs": [tensor("image", self.sample(POOLS, 1))]}).encode()
        for kind in ("application/octet-stream", "application/x-www-form-urlencoded", "application/json"):
            self.assertEqual(self.ask("POST", f"/v2/models/{POOLS}/infer", body, [("Content-Type", kind)]).status, 200)


class Repository(unittest.TestCase):
    """Models come and go; `signal` and two versions of `golden-product-small`."""

    def setUp(self):
        self.other = tempfile.TemporaryDirectory()
        small = os.path.join(GOLDEN, "product-small.safetensors")
        self.daemon = Daemon(models=[PRODUCT, small, second_version(small, self.other.name)])
        self.x = reference.random_input(*reference.load(small), 1, np.random.default_rng(1))

    def tearDown(self):
        self.other.cleanup()
        self.assertEqual(self.daemon.stop(), 0)

    def post(self, path, body=b"", headers=()):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self.daemon.ask("POST", path, body, headers)

    def refused(self, status, words, answer):
        self.assertEqual(answer.status, status, answer.body[:300])
        self.assertIn(words, answer.error())

    def index(self, body=b""):
        answer = self.post("/v2/repository/index", body)
        self.assertEqual(answer.status, 200, answer.body)
        return {(m["name"], m.get("version")): (m["state"], m["reason"]) for m in answer.json()}

    def ready(self, model):
        answer = self.daemon.ask("GET", f"/v2/models/{model}/ready")
        return answer.status, answer.json().get("error")

    def infer(self):
        body = json.dumps({"inputs": [tensor("a", self.x)]}).encode()
        return self.post(f"/v2/models/{SMALL}/infer", body)

    def file(self, name, data):
        path = os.path.join(self.daemon.folder, name)
        with open(path + ".new", "wb") as file:
            file.write(data)
        os.rename(path + ".new", path)

    def test_index(self):
        served = {("signal", "1"): ("READY", ""), (SMALL, "1"): ("READY", ""), (SMALL, "2"): ("READY", "")}
        self.assertEqual(self.index(), served)
        self.assertEqual(self.index({"ready": True}), served)
        self.assertEqual(self.index({"ready": False}), served)
        for body in ({"ready": "yes"}, {"ready": 1}, {"ready": None}):
            self.refused(400, "Invalid value for 'ready': expected a boolean", self.post("/v2/repository/index", body))
        for body in (b"[]", b"x", b'{"ready":' + b"[" * 250000 + b"]" * 250000 + b"}"):
            self.refused(400, "failed to parse the request JSON", self.post("/v2/repository/index", body))

    def test_a_post_without_a_body_needs_no_length(self):
        for path in ("/v2/repository/index", "/v2/repository/models/signal/load"):
            answer = self.daemon.send(f"POST {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            self.assertEqual(answer.status, 200, path)

    def test_unload_and_load(self):
        before = self.infer()
        self.assertEqual(before.status, 200)
        unloaded = self.post(f"/v2/repository/models/{SMALL}/unload", {"parameters": {"unload_dependents": False}})
        self.assertEqual((unloaded.status, unloaded.json()), (200, {"name": SMALL, "unload": True}))
        self.assertEqual(self.index(), {("signal", "1"): ("READY", ""), (SMALL, "1"): ("UNAVAILABLE", "unloaded"),
                                        (SMALL, "2"): ("UNAVAILABLE", "unloaded")})
        self.assertEqual(self.index({"ready": True}), {("signal", "1"): ("READY", "")})
        self.refused(404, f"Request for unknown model: '{SMALL}' is not found", self.infer())
        self.assertEqual(self.ready(SMALL), (503, "unloaded"))
        for version in ("3", "0", "01", "x", "4294967297"):
            self.assertEqual(self.daemon.ask("GET", f"/v2/models/{SMALL}/versions/{version}/ready").status, 404)
        self.assertEqual(self.daemon.ask("GET", "/v2/health/ready").status, 200)
        self.refused(404, "failed to unload", self.post(f"/v2/repository/models/{SMALL}/unload"))
        loaded = self.post(f"/v2/repository/models/{SMALL}/load")
        self.assertEqual((loaded.status, loaded.json()), (200, {"name": SMALL, "load": True}))
        self.assertEqual(self.ready(SMALL), (200, None))
        self.assertEqual(outputs_of(self.infer())["c"].tobytes(), outputs_of(before)["c"].tobytes())

    def test_a_reload_leaves_unloaded_what_was_unloaded(self):
        for name in ("signal", SMALL):
            self.assertEqual(self.post(f"/v2/repository/models/{name}/unload").status, 200)
        self.assertEqual(self.daemon.ask("GET", "/v2/models").json(), {"models": []})
        answer = self.post("/v1/reload")
        self.assertEqual((answer.status, answer.json()), (200, {"models": 0}))
        self.assertEqual({state for state, _ in self.index().values()}, {"UNAVAILABLE"})
        # a third version of a model that was unloaded is not served either
        tensors, metadata = reference.load(os.path.join(self.daemon.folder, "second.safetensors"))
        third = os.path.join(self.other.name, "third.safetensors")
        reference.save(third, tensors, {**metadata, "halut.version": "3"})
        with open(third, "rb") as file:
            self.file("third.safetensors", file.read())
        self.assertEqual(self.post("/v1/reload").json(), {"models": 0})
        self.assertEqual(self.index()[(SMALL, "3")], ("UNAVAILABLE", "unloaded"))
        self.assertEqual(self.post(f"/v2/repository/models/{SMALL}/load").status, 200)
        self.assertEqual(self.index()[(SMALL, "3")], ("READY", ""))
        self.assertEqual(self.index()[("signal", "1")], ("UNAVAILABLE", "unloaded"))

    def test_load_looks_at_one_model_alone(self):
        self.file("zz.safetensors", b"junk")
        with open(os.path.join(GOLDEN, "product-one.safetensors"), "rb") as file:
            self.file("one.safetensors", file.read())
        self.assertEqual(self.post("/v2/repository/models/signal/load").status, 200)
        self.assertEqual(sorted(self.daemon.ask("GET", "/v2/models").json()["models"]), sorted(["signal", SMALL]))
        self.assertEqual(self.post("/v2/repository/models/golden-product-one/load").status, 200)
        self.assertEqual(self.ready("golden-product-one"), (200, None))
        self.refused(400, "failed to load 'zz', ", self.post("/v2/repository/models/zz/load"))
        status, reason = self.ready("zz")
        self.assertEqual(status, 503)
        self.assertIn("HALUT_EFORMAT", reason)

    def test_a_failed_load_keeps_the_old_model(self):
        before = outputs_of(self.infer())["c"]
        self.file("second.safetensors", b"broken")
        answer = self.post(f"/v2/repository/models/{SMALL}/load")
        self.refused(400, f"failed to load '{SMALL}', ", answer)
        self.assertIn("second.safetensors", answer.error())
        self.assertIn("the one being served stays", answer.error())
        state, reason = self.index()[(SMALL, "2")]
        self.assertEqual(state, "READY")
        self.assertIn("the one being served stays", reason)
        np.testing.assert_array_equal(outputs_of(self.infer())["c"], before)
        self.refused(422, "second.safetensors", self.post("/v1/reload"))
        np.testing.assert_array_equal(outputs_of(self.infer())["c"], before)
        link = os.path.join(self.daemon.folder, "second.safetensors")
        os.remove(link)
        os.symlink("nowhere", link)
        self.refused(422, "second.safetensors: No such file or directory; the one being served stays",
                     self.post("/v1/reload"))
        np.testing.assert_array_equal(outputs_of(self.infer())["c"], before)

    def test_refused_loads(self):
        for name in ("nobody", "...", "..my_model", "model..1"):
            self.refused(404, f"failed to load '{name}', no file", self.post(f"/v2/repository/models/{name}/load"))
            self.refused(404, f"failed to unload '{name}'", self.post(f"/v2/repository/models/{name}/unload"))
        self.refused(404, "so long a name", self.post(f"/v2/repository/models/{'n' * 64}/load"))
        for name in ("..%2F..%2Fetc", "a%2Fb", "%2e%2e/x"):
            self.assertEqual(self.post(f"/v2/repository/models/{name}/load").status, 404)
        for body in ({"parameters": {"config": "{}"}}, {"parameters": {"file:1/model.onnx": "QUJD"}}):
            self.refused(400, "failed to load 'signal', 'config' and 'file:'",
                         self.post("/v2/repository/models/signal/load", body))
        self.refused(400, "must be an object", self.post("/v2/repository/models/signal/load", {"parameters": 1}))
        self.refused(400, "'unload_dependents' must be a boolean",
                     self.post("/v2/repository/models/signal/unload", {"parameters": {"unload_dependents": 1}}))
        self.refused(400, "JSON", self.post("/v2/repository/models/signal/load", b"{"))
        self.refused(400, "JSON", self.post("/v2/repository/models/signal/load",
                                            {"parameters": {"file:1/x": "A" * 100000}}))
        self.assertEqual(self.ready("signal"), (200, None))

    def test_one_load_at_a_time(self):
        # Many at once: each is done or told to come again, and the last state is whole.
        with_all = [self.daemon.connect() for _ in range(8)]
        request = f"POST /v2/repository/models/{SMALL}/load HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
        for connection in with_all:
            connection.sendall(request)
        answers = [read_answer(connection) for connection in with_all]
        for connection in with_all:
            connection.close()
        self.assertIn(200, [a.status for a in answers])
        for answer in answers:
            if answer.status != 200:
                self.refused(503, "a reload is under way", answer)
                self.assertIn("retry-after", answer.headers)
        self.assertEqual(len(self.index({"ready": True})), 3)

    def test_pages_of_other_sites_change_nothing(self):
        for path in ("/v1/reload", "/v2/repository/models/signal/unload", "/v2/logging"):
            answer = self.post(path, b"", [("Origin", "https://elsewhere.example")])
            self.assertEqual(answer.status, 403, path)
        self.assertEqual(self.ready("signal"), (200, None))

    def test_names_that_lead_here_open_nothing(self):
        for host, status in (("evil.example", 403), ("evil.example:8080", 403), ("localhost:80", 200),
                             ("127.0.0.1:80", 200), ("[::1]:80", 200), ("halutd", 200)):
            with self.daemon.connect(20) as connection:
                connection.sendall(f"GET /v1/jobs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                self.assertIn(f"HTTP/1.1 {status} ".encode(), connection.recv(100), host)

    def test_logging(self):
        settings = {"log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
                    "log_format": "default"}
        self.assertEqual(self.daemon.ask("GET", "/v2/logging").json(), settings)
        settings.update(log_info=False, log_verbose_level=3)
        answer = self.post("/v2/logging", {"log_info": False, "log_verbose_level": 3})
        self.assertEqual((answer.status, answer.json()), (200, settings))
        self.assertEqual(self.daemon.ask("GET", "/v2/logging").json(), settings)
        quiet = self.daemon.said()
        self.assertEqual(self.post("/v1/reload").status, 200)
        self.assertEqual(self.daemon.said(), quiet)
        settings.update(log_info=True, log_format="ISO8601")
        self.assertEqual(self.post("/v2/logging", {"log_info": True, "log_format": "ISO8601"}).json(), settings)
        self.assertEqual(self.post("/v1/reload").status, 200)
        self.assertRegex(self.daemon.said()[len(quiet):],
                         r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z halutd: reloaded: 3 models\n$")
        for words, body in (("log_info: must be true or false", {"log_info": 1}),
                            ("log_inf: unknown member", {"log_inf": True}),
                            ("log_verbose_level: must be an integer", {"log_verbose_level": -1}),
                            ("log_file: cannot be changed", {"log_file": "/tmp/x"}),
                            ("log_format: must be", {"log_format": "xml"}), ("JSON", b""), ("JSON", b"[]"),
                            ("log_format: must be", {"log_error": False, "log_format": "xml"})):
            self.refused(400, words, self.post("/v2/logging", body))
        self.assertEqual(self.daemon.ask("GET", "/v2/logging").json(), settings)
        self.assertEqual(self.post("/v2/logging", {}).json(), settings)


class Backends(Case):
    def test_the_accelerator_gives_the_same(self):
        needs_accelerator(self)
        daemon = Daemon("--backend", "both", "--workers", "1", models=[self.files[SMALL], self.files[POOLS]])
        for model, name in ((SMALL, "a"), (POOLS, "image")):
            x = self.sample(model, 3)
            found = []
            for backend in ("cpu", "rtl"):
                body = {"inputs": [tensor(name, x)], "parameters": {"backend": backend, "binary_data_output": True}}
                answer = daemon.ask("POST", f"/v2/models/{model}/infer", json.dumps(body).encode())
                head = json.loads(answer.body[:int(answer.headers[HEAD.lower()])])
                self.assertEqual(head["parameters"]["backend"], backend)
                self.assertEqual("device_cycles" in head["parameters"], backend == "rtl")
                found.append(outputs_of(answer))
            for output in found[0]:
                self.assertEqual(found[0][output].tobytes(), found[1][output].tobytes())
            sizes = daemon.ask("GET", f"/v2/models/{model}/stats").json()["model_stats"][0]["batch_stats"]
            self.assertEqual([(s["batch_size"], s["compute_infer"]["count"]) for s in sizes], [(3, 2)])  # of both
        self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    unittest.main()
