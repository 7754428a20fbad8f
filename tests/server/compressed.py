#!/usr/bin/env python3
# test: compressed bodies: gzip and deflate both ways, their limit, what is no compression
# timeout: 120
"""Compressed requests give the answers of plain ones, and cost no more than their limits."""
import gzip
import json
import re
import threading
import unittest
import zlib

from daemon import PIXELS, Daemon, npy

INFLATED_MAX = 1 << 20  # as the option says, and as large as settings may be


def unpacked(answer):
    coding = answer.headers.get("content-encoding")
    return {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[coding](answer.body)


class Compressed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--body-inflated-max", "1M", "--body-total-max", "20M")

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        assert code == 0, f"exit code {code}"

    def post(self, body, *headers, path="/v1/classify?top=10"):
        return self.daemon.ask("POST", path, body, headers)

    def classes(self, answer):
        self.assertEqual(answer.status, 200, answer.body)
        return json.loads(unpacked(answer))["top"]

    def test_compressed_requests_give_the_same_answer(self):
        plain = self.classes(self.post(PIXELS))
        for body, coding in ((gzip.compress(PIXELS), "gzip"), (gzip.compress(PIXELS), "x-gzip"),
                             (zlib.compress(PIXELS), "deflate"), (PIXELS, "identity"),
                             (gzip.compress(PIXELS[:999]) + gzip.compress(PIXELS[999:]), "GZIP")):
            self.assertEqual(self.classes(self.post(body, ("Content-Encoding", coding))), plain)

    def test_results_are_compressed_for_who_asks(self):
        plain = self.classes(self.post(PIXELS))
        for coding in ("gzip", "deflate"):
            answer = self.post(PIXELS, ("Accept-Encoding", coding))
            self.assertEqual(answer.headers["content-encoding"], coding)
            self.assertEqual(answer.headers["vary"], "Accept-Encoding")
            self.assertEqual(self.classes(answer), plain)
        array = npy([float(i % 8) for i in range(800)], 8)
        there = self.post(array, path="/v1/matmul").body
        answer = self.post(gzip.compress(array), ("Content-Encoding", "gzip"), ("Accept-Encoding", "gzip"),
                           path="/v1/matmul")
        self.assertEqual(answer.headers["content-encoding"], "gzip")
        self.assertEqual(unpacked(answer), there)

    def test_nothing_else_is_compressed(self):
        for answer in (self.post(b"bad", ("Accept-Encoding", "gzip")),
                       self.daemon.ask("GET", "/metrics", headers=[("Accept-Encoding", "gzip")]),
                       self.post(PIXELS, ("Accept-Encoding", "gzip;q=0, br"))):
            self.assertNotIn("content-encoding", answer.headers)

    def test_settings_are_taken_compressed_and_bounded(self):
        ready = b'{"ready": true}'
        index = self.post(ready, path="/v2/repository/index")
        self.assertEqual(index.status, 200)
        for path, body in (("/v2/repository/index", ready), ("/v2/logging", b'{"log_info": false}'),
                           ("/v2/repository/models/signal/unload", b'{"parameters":{"unload_dependents":false}}'),
                           ("/v2/repository/models/signal/load", b'{"parameters":{}}')):
            for coding, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
                if path.endswith("unload") and coding == "deflate":
                    continue  # it is unloaded already
                answer = self.post(pack(body), ("Content-Encoding", coding), ("Accept-Encoding", "gzip"), path=path)
                self.assertEqual(answer.status, 200, answer.body)
                self.assertNotIn("content-encoding", answer.headers)
            empty = {"unload": 404, "logging": 400}.get(path.rsplit("/")[-1], 200)
            self.assertEqual(self.post(b"", path=path).status, empty)
            answer = self.post(gzip.compress(b'{"ready":0,"parameters":0,"log_info":0}'), ("Content-Encoding", "gzip"),
                               path=path)
            self.assertEqual(answer.status, 400)
            self.assertRegex(answer.error(), "boolean|object|unknown member")
            self.assertEqual(self.post(b"junk", ("Content-Encoding", "gzip"), path=path).status, 400)
            full = b"{}".ljust(INFLATED_MAX)
            for coding, pack in ((None, bytes), ("gzip", gzip.compress)):
                headers = [("Content-Encoding", coding)] if coding else []
                exact = self.post(pack(full), *headers, path=path)
                self.assertEqual(exact.status, 400)
                self.assertIn("65536 bytes beside", exact.error())  # which no setting comes near
                over = self.post(pack(full + b" "), *headers, path=path)
                self.assertEqual(over.status, 413)
                self.assertIn("exceeds", over.error())
                self.assertIn("1048576 bytes", over.error())
        self.assertEqual(self.post(b'{"log_info": true}', path="/v2/logging").status, 200)
        self.assertEqual(self.post(ready, path="/v2/repository/index").json(), index.json())
        self.assertEqual(self.gauge("body_bytes_held"), 0)
        answer = self.post(gzip.compress(b""), ("Content-Encoding", "gzip"), path="/v1/reload")
        self.assertEqual(answer.status, 415)  # it reads none

    def test_settings_have_a_limit_of_their_own(self):
        daemon = Daemon("--body-inflated-max", "8M", "--body-max", "4M")
        try:
            for body, headers in ((b"{}".ljust(INFLATED_MAX + 1), []),
                                  (gzip.compress(b"{}".ljust(INFLATED_MAX + 1)), [("Content-Encoding", "gzip")])):
                answer = daemon.ask("POST", "/v2/repository/index", body, headers)
                self.assertEqual(answer.status, 413)
                self.assertNotIn("-max", answer.error())  # no option moves it
        finally:
            self.assertEqual(daemon.stop(), 0)

    def test_other_codings_are_415(self):
        for coding in ("br", "zstd", "gzip, gzip", ""):
            answer = self.post(PIXELS, ("Content-Encoding", coding))
            self.assertEqual(answer.status, 415)
            self.assertEqual(answer.headers["accept-encoding"], "gzip, deflate")
            self.assertIn("gzip or deflate", answer.error())
        answer = self.post(PIXELS, ("Content-Encoding", "gzip"), ("Content-Encoding", "gzip"))
        self.assertEqual(answer.status, 415)
        answer = self.daemon.ask("DELETE", "/v1/jobs/1", b"x", headers=[("Content-Encoding", "gzip")])
        self.assertEqual(answer.status, 415)

    def test_of_no_body_the_coding_does_not_matter(self):
        self.assertEqual(self.daemon.ask("GET", "/v1/models", headers=[("Content-Encoding", "gzip")]).status, 200)

    def test_damaged_bodies_are_400(self):
        packed = gzip.compress(PIXELS)
        for body, words in ((packed[:-9], "cut off"), (b"", "cut off"), (packed + b"more", "damaged"),
                            (zlib.compress(PIXELS), "damaged"), (PIXELS, "damaged")):
            answer = self.post(body, ("Content-Encoding", "gzip"))
            self.assertEqual(answer.status, 400)
            self.assertIn(words, answer.error())

    def gauge(self, name):
        text = self.daemon.ask("GET", "/metrics").body.decode()
        return int(re.search(rf"^halutd_{name} (\d+)$", text, re.M)[1])

    def test_a_bomb_is_refused_at_the_limit_and_costs_little(self):
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(512)] + [packer.flush()])
        self.assertLess(len(bomb), 1 << 20)
        before = self.gauge("resident_memory_bytes")
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(self.post(bomb, ("Content-Encoding", "gzip"))))
                   for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(answers), 8)
        for answer in answers:
            self.assertEqual(answer.status, 413)
            self.assertIn("body-inflated-max", answer.error())
        self.assertLess(self.gauge("resident_memory_bytes") - before, 100 << 20)
        self.assertEqual(self.gauge("body_bytes_held"), 0)

    def test_exactly_the_limit_passes(self):
        exact = npy([1.0] * (8 * 32764), 8)
        self.assertEqual(len(exact), INFLATED_MAX)
        answer = self.post(gzip.compress(exact), ("Content-Encoding", "gzip"), path="/v1/matmul")
        self.assertEqual(answer.status, 200, answer.body)
        answer = self.post(gzip.compress(exact + b"x"), ("Content-Encoding", "gzip"), path="/v1/matmul")
        self.assertEqual(answer.status, 413)


if __name__ == "__main__":
    unittest.main()
