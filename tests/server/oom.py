#!/usr/bin/env python3
# test: each allocation of a running daemon fails in turn: it answers or closes, leaks nothing, and goes on
# timeout: 300
"""Preloads tests/failmalloc.c into the daemon and steers it through a mapped file."""
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from daemon import BUILD, NETWORK, PIXELS, PRODUCT, Daemon, npy, png

LIBRARY = os.path.join(BUILD, "tests", "failmalloc.so")
START_SAMPLES = 60  # failed starts; all of the first ones, then evenly spread


def sanitized():
    """Sanitizers have allocators of their own, which must not be replaced under them."""
    with open(os.path.join(BUILD, "halutd"), "rb") as file:
        data = file.read()
    return b"__asan_init" in data or b"__tsan_init" in data


class Control:
    def __init__(self):
        self.file = tempfile.NamedTemporaryFile()
        self.file.write(bytes(16))
        self.file.flush()
        self.map = mmap.mmap(self.file.fileno(), 16)

    def __enter__(self):
        os.environ.update(LD_PRELOAD=LIBRARY, HALUT_FAILMALLOC=self.file.name)
        return self

    def __exit__(self, *_):
        del os.environ["LD_PRELOAD"], os.environ["HALUT_FAILMALLOC"]

    def set(self, fail_at):
        self.map[0:8] = struct.pack("<q", fail_at)

    def left(self):
        return struct.unpack("<q", self.map[0:8])[0]

    def live(self):
        return struct.unpack("<q", self.map[8:16])[0]


def request(method, path, body=b"", headers=()):
    head = f"{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    return (head + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n").encode() + body


FORM = (b"--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n" + PIXELS + b"\r\n--x--\r\n",
        [("Content-Type", "multipart/form-data; boundary=x")])
NUMBERS = json.dumps({"instances": [list(PIXELS)]}).encode()
REQUESTS = {
    "raw": request("POST", "/v1/classify", PIXELS),
    "png": request("POST", "/v1/classify", png(40, 32)),
    "form": request("POST", "/v1/classify", *FORM),
    "json": request("POST", "/v1/classify", NUMBERS),
    "predict": request("POST", "/v1/models/resnet9-cifar10:predict", NUMBERS),
    "matmul": request("POST", "/v1/matmul", b'{"model":"signal","a":[[0,1,2,3,4,5,6,7]]}'),
    "npy": request("POST", "/v1/matmul", npy([0.5] * 8, 8)),
    "infer": request("POST", "/v2/models/signal/infer", json.dumps({"inputs": [
        {"name": "a", "datatype": "FP32", "shape": [1, 8], "data": [0.5] * 8}]}).encode()),
    "metrics": request("GET", "/metrics"),
    "models": request("GET", "/v1/models"),
    "nowhere": request("GET", "/nowhere"),
    "chunked": b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
               b"c00\r\n" + PIXELS + b"\r\n0\r\n\r\n",
}


@unittest.skipIf(sanitized(), "the sanitizer's allocator cannot be replaced")
class Failing(unittest.TestCase):
    def settle(self, control, wanted):
        """Waits until no more than `wanted` allocations live."""
        deadline = time.time() + 5
        while control.live() > wanted and time.time() < deadline:
            time.sleep(0.01)
        return control.live()

    def test_requests(self):
        with Control() as control:
            daemon = Daemon("--workers", "1")
        for name, raw in REQUESTS.items():
            with self.subTest(name):
                for _ in range(2):
                    answer = daemon.send(raw)  # what is kept from the first time is not a leak
                good = answer.status
                time.sleep(0.05)
                before = control.live()
                refused = 0
                for n in range(1, 400):
                    control.set(n)
                    answer = daemon.send(raw)
                    is_over = control.left() > 0
                    control.set(0)
                    self.assertIsNone(daemon.process.poll(), f"allocation {n}: {daemon.said()}")
                    if answer is not None:
                        self.assertIn(answer.status, (good, 503), f"allocation {n}: {answer.body}")
                        refused += answer.status == 503
                        if answer.status == 503:
                            self.assertIn("memory", answer.error())
                    self.assertLessEqual(self.settle(control, before), before, f"allocation {n} leaks")
                    if is_over:
                        break
                self.assertTrue(is_over, "a request of 400 allocations")
                self.assertEqual(answer.status, good)
                if b"POST" in raw:
                    self.assertGreater(refused, 0)
        self.assertEqual(daemon.stop(), 0)

    def test_reloads(self):
        with Control() as control:
            daemon = Daemon("--workers", "1", models=[PRODUCT])
        path = os.path.join(daemon.folder, os.path.basename(PRODUCT))
        for n in range(1, 200, 3):
            shutil.copy(path, path + ".new")
            os.rename(path + ".new", path)  # another file: it is opened again
            control.set(n)
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.03)
            control.set(0)
            answer = daemon.ask("POST", "/v1/matmul", b'{"a":[[0,1,2,3,4,5,6,7]]}')
            self.assertEqual((answer and answer.status), 200, f"allocation {n}: {daemon.said()}")
        self.assertIn("memory", daemon.said())
        self.assertEqual(daemon.stop(), 0)

    def test_starts_and_stops(self):
        folder = tempfile.mkdtemp()
        shutil.copy(PRODUCT, folder)
        command = [os.path.join(BUILD, "halutd"), "--listen", "127.0.0.1:0", "--models", folder, "--workers", "1"]

        def run(control, at_start, at_stop):
            """The exit code, what was said, whether it got ready, and how many allocations were left to go."""
            control.set(at_start)
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            line = process.stdout.readline()
            left = control.left()
            control.set(at_stop if line else 0)
            process.terminate() if line else None
            _, said = process.communicate(timeout=30)
            return process.returncode, said, bool(line), left

        many = 1 << 40
        with Control() as control:
            code, _, is_ready, left = run(control, many, 0)
            self.assertTrue(is_ready and code == 0)
            total = many - left
            at_rest = control.live()
            step = max(1, (total - START_SAMPLES // 2) // (START_SAMPLES // 2))
            for n in [*range(1, START_SAMPLES // 2), *range(START_SAMPLES // 2, total + 1, step)]:
                code, said, is_ready, _ = run(control, n, 0)
                self.assertIn(code, (0, 1, 2), f"allocation {n} of {total}: {said}")
                self.assertTrue(said or is_ready, f"allocation {n} of {total}: nothing is said")
                self.assertLessEqual(control.live(), at_rest, f"allocation {n} of {total} leaks: {said}")
            for n in range(1, 12):
                code, said, _, _ = run(control, 0, n)
                self.assertEqual(code, 0, f"stopping, allocation {n}: {said}")
                self.assertLessEqual(control.live(), at_rest, f"stopping, allocation {n} leaks")
        shutil.rmtree(folder)


if __name__ == "__main__":
    if not os.path.exists(NETWORK):
        sys.exit("the shipped network is missing")
    unittest.main()
