#!/usr/bin/env python3
# test: /openapi.json describes every route and no other, and live answers are what it says
# timeout: 120
"""The description is compared with the routing table's text, checked for the faults that a linter finds, and the
answers of a real daemon are validated against its schemas."""
import json
import os
import re
import unittest

from daemon import NETWORK, PRODUCT, TOP, Daemon

SCOPES = {"HALUT_OPEN": None, "HALUT_INFER": "infer", "HALUT_ADMIN": "admin", "HALUT_METRICS": "metrics"}


def routes():
    """{(pattern, method): scope} of routes.c."""
    with open(os.path.join(TOP, "server", "routes.c")) as file:
        rows = re.findall(r'^    \{((?:HALUT_[A-Z]+(?: \| )?)+), "([^"]+)",.*?(HALUT_[A-Z]+)\},$', file.read(),
                          re.M | re.S)
    return {(pattern, verb.replace("HALUT_", "").lower()): SCOPES[scope]
            for methods, pattern, scope in rows for verb in methods.split(" | ")
            if pattern == "/" or not pattern.endswith("/")}  # which is described once, without


def operations(document):
    return {(path, method): item for path, methods in document["paths"].items() for method, item in methods.items()}


def found(document, item):
    """The item, or what its $ref names."""
    if "$ref" not in item:
        return item
    kind, name = item["$ref"].split("/")[2:]
    return document["components"][kind][name]


def blank(path):
    return re.sub(r"\{[a-z]+\}", "{}", path)


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


class Schema:
    """As much of JSON Schema as the document uses."""
    TYPES = {"string": str, "boolean": bool, "object": dict, "array": list}

    def __init__(self, document):
        self.schemas = document["components"]["schemas"]

    def problems(self, schema, value, where="reply"):
        if "$ref" in schema:
            schema = self.schemas[schema["$ref"].rsplit("/", 1)[1]]
        if "anyOf" in schema and all(self.problems(one, value, where) for one in schema["anyOf"]):
            return [f"{where}: {value!r} is none of {schema['anyOf']}"]
        kind = schema.get("type")
        if kind in ("integer", "number"):
            right = not isinstance(value, bool) and isinstance(value, int if kind == "integer" else (int, float))
        else:
            right = kind is None or isinstance(value, self.TYPES[kind])
        if not right:
            return [f"{where}: {value!r} is no {kind}"]
        if "enum" in schema and value not in schema["enum"]:
            return [f"{where}: {value!r} is none of {schema['enum']}"]
        found = [f"{where}: no {name}" for name in schema.get("required", ()) if name not in value]
        if isinstance(value, dict):
            for name, inner in value.items():
                part = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
                found += self.problems(part, inner, f"{where}.{name}") if part else []
                if part is None and "properties" in schema:
                    found.append(f"{where}: nothing is said of {name}")
        if isinstance(value, list) and "items" in schema:
            for i, inner in enumerate(value):
                found += self.problems(schema["items"], inner, f"{where}[{i}]")
        return found


