#!/usr/bin/env python3
# test: resident memory with both models under load, what a worker adds to it, allocations of a request
# timeout: 120
"""Reads the daemon's high-water mark from /proc after every worker has computed, and counts its allocations."""
import concurrent.futures
import gzip
import os
import time
import unittest

from daemon import NETWORK, PIXELS, Daemon, npy
from oom import Control, request, sanitized

RESIDENT_MAX = 64 << 20
ALLOCATIONS_MAX = 8  # of a request to compute, beyond those of one that does not
MANY = 1 << 40

REQUESTS = (("/v1/classify", PIXELS), ("/v1/matmul", b'{"model":"signal","a":[[0,1,2,3,4,5,6,7]]}'))


def peak(daemon):
    with open(f"/proc/{daemon.process.pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def resident_max(workers):
    """Bytes that a daemon with so many workers has held at most, each having had its share of requests."""
    daemon = Daemon("--workers", str(workers))
    try:
        with concurrent.futures.ThreadPoolExecutor(4 * workers) as clients:
            made = [clients.submit(daemon.ask, "POST", *what) for _ in range(20 * workers) for what in REQUESTS]
            statuses = {one.result().status for one in made}
        held = peak(daemon)
    finally:
        daemon.stop()
    if statuses != {200}:
        raise AssertionError(statuses)
    return held


def matmul(rows):
    return request("POST", "/v1/matmul?model=signal", npy([0.5] * 8 * rows, 8))


def allocations(daemon, control, raw):
    """Of one request and its connection: the least of a few, for the log and the metrics grow now and then."""
    made = []
    for _ in range(5):
        control.set(MANY)
        answer = daemon.send(raw)
        time.sleep(0.01)  # what comes after the answer
        made.append(MANY - control.left())
        control.set(0)
        if answer.status != 200:
            raise AssertionError(answer.body)
    return min(made)


class Memory(unittest.TestCase):
    def setUp(self):
        if sanitized():
            self.skipTest("a sanitizer keeps memory of its own")

    def test_both_models_fit(self):
        self.assertLess(resident_max(2), RESIDENT_MAX)

    def test_workers_share_tables(self):
        a_worker = (resident_max(5) - resident_max(1)) / 4
        self.assertLess(a_worker, os.path.getsize(NETWORK) / 2)

    def test_numbers_beyond_the_shape_cost_nothing(self):
        """Thirty million of them compress to a few kilobytes."""
        numbers = b"[0" + b",0" * (30 << 20) + b"]"
        before = b'{"inputs":[{"name":"a","shape":[1,8],"datatype":"FP64","data":'
        daemon = Daemon("--tensor-total-max", "1M", "--body-inflated-max", "64M", "--workers", "1")
        try:
            for path, body, words in (("/v2/models/signal/infer", before + numbers + b"}]}", "but 'data' has 31457281"),
                                      ("/v1/matmul", b'{"model":"signal","a":' + numbers + b"}", "tensor-total-max"),
                                      ("/v1/classify", b'{"instances":' + numbers + b"}", "tensor-total-max")):
                answer = daemon.ask("POST", path, gzip.compress(body, 9), [("Content-Encoding", "gzip")])
                self.assertIn(answer.status, (400, 413), path)
                self.assertIn(words, answer.error())
            self.assertLess(peak(daemon), RESIDENT_MAX + (64 << 20) + (1 << 20))
        finally:
            self.assertEqual(daemon.stop(), 0)

    def test_a_request_allocates_alike_for_any_rows(self):
        """On arrival and for its reply; that computing never does is shown by check_oom."""
        with Control() as control:
            daemon = Daemon("--workers", "1")
        try:
            nothing = allocations(daemon, control, request("GET", "/healthz"))
            self.assertGreater(nothing, 0)
            picture = allocations(daemon, control, request("POST", "/v1/classify", PIXELS))
            self.assertLessEqual(picture, nothing + ALLOCATIONS_MAX)
            one, many = (allocations(daemon, control, matmul(rows)) for rows in (1, 200))
            self.assertLessEqual(one, nothing + ALLOCATIONS_MAX)
            self.assertEqual(many, one)
        finally:
            daemon.stop()


if __name__ == "__main__":
    unittest.main()
