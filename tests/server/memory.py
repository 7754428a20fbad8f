#!/usr/bin/env python3
# test: resident memory with both shipped models under load, and what one more worker adds to it
# timeout: 120
"""Reads the daemon's high-water mark from /proc after every worker has computed."""
import concurrent.futures
import os
import unittest

from daemon import NETWORK, PIXELS, Daemon
from oom import sanitized

RESIDENT_MAX = 64 << 20


REQUESTS = (("/v1/classify", PIXELS), ("/v1/matmul", b'{"model":"signal","a":[[0,1,2,3,4,5,6,7]]}'))


def resident_max(workers):
    """Bytes that a daemon with so many workers has held at most, each having had its share of requests."""
    daemon = Daemon("--workers", str(workers))
    try:
        with concurrent.futures.ThreadPoolExecutor(4 * workers) as clients:
            made = [clients.submit(daemon.ask, "POST", *what) for _ in range(20 * workers) for what in REQUESTS]
            statuses = {one.result().status for one in made}
        with open(f"/proc/{daemon.process.pid}/status") as status:
            held = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    finally:
        daemon.stop()
    if statuses != {200}:
        raise AssertionError(statuses)
    return held


class Memory(unittest.TestCase):
    def setUp(self):
        if sanitized():
            self.skipTest("a sanitizer keeps memory of its own")

    def test_both_models_fit(self):
        self.assertLess(resident_max(2), RESIDENT_MAX)

    def test_workers_share_tables(self):
        a_worker = (resident_max(5) - resident_max(1)) / 4
        self.assertLess(a_worker, os.path.getsize(NETWORK) / 2)


if __name__ == "__main__":
    unittest.main()
