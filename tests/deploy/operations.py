#!/usr/bin/env python3
# test: the operations guide names every limit with its default, and only metrics that there are
# timeout: 60
"""deploy/README.md is compared with `halutd --print-config` and with the daemon's own metrics."""
import os
import re
import subprocess
import sys
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "server"))
from daemon import BUILD, PIXELS, Daemon  # noqa: E402


class Guide(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(os.path.join(TOP, "deploy", "README.md")) as file:
            cls.text = file.read()
        done = subprocess.run([os.path.join(BUILD, "halutd"), "--print-config"], capture_output=True, text=True,
                              check=True)
        cls.settings = dict(line.replace('"', "").split(" = ") for line in done.stdout.splitlines() if " = " in line)

    def test_every_limit_is_there_with_its_default(self):
        told = {}
        for row in re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (`\w+`(?:, `\w+`)*) \|", self.text, re.M):
            names, values = ([word.strip("`") for word in cell.split(", ")] for cell in row)
            self.assertEqual(len(names), len(values), row)
            told.update(zip(names, values))
        limits = {name: value for name, value in self.settings.items() if re.search(r"-max$|-ms$", name)}
        self.assertGreater(len(limits), 25)
        self.assertEqual(told, limits)

    def test_other_settings_are_ones_that_there_are(self):
        for name, value in re.findall(r"`([a-z-]+) = ([^`]+)`", self.text):
            done = subprocess.run([os.path.join(BUILD, "halutd"), "--print-config", f"--{name}", value,
                                   *(["--backend", "both"] if name == "shadow" else [])],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_metrics_are_ones_that_there_are(self):
        daemon = Daemon()
        try:
            self.assertEqual(daemon.ask("POST", "/v1/classify", PIXELS).status, 200)
            metrics = daemon.ask("GET", "/metrics").body.decode()
        finally:
            self.assertEqual(daemon.stop(), 0)
        with open(os.path.join(TOP, "server", "metrics.c")) as file:
            metrics += file.read()  # those that only TLS has
        for name in set(re.findall(r"halutd_[a-z_]+", self.text)):
            self.assertTrue(name.removeprefix("halutd_") in metrics, name)

    def test_what_is_no_http_is_answered_as_it_says(self):
        daemon = Daemon()
        try:
            start = b"GET /healthz HTTP/1.1\r\nHost: t\r\n"
            for status, raw in ((400, b"\1 junk\r\n\r\n"), (400, start + b"nocolon\r\n\r\n"),
                                (400, start + b"Content-Length: 5x\r\n\r\n"),
                                (400, start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
                                (414, b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: t\r\n\r\n"),
                                (431, start + b"X: " + b"a" * 40000 + b"\r\n\r\n"),
                                (505, b"GET / HTTP/2.0\r\nHost: t\r\n\r\n")):
                with daemon.connect() as connection:
                    data = b""
                    try:
                        connection.sendall(raw)
                        while more := connection.recv(65536):
                            data += more
                    except ConnectionResetError:
                        pass  # after the answer: it did not read all
                self.assertTrue(data.startswith(b"HTTP/1.1 %d " % status), data[:40])
                self.assertIn(b"<html", data)
        finally:
            self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    unittest.main()
