#!/usr/bin/env python3
# test: who may do what: API keys and their scopes, pages of other sites
# timeout: 300
"""Starts the daemon with keys and asks with good ones, bad ones and none."""
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from daemon import BUILD, PIXELS, PRODUCT, Daemon, read_answer

KEYS = """# key scopes name
infer-key-0001 infer
metrics-key-01 metrics prometheus
operator-key-1 infer,admin,metrics operator
"""


class Keyed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.file = os.path.join(cls.folder.name, "keys")
        cls.log = os.path.join(cls.folder.name, "access")
        cls.write(KEYS)
        cls.daemon = Daemon("--keys-file", cls.file, "--access-log", cls.log)

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        cls.folder.cleanup()
        assert code == 0, f"exit code {code}"

    @classmethod
    def write(cls, text):
        with open(cls.file, "w") as file:
            file.write(text)

    def ask(self, path, key=None, form="Authorization", method="GET", body=b""):
        value = f"Bearer {key}" if form == "Authorization" else key
        return self.daemon.ask(method, path, body, [(form, value)] if key else [])

    def test_what_is_open_needs_no_key(self):
        self.assertEqual(self.ask("/healthz").status, 200)
        self.assertEqual(self.ask("/").status, 200)
        self.assertEqual(self.ask("/nowhere").status, 404)
        self.assertEqual(self.ask("/v1/classify", method="OPTIONS").status, 204)
        answer = self.ask("/v1/classify", method="OPTIONSX")
        self.assertEqual(answer.status, 405)
        self.assertIn("OPTIONSX is not a method of", answer.error())

    def test_no_key_or_a_wrong_one_is_401(self):
        for key in (None, "infer-key-0002", "x"):
            answer = self.ask("/v1/classify", key, method="POST", body=PIXELS)
            self.assertEqual(answer.status, 401)
            self.assertIn("API key", answer.error())
            self.assertEqual(answer.headers["www-authenticate"], 'Bearer realm="halutd"')
        self.assertEqual(self.ask("/metrics").status, 401)
        self.assertEqual(self.ask("/v1/models").status, 401)

    def test_a_key_opens_what_its_scopes_say(self):
        for form in ("Authorization", "X-API-Key"):
            answer = self.ask("/v1/classify", "infer-key-0001", form, "POST", PIXELS)
            self.assertEqual(answer.status, 200)
            answer = self.ask("/metrics", "infer-key-0001", form)
            self.assertEqual(answer.status, 403)
            self.assertIn("scope metrics", answer.error())
            self.assertNotIn("infer-key-0001", answer.error())
            self.assertEqual(self.ask("/metrics", "metrics-key-01", form).status, 200)
            self.assertEqual(self.ask("/v1/models", "metrics-key-01", form).status, 403)
            self.assertEqual(self.ask("/v1/models", "operator-key-1", form).status, 200)

    def test_refusals_are_counted_and_the_log_has_the_name_only(self):
        self.ask("/metrics")
        text = self.ask("/metrics", "operator-key-1").body.decode()
        count = int(next(line for line in text.splitlines() if
                         line.startswith("halutd_rejected_unauthorized_total ")).split()[1])
        self.assertGreater(count, 0)
        with open(self.log) as file:
            log = file.read()
        self.assertIn("operator", [json.loads(line).get("key") for line in log.splitlines()])
        self.assertNotIn("operator-key-1", log)

    def test_traces_are_passed_on(self):
        good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        bad = (good.upper(), good + "0", good.replace("00-4", "01-4"), "00-" + "0" * 32 + good[35:],
               good[:36] + "0" * 16 + good[52:], good.replace("-", "_"), "x")
        for text in (good, *bad):
            answer = self.daemon.ask("GET", "/healthz", headers=[("traceparent", text)])
            self.assertEqual(answer.headers.get("traceparent"), good if text == good else None)
        self.ask("/metrics", "operator-key-1")
        with open(self.log) as file:
            lines = [json.loads(line) for line in file]
        self.assertEqual([line["traceparent"] for line in lines if "traceparent" in line], [good])

    def test_a_refused_body_is_not_uploaded(self):
        with self.daemon.connect() as connection:
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 9000000\r\n\r\n")
            answer = read_answer(connection)
        self.assertEqual(answer.status, 401)
        self.assertEqual(answer.headers["connection"], "close")

    def test_a_signal_reads_the_file_again_and_a_bad_one_changes_nothing(self):
        def after_signal(words):
            before = self.daemon.said().count(words)
            self.daemon.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 30
            while self.daemon.said().count(words) == before and time.monotonic() < until:
                time.sleep(0.02)
            self.assertGreater(self.daemon.said().count(words), before, self.daemon.said())

        self.write("fresh-key-00001 metrics\n")
        after_signal("reloaded: 1 keys")
        self.assertEqual(self.ask("/metrics", "fresh-key-00001").status, 200)
        self.assertEqual(self.ask("/metrics", "metrics-key-01").status, 401)
        self.write("fresh-key-00002 metrics\nbad\n")
        after_signal("the keys are what they were")
        self.assertIn(f"{self.file}:2: must be", self.daemon.said())
        self.assertEqual(self.ask("/metrics", "fresh-key-00001").status, 200)
        self.write(KEYS)
        after_signal("reloaded: 3 keys")


