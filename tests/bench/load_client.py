#!/usr/bin/env python3
# test: the open-loop client of bench-http counts every answer, and ends with an error where one is wrong
"""tests/bench/load.c against a server of this file, which counts what it was asked and can misbehave."""
import json
import os
import socket
import subprocess
import tempfile
import threading
import unittest

LOAD = os.path.join(os.environ.get("HALUT_BUILD", "build"), "tests", "bench", "load")
BODY = bytes(range(256))
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345"


class Server:
    """Gives each request of each connection what `answer` says to its number, from 1; None closes the connection."""

    def __init__(self, answer):
        self.answer, self.asked, self.wrong, self.lock = answer, 0, 0, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with peer, peer.makefile("rb") as lines:
            while first := lines.readline():
                length = 0
                while (line := lines.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = lines.read(length)
                with self.lock:
                    self.asked += 1
                    self.wrong += first != b"POST /some/path HTTP/1.1\r\n" or body != BODY
                    answer = self.answer(self.asked)
                if answer is None:
                    return
                peer.sendall(answer)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Load(unittest.TestCase):
    def load(self, port, rate="200", seconds="0.5", connections="4", body=BODY):
        with tempfile.NamedTemporaryFile() as file:
            file.write(body)
            file.flush()
            return subprocess.run([LOAD, str(port), "/some/path", file.name, rate, seconds, connections],
                                  capture_output=True, text=True, timeout=60, check=False)

    def serve(self, answer):
        server = Server(answer)
        self.addCleanup(server.close)
        return server

    def test_counts_every_answer(self):
        server = self.serve(lambda number: GOOD)
        done = self.load(server.port)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        figures = json.loads(done.stdout)
        self.assertEqual((figures["answers"], server.asked, server.wrong), (100, 100, 0))
        order = [figures[name] for name in ("p50_us", "p90_us", "p99_us", "p999_us", "most_us")]
        self.assertEqual(order, sorted(order))
        self.assertGreater(order[0], 0)
        self.assertGreater(figures["seconds"], 0.49)

    def test_a_wait_for_a_connection_counts(self):
        """One connection, whose first answer is late: those due meanwhile are late as well."""
        pause = threading.Event()

        def answer(number):
            if number == 1:
                pause.wait(0.5)
            return GOOD

        done = self.load(self.serve(answer).port, rate="100", seconds="0.2", connections="1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(json.loads(done.stdout)["p50_us"], 300000)

    def test_what_is_no_answer_ends_it(self):
        for answer, said in ((b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "not an answer of 200"),
                             (b"HTTP/1.1 200 OK\r\n\r\n", "not an answer of 200"),
                             (GOOD + b"6", "too long"), (GOOD + GOOD, "too long"), (None, "end of file")):
            with self.subTest(answer=answer):
                server = self.serve(lambda number, answer=answer: answer if number == 50 else GOOD)
                done = self.load(server.port)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertIn(said, done.stderr)

    def test_refused_connection(self):
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1]
        done = self.load(port)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("connection refused", done.stderr)

    def test_bad_numbers(self):
        for options in ({"rate": "0"}, {"rate": "x"}, {"seconds": "-1"}, {"connections": "1e9"}, {"seconds": "0.001"}):
            with self.subTest(options=options):
                done = self.load(1, **options)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertTrue(done.stderr.startswith("load: "), done.stderr)


if __name__ == "__main__":
    unittest.main()