class OpenApi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(models=(NETWORK, PRODUCT))
        cls.document = cls.daemon.ask("GET", "/openapi.json").json()
        cls.operations = operations(cls.document)
        models = cls.daemon.ask("GET", "/v1/models").json()["models"]
        cls.network = next(m for m in models if m["kind"] == "network")
        cls.product = next(m for m in models if m["kind"] == "product")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()

    def test_every_route_and_no_other(self):
        described = {(blank(path), method) for path, method in self.operations}
        self.assertEqual(described, set(routes()))

    def test_scopes(self):
        table = routes()
        for (path, method), item in self.operations.items():
            scope = table[blank(path), method]
            self.assertEqual(item["security"], [{}, {"bearer": []}, {"key": []}] if scope else [], path)
            self.assertEqual(item.get("x-scope"), scope, path)

    def test_form(self):
        self.assertEqual(self.document["openapi"], "3.1.0")
        names = [item["operationId"] for item in self.operations.values()]
        self.assertEqual(len(names), len(set(names)))
        tags = {tag["name"] for tag in self.document["tags"]}
        for (path, _), item in self.operations.items():
            parameters = [found(self.document, p) for p in item.get("parameters", ())]
            inside = {p["name"] for p in parameters if p["in"] == "path"}
            self.assertEqual(inside, set(re.findall(r"\{([a-z]+)\}", path)), path)
            self.assertTrue(item["summary"] and set(item["tags"]) <= tags, path)
            self.assertLess({"4XX", "5XX"}, set(item["responses"]), path)
        used = set(references(self.document))
        kept = {f"#/components/{kind}/{name}" for kind, items in self.document["components"].items()
                for name in items if kind != "securitySchemes"}
        self.assertEqual(used, kept)

    def test_query_parameters(self):
        """Of the operations that refuse unknown ones, as their handlers list them."""
        for path in ("/v1/classify", "/v1/matmul", "/v1/explain"):
            with open(os.path.join(TOP, "server", "inference.c")) as file:
                handler = re.search(rf"^void halut_handle_{path[4:]}\(.*?^}}", file.read(), re.M | re.S).group()
            known = re.findall(r'"([a-z]+)"', handler.split("NULL", 1)[0])
            described = [found(self.document, p) for p in self.operations[path, "post"]["parameters"]]
            self.assertEqual(sorted(known), sorted(p["name"] for p in described if p["in"] == "query"), path)

    def test_no_name_is_given_twice(self):
        def members(pairs):
            self.assertEqual(len({name for name, _ in pairs}), len(pairs), [name for name, _ in pairs])
            return dict(pairs)

        json.loads(self.daemon.ask("GET", "/openapi.json").body, object_pairs_hook=members)

    def test_version(self):
        self.assertEqual(self.document["info"]["version"], self.daemon.ask("GET", "/v2").json()["version"])

    def live(self, method, path, described, body=b"", status=None):
        """Asks, and validates the JSON answer against the operation at `described`."""
        answer = self.daemon.ask(method, path, body)
        item = self.operations[described, method.lower()]
        good = next(code for code in item["responses"] if code.isdigit())
        self.assertEqual(answer.status, int(status or good), answer.body[:300])
        reply = found(self.document, item["responses"][f"{status // 100}XX" if status else good])
        schema = reply["content"]["application/json"]["schema"]
        self.assertEqual(Schema(self.document).problems(schema, answer.json()), [], path)
        return answer.json()

    def test_listings(self):
        for path in ("/healthz", "/openapi.json", "/v1/models", "/v1/jobs", "/v2", "/v2/health/live",
                     "/v2/health/ready", "/v2/models", "/v2/models/stats", "/v2/logging", "/ping"):
            self.live("GET", path, path)
        for model in (self.network, self.product):
            for tail in ("", "/ready", "/config", "/stats"):
                self.live("GET", "/v2/models/" + model["name"] + tail, "/v2/models/{model}" + tail)
                self.live("GET", f"/v2/models/{model['name']}/versions/{model['version']}{tail}",
                          "/v2/models/{model}/versions/{version}" + tail)
            for tail in ("", "/metadata"):
                self.live("GET", "/v1/models/" + model["name"] + tail, "/v1/models/{model}" + tail)
                self.live("GET", f"/v1/models/{model['name']}/versions/{model['version']}{tail}",
                          "/v1/models/{model}/versions/{version}" + tail)
        self.live("POST", "/v2/repository/index", "/v2/repository/index", b"")
        for verb in ("load", "unload", "load"):
            self.live("POST", f"/v2/repository/models/{self.product['name']}/{verb}",
                      "/v2/repository/models/{model}/" + verb)

    def test_inference(self):
        image = bytes(self.network["channels"] * self.network["height"] * self.network["width"])
        row = {"a": [[0.5] * self.product["columns"]]}
        query = "?timing=layers"
        self.live("POST", "/v1/classify" + query, "/v1/classify", image)
        self.live("PUT", "/v1/classify", "/v1/classify", image)
        self.live("POST", "/v1/matmul?codes=true", "/v1/matmul", json.dumps(row).encode())
        self.live("POST", f"/predictions/{self.network['name']}", "/predictions/{model}", image)
        self.live("POST", f"/models/{self.network['name']}", "/models/{model}", image)
        many = json.dumps({"instances": [list(image)] * 2}).encode()
        self.live("POST", "/v1/classify", "/v1/classify", many)
        self.live("POST", f"/v1/models/{self.network['name']}:predict", "/v1/models/{model}:predict", many)
        tensor = {"name": "a", "datatype": "FP32", "shape": [1, self.product["columns"]], "data": row["a"]}
        infer = {"parameters": {"timing": "layers", "codes": True}, "inputs": [tensor]}
        self.live("POST", f"/v2/models/{self.product['name']}/infer", "/v2/models/{model}/infer",
                  json.dumps(infer).encode())

    def test_errors(self):
        self.live("POST", "/v1/matmul", "/v1/matmul", b"[", status=400)
        self.live("GET", "/v1/models/none", "/v1/models/{model}", status=404)
        self.live("GET", "/v2/models/none", "/v2/models/{model}", status=404)
        self.live("POST", "/predictions/none", "/predictions/{model}", b"x", status=404)

    def test_the_validator_itself(self):
        check = Schema(self.document).problems
        job = {"$ref": "#/components/schemas/Job"}
        right = {"id": "1", "name": "n", "state": "done", "progress": 1}
        self.assertEqual(check(job, right), [])
        for name, value in (("state", "lost"), ("progress", "1"), ("id", 1), ("seconds", True)):
            self.assertEqual(len(check(job, {**right, name: value})), 1, name)
        self.assertEqual(len(check(job, {})), 4)


if __name__ == "__main__":
    unittest.main()