class Startup(unittest.TestCase):
    def test_every_bad_line_is_in_the_report(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "keys")
            with open(file, "w") as stream:
                stream.write("long-enough-key write\nanother-long-one infer\nshort infer\n")
            done = subprocess.run([os.path.join(BUILD, "halutd"), "--models", os.path.dirname(PRODUCT), "--keys-file",
                                   file, "--check-config"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn(":1: no scope", done.stderr)
        self.assertIn(":3: a key has", done.stderr)


class Pages(unittest.TestCase):
    """Cross-origin resource sharing."""
    ALLOWED = "https://app.example.org"

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--cors-origins", f"{cls.ALLOWED},http://localhost:3000")
        cls.plain = Daemon(models=(PRODUCT,))

    @classmethod
    def tearDownClass(cls):
        assert cls.daemon.stop() == 0 and cls.plain.stop() == 0

    def preflight(self, daemon, origin, method="POST"):
        return daemon.ask("OPTIONS", "/v1/classify", headers=[("Origin", origin),
                                                               ("Access-Control-Request-Method", method)])

    def test_an_origin_of_the_list_may_read_answers_and_errors(self):
        for origin in (self.ALLOWED, "http://localhost:3000"):
            for path, status in (("/v1/models", 200), ("/nowhere", 404)):
                answer = self.daemon.ask("GET", path, headers=[("Origin", origin)])
                self.assertEqual(answer.status, status)
                self.assertEqual(answer.headers["access-control-allow-origin"], origin)
                self.assertIn("X-Request-Id", answer.headers["access-control-expose-headers"])
                self.assertEqual(answer.headers["vary"], "Origin")

    def test_a_preflight_is_answered(self):
        answer = self.preflight(self.daemon, self.ALLOWED)
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.headers["access-control-allow-origin"], self.ALLOWED)
        self.assertIn("POST", answer.headers["access-control-allow-methods"])
        self.assertIn("Authorization", answer.headers["access-control-allow-headers"])
        self.assertIn("access-control-max-age", answer.headers)

    def test_others_and_servers_without_a_list_say_nothing(self):
        for daemon, origin in ((self.daemon, "https://app.example.org.evil"), (self.daemon, "null"),
                               (self.plain, self.ALLOWED)):
            for answer in (daemon.ask("GET", "/healthz", headers=[("Origin", origin)]), self.preflight(daemon, origin)):
                self.assertFalse([name for name in answer.headers if name.startswith("access-control")])

    def test_no_pattern_is_an_origin(self):
        done = subprocess.run([os.path.join(BUILD, "halutd"), "--models", os.path.dirname(PRODUCT), "--cors-origins",
                               "https://a.example,*", "--check-config"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn('cors-origins: from "*"', done.stderr)


if __name__ == "__main__":
    unittest.main()
