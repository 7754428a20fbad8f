#!/usr/bin/env python3
# test: idle workers take half of another's batch: the same bytes, and nobody waits for them
"""One worker is asked one by one, while others are idle, and then by many clients at a time."""
import json
import os
import threading
import unittest

from daemon import PIXELS, TOP, Daemon

WIDE = os.path.join(TOP, "models", "golden", "product-wide.safetensors")


def picture(number):
    return bytes((value * (number + 1) + number) % 256 for value in PIXELS)


def helped(daemon):
    """Lookups that a helping worker did."""
    lines = daemon.ask("GET", "/metrics").body.decode().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("halutd_helped_lookups_total{"))


def answers(daemon, numbers):
    """The ranking that pictures get, one by one."""
    got = []
    for number in numbers:
        answer = daemon.ask("POST", "/v1/classify?top=10", picture(number))
        assert answer.status == 200, answer.body
        got.append(json.loads(answer.body)["top"])
    return got


class Lending(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.alone = Daemon("--workers", "3", "--lend", "off")
        cls.wanted = answers(cls.alone, range(12))

    @classmethod
    def tearDownClass(cls):
        assert helped(cls.alone) == 0
        assert cls.alone.stop() == 0

    def test_a_picture_is_shared_and_comes_out_the_same(self):
        daemon = Daemon("--workers", "2", "--lend", "on")
        for _ in range(200):  # on one busy processor the other worker may come too late
            self.assertEqual(answers(daemon, range(12)), self.wanted)
            if helped(daemon) > 0:
                break
        self.assertGreater(helped(daemon), 0)
        self.assertEqual(daemon.stop(), 0)

    def test_a_product_is_shared_and_comes_out_the_same(self):
        rows = [[(row * 7 + column * 3) % 41 - 20 for column in range(700)] for row in range(900)]
        body = json.dumps({"a": rows}).encode()
        got = {}
        for lend in ("off", "on"):
            daemon = Daemon("--workers", "2", "--batch-max", "1024", "--lend", lend, models=(WIDE,))
            for _ in range(100):
                answer = daemon.ask("POST", "/v1/matmul", body)
                self.assertEqual(answer.status, 200, answer.body[:200])
                got.setdefault(lend, json.loads(answer.body)["c"])
                self.assertEqual(json.loads(answer.body)["c"], got[lend])
                if lend == "off" or helped(daemon) > 0:
                    break
            self.assertEqual(helped(daemon) > 0, lend == "on")
            self.assertEqual(daemon.stop(), 0)
        self.assertEqual(got["on"], got["off"])

    def test_many_clients_get_their_own_answers(self):
        daemon, wrong = Daemon("--workers", "3", "--lend", "on"), []

        def client(first):
            numbers = [(first + step) % 12 for step in range(12)]
            if answers(daemon, numbers) != [self.wanted[number] for number in numbers]:
                wrong.append(first)

        clients = [threading.Thread(target=client, args=(first,)) for first in range(6)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertEqual(daemon.stop(), 0)

    def test_one_worker_has_nobody_to_ask(self):
        daemon = Daemon("--workers", "1", "--lend", "on")
        self.assertEqual(answers(daemon, range(3)), self.wanted[:3])
        self.assertEqual(helped(daemon), 0)
        self.assertEqual(daemon.stop(), 0)

    def test_auto_lends_where_each_worker_has_a_processor(self):
        daemon = Daemon("--workers", str(len(os.sched_getaffinity(0)) + 1))
        self.assertEqual(answers(daemon, range(12)), self.wanted)
        self.assertEqual(helped(daemon), 0)
        self.assertEqual(daemon.stop(), 0)

    def test_by_default_there_is_a_worker_for_each_processor_it_may_use(self):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            daemon = Daemon()
        finally:
            os.sched_setaffinity(0, allowed)
        self.assertIn("halutd_workers 1\n", daemon.ask("GET", "/metrics").body.decode())
        self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    unittest.main()
