#!/usr/bin/env python3
# test: the API reference has all of openapi.json, and a real daemon answers each of its curl lines as it says
"""The page is made as `make docs` makes it, and read back with an HTML parser of its own."""
import copy
import html.parser
import json
import os
import subprocess
import sys
import tempfile
import unittest

from daemon import TOP, Daemon
from openapi import found

DOCUMENT = os.path.join(TOP, "server", "openapi.json")
WRITTEN = "http://127.0.0.1:8080"


class Reader(html.parser.HTMLParser):
    """The words and the curl line of every <article>, by its id; and what is left open."""
    EMPTY = {"meta", "br"}

    def __init__(self, page):
        super().__init__()
        self.articles, self.lines, self.links, self.ids, self.open = {}, {}, set(), set(), []
        self.article = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.ids.add(attributes.get("id"))
        self.links.add(attributes.get("href", "#errors").removeprefix("#"))
        if tag == "article":
            self.article = attributes["id"]
            self.articles[self.article] = []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}>"
        if tag == "article":
            self.article = None

    def handle_data(self, data):
        if self.article is None:
            return
        self.articles[self.article].append(data)
        if self.open[-1] == "pre":
            self.lines[self.article] = data


def written(path=DOCUMENT):
    script = os.path.join(TOP, "deploy", "apidoc.py")
    return subprocess.run([sys.executable, script, path], check=True, capture_output=True, text=True).stdout


def names(document, schema):
    """Every name of a schema that the page must show."""
    for part in schema.get("properties", {}).values():
        yield from names(document, part)
    yield from schema.get("properties", ())
    if "items" in schema:
        yield from names(document, schema["items"])
    if "$ref" in schema:
        yield schema["$ref"].rsplit("/", 1)[1]
    yield from schema.get("enum", ())


def expected(document, path, method, operation):
    """Every word that the article of an operation must have."""
    yield from (f"{method.upper()} {path}", operation["summary"])
    for parameter in operation.get("parameters", ()):
        parameter = found(document, parameter)
        yield from (parameter["name"], parameter["in"], *names(document, parameter["schema"]))
        yield from [parameter["description"]] if "description" in parameter else []
    bodies = [operation.get("requestBody", {})]
    for status, reply in operation["responses"].items():
        yield status
        bodies.append(found(document, reply))
    for body in bodies:
        for media, item in body.get("content", {}).items():
            yield from (media, *names(document, item.get("schema", {})))
    for choice in operation["security"]:
        for scopes in choice.values():
            yield from scopes


class ApiReference(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(DOCUMENT) as file:
            cls.document = json.load(file)
        cls.page = Reader(written())
        cls.operations = {item["operationId"]: (path, method, item)
                          for path, methods in cls.document["paths"].items() for method, item in methods.items()}

    def missing(self, page, name, words):
        told = page.articles.get(name, [])
        return [word for word in words if not any(str(word) in part for part in told)]

    def test_every_operation_parameter_body_and_status(self):
        for name, found_at in self.operations.items():
            self.assertEqual(self.missing(self.page, name, expected(self.document, *found_at)), [], name)

    def test_every_object(self):
        for name, schema in self.document["components"]["schemas"].items():
            self.assertEqual(self.missing(self.page, name, names(self.document, schema)), [], name)

    def test_every_link_leads_somewhere(self):
        self.assertEqual(self.page.open, [])
        self.assertEqual(self.page.links - self.page.ids, set())

    def test_what_is_not_in_the_document_is_missed(self):
        without = copy.deepcopy(self.document)
        del without["paths"]["/v1/learn"]
        with tempfile.NamedTemporaryFile("w") as file:
            json.dump(without, file)
            file.flush()
            page = Reader(written(file.name))
        self.assertEqual(self.missing(page, "learn", ["POST /v1/learn"]), ["POST /v1/learn"])

    def ask(self, daemon, line):
        """Runs a curl line as it is on the page, but for the address; its status and body."""
        command = line.replace(WRITTEN, f"http://127.0.0.1:{daemon.port}") + r" -sS -m 30 -w '\n%{http_code}'"
        done = subprocess.run(["bash", "-c", command], cwd=TOP, capture_output=True)
        body, _, status = done.stdout.rpartition(b"\n")
        return status.decode() or done.stderr, body

    def test_every_curl_line_is_answered(self):
        daemon = Daemon()
        example = found(self.document, self.operations["job"][2]["parameters"][0])["example"]
        # What ends something comes last: a model that is unloaded answers no more, and while a job ends (its events
        # are followed to their end) it cannot be cancelled.
        order = sorted(self.operations, key=lambda name: name in ("v2Unload", "cancel"))
        self.assertEqual(set(order), set(self.page.lines))
        job = example
        for name in order:
            with self.subTest(name):
                line = self.page.lines[name].replace(example, job)
                status, body = self.ask(daemon, line)
                good = next(iter(self.operations[name][2]["responses"]))
                self.assertEqual(status, good, f"{line}\n{body[:300]}")
                if name == "learn":
                    job = json.loads(body)["id"]
        self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    unittest.main()
