#!/usr/bin/env python3
# test: the paths, bodies, replies and errors of TorchServe, TensorFlow Serving, KServe, Hugging Face and SageMaker
# timeout: 200
"""Every dialect gives the labels and the probabilities that /v1/classify gives for the same picture."""
import base64
import json
import os
import unittest

from daemon import PIXELS, PRODUCT, Daemon, npy, png

BODY_MAX = 200 << 10
OTHER = PIXELS[::-1]
ROWS = [[((i * 7) % 5) / 5 for i in range(8)], [((i * 3) % 7) / 7 for i in range(8)]]


def b64(data):
    return base64.b64encode(data).decode()


def form(*pictures, name=b'; name="file"'):
    parts = b"".join(b"--x\r\nContent-Disposition: form-data" + name + b'; filename="a.png"\r\n\r\n' + picture + b"\r\n"
                     for picture in pictures)
    return parts + b"--x--\r\n", [("Content-Type", "multipart/form-data; boundary=x")]


class Dialects(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--body-max", "200K", "--rows-max", "4")
        cls.tops = []
        for pixels in (PIXELS, OTHER):
            top = cls.daemon.ask("POST", "/v1/classify?top=10", pixels).json()["top"]
            cls.tops.append([(entry["label"], entry["probability"]) for entry in top])

    @classmethod
    def tearDownClass(cls):
        assert cls.daemon.stop() == 0

    def ask(self, *args, **keys):
        answer = self.daemon.ask(*args, **keys)
        self.assertIsNotNone(answer, "no answer")
        return answer

    def good(self, *args, **keys):
        answer = self.ask(*args, **keys)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.headers["content-type"], "application/json")
        return answer.json()

    def same(self, pairs, wanted):
        self.assertEqual([label for label, _ in pairs], [label for label, _ in wanted])
        for (_, got), (_, want) in zip(pairs, wanted):
            self.assertAlmostEqual(got, want, places=5)

    def refused(self, status, words, *args, **keys):
        answer = self.ask(*args, **keys)
        self.assertEqual(answer.status, status, answer.body)
        self.assertIn(words, answer.error())

    # TorchServe

    def test_torchserve_predictions(self):
        path = "/predictions/resnet9-cifar10"
        for method in ("PUT", "POST"):
            self.same(list(self.good(method, path, PIXELS).items()), self.tops[0][:5])
        for version in ("1", "1.0"):
            self.same(list(self.good("PUT", f"{path}/{version}", PIXELS).items()), self.tops[0][:5])
        self.same(list(self.good("PUT", path + "?top=10&x=y", PIXELS).items()), self.tops[0])
        body, headers = form(PIXELS)
        self.same(list(self.good("POST", path, body, headers=headers).items()), self.tops[0][:5])
        body, headers = form(PIXELS, OTHER, PIXELS)
        answers = self.good("POST", path, body, headers=headers)
        self.assertEqual(len(answers), 3)
        for answer, want in zip(answers, (self.tops[0], self.tops[1], self.tops[0])):
            self.same(list(answer.items()), want[:5])

    def test_torchserve_errors(self):
        def fails(status, kind, words, path, body, method="POST", **keys):
            answer = self.ask(method, path, body, **keys)
            self.assertEqual(answer.status, status, answer.body)
            error = answer.json()
            self.assertEqual(sorted(error), ["code", "message", "type"])
            self.assertEqual((error["code"], error["type"]), (status, kind))
            self.assertIn(words, error["message"])

        fails(404, "ModelNotFoundException", "nobody", "/predictions/nobody", PIXELS)
        fails(404, "ModelNotFoundException", "version 7", "/predictions/resnet9-cifar10/7", PIXELS)
        fails(404, "ModelNotFoundException", "1.5", "/predictions/resnet9-cifar10/1.5", PIXELS)
        fails(400, "BadRequestException", "PNG", "/predictions/resnet9-cifar10", png(32, 32)[:-20])
        fails(400, "BadRequestException", "product", "/predictions/signal", PIXELS)
        fails(400, "BadRequestException", "empty", "/predictions/resnet9-cifar10", b"")
        body, headers = form(PIXELS, b"short")
        fails(400, "BadRequestException", "picture 1", "/predictions/resnet9-cifar10", body, headers=headers)
        body, headers = form(*[PIXELS] * 5)
        fails(413, "RequestEntityTooLarge", "rows-max", "/predictions/resnet9-cifar10", body, headers=headers)
        for path in ("/predictions/resnet9-cifar10", "/predictions/resnet9-cifar10/1"):
            fails(413, "RequestEntityTooLarge", "body-max", path, bytes(BODY_MAX + 1))
            fails(415, "BadRequestException", "gzip", path, PIXELS, headers=[("Content-Encoding", "br")])
            for method in ("GET", "DELETE", "PATCH"):
                fails(405, "MethodNotAllowedException", method, path, b"", method=method)
        keys = os.path.join(self.daemon.folder, "keys")
        with open(keys, "w") as file:
            file.write("metrics-key-01 metrics\n")
        locked = Daemon("--keys-file", keys)
        try:
            for headers, status in (([], 401), ([("X-API-Key", "metrics-key-01")], 403)):
                answer = locked.ask("POST", "/predictions/resnet9-cifar10", PIXELS, headers)
                self.assertEqual((answer.status, answer.json()["code"], answer.json()["type"]),
                                 (status, status, "InvalidKeyException"))
                self.assertEqual("www-authenticate" in answer.headers, status == 401)
                self.assertEqual(sorted(locked.ask("POST", "/v1/classify", PIXELS, headers).json()), ["error"])
        finally:
            self.assertEqual(locked.stop(), 0)

    def test_ping(self):
        self.assertEqual(self.good("GET", "/ping"), {"status": "Healthy"})

    # TensorFlow Serving and KServe's protocol 1

    def test_predict(self):
        planar = [[list(PIXELS[c * 1024 + y * 32:c * 1024 + y * 32 + 32]) for y in range(32)] for c in range(3)]
        last = [[[planar[c][y][x] for c in range(3)] for x in range(32)] for y in range(32)]
        bodies = {"flat": [list(PIXELS)], "planar": [planar], "channels last": [last], "b64": [{"b64": b64(PIXELS)}],
                  "named": [{"image_bytes": {"b64": b64(PIXELS)}}]}
        best = sorted(self.tops[0])
        labels = self.good("GET", "/v1/models/resnet9-cifar10")["labels"]
        for name, instances in bodies.items():
            for path in ("/v1/models/resnet9-cifar10:predict", "/v1/models/resnet9-cifar10/versions/1:predict",
                         "/v1/models/resnet9-cifar10/versions/latest:predict"):
                with self.subTest(name, path=path):
                    body = json.dumps({"signature_name": "s", "instances": instances}).encode()
                    reply = self.good("POST", path, body)
                    self.assertEqual(list(reply), ["predictions"])
                    self.assertEqual(len(reply["predictions"]), 1)
                    self.same(sorted(zip(labels, reply["predictions"][0])), best)
        named = [[{"image": list(PIXELS)}], [{"image": planar}], [{"image": last}], [{"image": {"b64": b64(PIXELS)}}]]
        for body in [{"instances": instances} for instances in named] + [{"inputs": {"image": [planar]}},
                                                                         {"inputs": {"image": [{"b64": b64(PIXELS)}]}}]:
            reply = self.good("POST", "/v1/models/resnet9-cifar10:predict", json.dumps(body).encode())
            self.same(sorted(zip(labels, reply["predictions" if "instances" in body else "outputs"][0])), best)
        reply = self.good("POST", "/v1/models/resnet9-cifar10:predict",
                          json.dumps({"inputs": [list(PIXELS), list(OTHER)]}).encode())
        self.assertEqual(list(reply), ["outputs"])
        self.same(sorted(zip(labels, reply["outputs"][1])), sorted(self.tops[1]))

    def test_predict_of_a_product(self):
        want = self.good("POST", "/v1/matmul", json.dumps({"a": ROWS}).encode())["c"]
        path = "/v1/models/signal:predict"
        self.assertEqual(self.good("POST", path, json.dumps({"instances": ROWS}).encode()), {"predictions": want})
        self.assertEqual(self.good("POST", path, json.dumps({"inputs": ROWS}).encode()), {"outputs": want})
        named = {"instances": [{"a": row} for row in ROWS]}
        self.assertEqual(self.good("POST", path, json.dumps(named).encode()), {"predictions": want})
        self.assertEqual(self.good("POST", path, json.dumps({"inputs": {"a": ROWS}}).encode()), {"outputs": want})
        body = npy(sum(ROWS, []), 8)
        answer = self.ask("POST", path, body)
        self.assertEqual(answer.headers["content-type"], "application/x-npy")
        self.assertEqual(answer.body, self.ask("POST", "/v1/matmul", body).body)

    def test_predict_errors(self):
        path = "/v1/models/resnet9-cifar10:predict"
        self.refused(404, "nobody", "POST", "/v1/models/nobody:predict", b'{"instances":[[1]]}')
        self.refused(404, "version 9", "POST", "/v1/models/signal/versions/9:predict", b'{"instances":[[1]]}')
        self.refused(404, "versions are whole", "POST", "/v1/models/signal/versions/x:predict", b'{"instances":[[1]]}')
        self.refused(400, "either", "POST", path, b'{"instance":[[1]]}')
        self.refused(400, "either", "POST", path, b'{"instances":[[1]],"inputs":[[1]]}')
        self.refused(400, "instances: each must hold 3072", "POST", path, b'{"instances":[[1]]}')
        self.refused(400, "instances[1]: b64", "POST", path,
                     json.dumps({"instances": [{"b64": b64(PIXELS)}, {"b64": "?"}]}).encode())
        self.refused(400, "instances", "POST", path, b'{"instances":"text"}')
        self.refused(413, "instances", "POST", path, json.dumps({"instances": [{"b64": ""}] * 5}).encode())
        self.refused(400, "inputs: rows of 2", "POST", "/v1/models/signal:predict", b'{"inputs":[[1,2]]}')
        self.refused(400, "JSON", "POST", path, PIXELS)
        self.refused(400, "empty", "POST", path)
        told = 'instances[0]: must be {"b64": ...} or {"image": ...}'
        for instance, words in (({"zzz": {"b64": b64(PIXELS)}}, told),
                                ({"image": [1] * 3071}, "instances[0]: image: must be flat or nested as 3 x 32 x 32"),
                                ({"image": [1] * 3073}, "instances[0]: image: more than 3072 values"),
                                ({"image": [1.5]}, "instances[0]: image[0]"), ({"image": 5}, "instances[0]: b64"),
                                ({"image": {"b64": ""}, "x": 1}, "instances[0]: must be")):
            self.refused(413 if "more than" in words else 400, words, "POST", path,
                         json.dumps({"instances": [instance]}).encode())
        self.refused(400, 'inputs: model resnet9-cifar10 has one, "image"', "POST", path, b'{"inputs":{"a":[[1]]}}')
        product = "/v1/models/signal:predict"
        self.refused(400, 'inputs: model signal has one, "a"', "POST", product, b'{"inputs":{"a":[[1]],"b":1}}')
        told = 'instances[1]: must be numbers, or {"a": numbers}'
        for row, words in (({"a": [1] * 7}, "instances[1]: a: 7 numbers, not 8"), ({"a": [1] * 9}, "instances[1]: a"),
                           ({"b": [1] * 8}, told), ({"a": [1] * 8, "b": 1}, told), ([1] * 8, told)):
            self.refused(400, words, "POST", product, json.dumps({"instances": [{"a": [1] * 8}, row]}).encode())
        self.refused(413, "instances: 5 rows exceed rows-max", "POST", product,
                     json.dumps({"instances": [{"a": [1] * 8}] * 5}).encode())

    def test_classify(self):
        path = "/v1/models/resnet9-cifar10:classify"
        body = {"examples": [{"image": {"b64": b64(PIXELS)}}, {"image": {"b64": b64(OTHER)}}]}
        result = self.good("POST", path, json.dumps(body).encode())["result"]
        self.assertEqual(len(result), 2)
        for pairs, want in zip(result, self.tops):
            self.same(pairs, want[:5])
        self.refused(400, "examples", "POST", path, b'{"examples":[]}')
        self.refused(400, "product", "POST", "/v1/models/signal:classify", json.dumps(body).encode())

    def test_model_status(self):
        available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for path in ("/v1/models/resnet9-cifar10", "/v1/models/resnet9-cifar10/versions/1"):
            reply = self.good("GET", path)
            self.assertEqual(reply["name"], "resnet9-cifar10")
            self.assertIs(reply["ready"], True)
            self.assertEqual(reply["model_version_status"], [available])
        self.refused(404, "version 2", "GET", "/v1/models/signal/versions/2")

    def test_metadata(self):
        def tensor(name, kind, *shape):
            sizes = [{"size": str(size), "name": ""} for size in (-1, *shape)]
            return {name: {"dtype": kind, "tensor_shape": {"dim": sizes, "unknown_rank": False}, "name": f"{name}:0"}}

        for model, inputs, outputs in (
                ("resnet9-cifar10", tensor("image", "DT_UINT8", 3, 32, 32), tensor("probabilities", "DT_FLOAT", 10)),
                ("signal", tensor("a", "DT_FLOAT", 8), tensor("c", "DT_FLOAT", 3))):
            signature = {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
            for path in (f"/v1/models/{model}/metadata", f"/v1/models/{model}/versions/1/metadata"):
                self.assertEqual(self.good("GET", path), {
                    "model_spec": {"name": model, "signature_name": "", "version": "1"},
                    "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}})
        self.refused(404, 'no model named "none"', "GET", "/v1/models/none/metadata")
        self.refused(404, "no version 2", "GET", "/v1/models/signal/versions/2/metadata")
        self.refused(404, "versions are whole numbers", "GET", "/v1/models/signal/versions/x/metadata")

    # Hugging Face

    def test_list_of_labels(self):
        path = "/models/resnet9-cifar10"
        headers = [("Authorization", "Bearer hf_x")]
        pairs = self.good("POST", path, PIXELS, headers=headers)
        self.same([(pair["label"], pair["score"]) for pair in pairs], self.tops[0][:5])
        body = {"inputs": b64(PIXELS), "parameters": {"top_k": 2}}
        pairs = self.good("POST", path, json.dumps(body).encode())
        self.same([(pair["label"], pair["score"]) for pair in pairs], self.tops[0][:2])
        self.refused(400, "parameters: top_k", "POST", path, b'{"inputs":"","parameters":{"top_k":0}}')
        self.refused(400, "inputs", "POST", path, b'{"inputs":3}')
        self.refused(404, "nobody", "POST", "/models/nobody", PIXELS)

    # SageMaker

    def test_invocations(self):
        def typed(kind, **more):
            return [("Content-Type", kind)] + [(name.replace("_", "-"), value) for name, value in more.items()]

        path = "/invocations"
        pairs = self.good("POST", path, PIXELS, headers=typed("application/x-image"))
        self.same([(pair["label"], pair["score"]) for pair in pairs], self.tops[0][:5])
        pairs = self.good("POST", path, png(32, 32), headers=typed("image/png", Accept="application/json"))
        self.assertEqual(len(pairs), 5)
        reply = self.good("POST", path, json.dumps({"instances": [list(PIXELS)]}).encode(),
                          headers=typed("application/json"))
        self.assertEqual(len(reply["predictions"][0]), 10)
        rows = json.dumps({"instances": ROWS}).encode()
        signal = {"X_Amzn_SageMaker_Target_Model": "signal"}
        want = self.good("POST", "/v1/models/signal:predict", rows)
        self.assertEqual(self.good("POST", path, rows, headers=typed("application/json", **signal)), want)
        matrix = npy(sum(ROWS, []), 8)
        binary = self.ask("POST", path, matrix, headers=typed("application/x-npy"))
        self.assertEqual(binary.headers["content-type"], "application/x-npy")
        self.assertEqual(binary.body, self.ask("POST", "/v1/matmul", matrix).body)
        self.assertEqual(self.good("POST", path, matrix, headers=typed("application/x-npy", Accept="application/json")),
                         want)
        turned = self.ask("POST", path, rows, headers=typed("application/json", Accept="application/x-npy", **signal))
        self.assertEqual(turned.body, binary.body)
        self.refused(415, "text/csv", "POST", path, b"1,2", headers=typed("text/csv"))
        self.refused(406, "text/html", "POST", path, PIXELS, headers=typed("image/png", Accept="text/html"))
        self.refused(406, "x-npy", "POST", path, PIXELS, headers=typed("image/png", Accept="application/x-npy"))
        self.refused(406, "jsonlines", "POST", path, PIXELS, headers=typed("image/png", Accept="application/jsonlines"))
        self.assertIn(b'{path="/invocations",code="406"}', self.ask("GET", "/metrics").body)

    def test_invocations_weigh_what_is_accepted(self):
        head = [("Content-Type", "application/json"), ("X-Amzn-SageMaker-Target-Model", "signal")]
        body = json.dumps({"instances": ROWS}).encode()
        for accept, wanted in (("application/x-npy;q=0, application/json", "application/json"),
                               ("application/x-npy;q=0.1, application/json; q=0.9", "application/json"),
                               ("application/json;q=0.5, application/x-npy;v=1;q=0.75", "application/x-npy"),
                               ("*/*;q=0.1, application/*;q=0, application/x-npy", "application/x-npy"),
                               ("application/x-npy;q=0, */*", "application/json"),
                               ("*/*", "application/json")):
            answer = self.ask("POST", "/invocations", body, headers=head + [("Accept", accept)])
            self.assertEqual((answer.status, answer.headers["content-type"]), (200, wanted), accept)
        for accept in ("application/json;q=0", "application/json;q=0, application/x-npy;q=0.0", "*/*;q=0"):
            self.refused(406, "the answer is", "POST", "/invocations", body, headers=head + [("Accept", accept)])

    # What JSON may spell in other ways, and what it may not

    def test_escapes_of_encoders_are_undone(self):
        text = b64(png(32, 35)).translate({ord("A"): "\\u0041", ord("/"): "\\/", ord("="): "\\u003d"})
        self.assertIn("\\u003d", text)
        for path, body in (("/v1/classify", '{"image":{"b6\\u0034":"%s"}}'),
                           ("/models/resnet9-cifar10", '{"inputs":"%s"}'),
                           ("/v1/models/resnet9-cifar10:predict", '{"instances":[{"b64":"%s"}]}')):
            self.good("POST", path, (body % text).encode())

    def test_what_nobody_reads_must_be_json_too(self):
        picture = b64(png(32, 32))
        for path, body in (("/v1/models/signal:predict", '{"instances":[[0,0,0,0,0,0,0,0]],"x":{"inputs":[nonsense]}}'),
                           ("/models/resnet9-cifar10", '{"inputs":"%s","parameters":{"inputs":[1 2]}}' % picture),
                           ("/v1/classify", '{"image":{"b64":"%s","x":{"b64":"\\q"}}}' % picture)):
            self.refused(400, "JSON: line 1, column ", "POST", path, body.encode())
        self.refused(400, "parameters: must be an object", "POST", "/models/resnet9-cifar10",
                     ('{"inputs":"%s","parameters":[1]}' % picture).encode())

    def test_pictures_of_numbers_have_their_shape(self):
        def nested(*shape):
            values = list(PIXELS)
            for size in reversed(shape[1:]):
                values = [values[i:i + size] for i in range(0, len(values), size)]
            return {"instances": [values]}

        flat = self.good("POST", "/v1/models/resnet9-cifar10:predict", json.dumps(nested(3072)).encode())
        self.assertEqual(self.good("POST", "/v1/models/resnet9-cifar10:predict",
                                   json.dumps(nested(3, 32, 32)).encode()), flat)
        for shape in ((1024, 3), (3, 1024), (32, 96), (3072, 1), (32, 3, 32)):
            for path in ("/v1/models/resnet9-cifar10:predict", "/v1/classify"):
                self.refused(400, "flat or nested as 3 x 32 x 32 or 32 x 32 x 3", "POST", path,
                             json.dumps(nested(*shape)).encode())

    # Several pictures in a form of our own

    def test_forms_take_several_pictures(self):
        body, headers = form(PIXELS, OTHER, name=b';name="image"')
        answers = self.good("POST", "/v1/classify?top=10", body, headers=headers)["predictions"]
        for answer, want in zip(answers, self.tops):
            self.same([(entry["label"], entry["probability"]) for entry in answer["top"]], want)
        body, headers = form(PIXELS, name=b'; name="picture"')
        self.refused(400, "image", "POST", "/v1/classify", body, headers=headers)
        body, headers = form(PIXELS, name=b'; name="image"')
        body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nnope\r\n' + body
        self.refused(400, 'a part named "model"', "POST", "/v1/classify", body, headers=headers)


class Alone(unittest.TestCase):
    def test_a_product_alone_is_what_invocations_reach(self):
        daemon = Daemon(models=[PRODUCT])
        reply = daemon.ask("POST", "/invocations", json.dumps({"instances": ROWS}).encode())
        self.assertEqual((reply.status, len(reply.json()["predictions"])), (200, 2))
        self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    unittest.main()
