#!/usr/bin/env python3
# test: several workers of one daemon on the accelerator; an accelerator that falls silent, and recovers
# timeout: 300
"""Needs HALUT_BUILD/tests/rtl/halutd_silent, the daemon with the device of tests/rtl/silent.c."""
import concurrent.futures
import json
import os
import random
import subprocess
import tempfile
import time
import unittest

from daemon import BUILD, NETWORK, PRODUCT, TOP, Daemon, needs_accelerator

RESIDUAL = os.path.join(TOP, "models", "golden", "residual.safetensors")
SILENT = os.path.join(BUILD, "tests", "rtl", "halutd_silent")
WORKERS = 4


def worker_ticks(process):
    """Processor time of each thread that computes, in clock ticks."""
    ticks = []
    for thread in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{thread}/stat") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
        if name.startswith("worker"):
            ticks.append(int(rest.split()[11]) + int(rest.split()[12]))
    return ticks


class Workers(unittest.TestCase):
    def test_all_workers_give_the_digests_of_the_kernels(self):
        needs_accelerator(self)
        daemon = Daemon("--backend", "both", "--workers", str(WORKERS), "--batch-max", "1",
                        "--compute-timeout-ms", "200000", models=[NETWORK])  # the thread sanitizer is slow
        for _ in range(200):  # a thread takes its name when it first runs
            before = worker_ticks(daemon.process.pid)
            if len(before) == WORKERS:
                break
            time.sleep(0.05)
        self.assertEqual(len(before), WORKERS)
        generator = random.Random(5)
        images = [generator.randbytes(3072) for _ in range(3)]

        def compared(image):
            answer = daemon.ask("POST", "/v1/classify?compare=true&backend=rtl", image, timeout=200)
            return answer.status, answer.json()["compare"]

        with concurrent.futures.ThreadPoolExecutor(WORKERS + 2) as clients:
            answers = list(clients.map(compared, images * 6))
        digests = [set() for _ in images]
        for n, (status, compare) in enumerate(answers):
            self.assertEqual(status, 200)
            self.assertTrue(compare["identical"], compare)
            digests[n % len(images)].update(compare["sha256"].values())
        self.assertEqual([len(of_image) for of_image in digests], [1] * len(images))
        self.assertEqual(len(set.union(*digests)), len(images))  # they tell the images apart
        after = worker_ticks(daemon.process.pid)
        self.assertTrue(all(b > a for a, b in zip(before, after)), f"a worker sat idle: {before} {after}")
        self.assertEqual(daemon.stop(), 0)


class Silent(unittest.TestCase):
    """While the file exists, no output beat is ever valid."""

    def setUp(self):
        needs_accelerator(self)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = os.path.join(folder.name, "silent")
        os.environ["HALUT_SILENT"] = self.file
        self.addCleanup(os.environ.pop, "HALUT_SILENT")

    def fall_silent(self):
        with open(self.file, "w"):
            pass

    def test_a_request_ends_in_an_error_and_the_next_is_right(self):
        daemon = Daemon("--backend", "both", "--workers", "2", models=[RESIDUAL, PRODUCT], program=SILENT)
        requests = (("/v1/matmul", json.dumps({"backend": "rtl", "a": [[0, 1, 2, 3, 4, 5, 6, 7]] * 9}).encode()),
                    ("/v1/classify?backend=rtl&top=4", bytes(range(256)) * 3))
        for path, body in requests:
            for path in (path, path + ("&" if "?" in path else "?") + "timing=layers"):
                right = daemon.ask("POST", path, body)
                self.assertEqual(right.status, 200, right.body)
                self.fall_silent()
                begin = time.monotonic()
                for _ in range(3):
                    wrong = daemon.ask("POST", path, body)
                    self.assertEqual(wrong.status, 504, wrong.body)
                    self.assertEqual(wrong.error(), "computing failed: the accelerator does not answer: not "
                                     "done within its cycle budget")
                self.assertLess(time.monotonic() - begin, 9)  # below compute-timeout-ms, which would say 504 as well
                answer = daemon.ask("POST", path.replace("rtl", "cpu"), body.replace(b"rtl", b"cpu"))
                self.assertEqual(answer.status, 200, answer.body)
                os.unlink(self.file)
                again = daemon.ask("POST", path, body)
                self.assertEqual(again.status, 200, again.body)
                for key in ("top", "c"):
                    self.assertEqual(again.json().get(key), right.json().get(key))
        self.assertEqual(daemon.stop(), 0)

    def test_the_daemon_does_not_start_on_a_device_that_hangs(self):
        self.fall_silent()
        done = subprocess.run([SILENT, "--backend", "rtl", "--models", os.path.dirname(RESIDUAL), "--check-config"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("golden example 0: the accelerator does not answer: not done within its cycle budget",
                      done.stderr)


if __name__ == "__main__":
    unittest.main()
