#!/usr/bin/env python3
# test: limits of requests, connections and queues: each is reached, named and holds exactly
# timeout: 200
# sanitizers: asan, it waits for the reference kernels, in the other build longer than its client does
"""Each limit is an option; a request at it passes, one past it gets a JSON answer that names it."""
import base64
import gzip
import json
import os
import re
import socket
import struct
import tempfile
import threading
import time
import unittest

from daemon import NETWORK, PIXELS, PRODUCT, Daemon, read_answer


def gauge(daemon, name):
    text = daemon.ask("GET", "/metrics").body.decode()
    return int(re.search(rf"^halutd_{name} (\d+)$", text, re.M)[1])


def slow_request(count):
    """`count` pictures in one request: path, body, headers."""
    head = json.dumps({"inputs": [{"name": "image", "shape": [count, 3, 32, 32], "datatype": "UINT8",
                                   "parameters": {"binary_data_size": 3072 * count}}]}).encode()
    return ("/v2/models/resnet9-cifar10/infer", head + PIXELS * count,
            [("Inference-Header-Content-Length", str(len(head)))])


class Limits(unittest.TestCase):
    def start(self, *options, models=(PRODUCT,)):
        daemon = Daemon(*options, models=models)
        self.addCleanup(lambda: daemon.process.poll() is None and daemon.stop())
        return daemon

    def start_twins(self, *options):
        """Two networks that differ in name: the second is resnet9-cifar11."""
        with tempfile.TemporaryDirectory() as folder:
            twin = os.path.join(folder, "twin.safetensors")
            with open(NETWORK, "rb") as file, open(twin, "wb") as copy:
                copy.write(file.read().replace(b'"resnet9-cifar10"', b'"resnet9-cifar11"'))
            return self.start(*options, models=(NETWORK, twin))

    def headers(self, daemon, count, size):
        """A request of `count` headers with `size` bytes in all of their names and values."""
        pairs = [("Host", "t")] + [(f"X-{i:04}", "v") for i in range(count - 2)]
        used = sum(len(name) + len(value) for name, value in pairs)
        pairs.append(("X-Fill", "f" * (size - used - 6)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        return daemon.send(f"GET /healthz HTTP/1.1\r\n{lines}\r\n".encode())

    def test_headers(self):
        for options, count, size in (((), 64, 6144), (("--headers-max", "10", "--header-bytes-max", "1K"), 10, 1024),
                                     (("--header-bytes-max", "8K"), 64, 8192), (("--headers-max", "128"), 128, 6144)):
            daemon = self.start(*options)
            self.assertEqual(self.headers(daemon, count, size).status, 200)
            for answer, name in ((self.headers(daemon, count + 1, size), "headers-max"),
                                 (self.headers(daemon, count, size + 1), "header-bytes-max")):
                self.assertEqual(answer.status, 431)
                self.assertIn(name, answer.error())
                self.assertEqual(answer.headers["connection"], "close")

    def test_requests_of_a_connection(self):
        daemon = self.start("--requests-per-connection-max", "3")
        with daemon.connect() as connection:
            for i in range(3):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
                answer = read_answer(connection)
                self.assertEqual(answer.status, 200)
                self.assertEqual(answer.headers.get("connection"), "close" if i == 2 else None)
            self.assertEqual(connection.recv(1), b"")

    def test_requests_of_a_model(self):
        """One model is kept busy by slow requests; another stays open to all. The name comes in the path or the
        body, which a worker reads."""
        most, clients = 3, 12
        picture = {"b64": base64.b64encode(PIXELS).decode()}
        named = json.dumps({"model": "resnet9-cifar10", "instances": [picture] * 4}).encode()
        for forms in ([slow_request(8)], [("/v1/classify", named, [])]):
            daemon = self.start("--model-queue-max", str(most), "--workers", "2", "--cpu", "ref",
                                "--compute-timeout-ms", "200000", models=(NETWORK, PRODUCT))
            answers, others = [], []
            threads = [threading.Thread(target=lambda: answers.append(daemon.ask("POST", *forms[0])))
                       for _ in range(clients)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                others.append(daemon.ask("POST", "/v1/matmul?model=signal", b'{"a":[[1,2,3,4,5,6,7,8]]}').status)
            self.assertEqual(set(others), {200})
            codes = [answer.status for answer in answers]
            if forms[0][0].startswith("/v2"):
                self.assertEqual(set(codes), {200, 503}, codes)
            refused = [answer for answer in answers if answer.status == 503]
            for answer in refused:
                self.assertIn("model-queue-max", answer.error())
                self.assertEqual(answer.headers["retry-after"], "1")
            self.assertEqual(gauge(daemon, "rejected_queue_full_total"), len(refused))
            for _ in range(most + 1):  # what was counted was given back
                self.assertEqual(daemon.ask("POST", *slow_request(1)).status, 200)
            self.assertEqual(daemon.stop(), 0)

    def test_the_last_place_of_a_model(self):
        daemon = self.start("--model-queue-max", "3", "--workers", "1", "--cpu", "ref", "--compute-timeout-ms",
                            "200000", models=(NETWORK,))
        path, body, headers = slow_request(8)
        slow = [threading.Thread(target=daemon.ask, args=("POST", path, body, headers, 200)) for _ in range(3)]
        for thread in slow:
            thread.start()
        until = time.monotonic() + 200
        while gauge(daemon, "requests_in_progress") < 3:
            self.assertLess(time.monotonic(), until)
        self.assertEqual(daemon.ask("POST", "/v1/classify?model=resnet9-cifar10", PIXELS).status, 503)
        for thread in slow:
            thread.join()
        self.assertEqual(daemon.ask("POST", "/v1/classify?model=resnet9-cifar10", PIXELS).status, 200)

    def test_bytes_of_all_bodies(self):
        """Bodies of no picture: one that there is room for is read and answered 400."""
        daemon = self.start("--body-max", "1M", "--body-total-max", "2M", models=(NETWORK,))
        head = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n"
        held = [daemon.connect() for _ in range(2)]
        for connection in held:
            connection.sendall(head + bytes(900000))
        self.held(daemon, 2000000)
        answer = daemon.ask("POST", "/v1/classify", bytes(1000000))
        self.assertEqual(answer.status, 503)
        self.assertIn("body-total-max", answer.error())
        for connection in held:
            connection.sendall(bytes(100000))
            self.assertEqual(read_answer(connection).status, 400)
            connection.close()
        for _ in range(5):  # what was taken was given back
            self.assertEqual(daemon.ask("POST", "/v1/classify", bytes(1000000)).status, 400)

    def held(self, daemon, wanted):
        """What bodies hold is that, as soon as the last answer has left."""
        end = time.monotonic() + 5
        while gauge(daemon, "body_bytes_held") != wanted and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(gauge(daemon, "body_bytes_held"), wanted)

    def test_all_bodies_to_the_last_byte(self):
        """One request holds 40,000 of 65,536 bytes; what is left is given to the last byte, refused past it and given
        back after each answer."""
        daemon = self.start("--body-max", "64K", "--body-total-max", "64K")
        product, left = b'{"a":[[1,2,3,4,5,6,7,8]]}', 65536 - 40000
        with daemon.connect() as holder:
            holder.sendall(b"POST /v1/matmul HTTP/1.1\r\nHost: t\r\nContent-Length: 40000\r\n\r\n{")
            self.held(daemon, 40000)
            head = b"POST /v1/matmul HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
            long = head + b"7000\r\n" + b" " * 0x7000 + b"\r\n0\r\n\r\n"
            for i in range(1, 4):
                self.assertEqual(daemon.ask("POST", "/v1/matmul", product.ljust(left)).status, 200)
                self.held(daemon, 40000)
                for answer in (daemon.ask("POST", "/v1/matmul", product.ljust(left + 1)), daemon.send(long)):
                    self.assertEqual(answer.status, 503, answer.body)
                    self.assertIn("body-total-max", answer.error())
                    self.assertEqual(answer.headers["retry-after"], "1")
                self.held(daemon, 40000)
                self.assertEqual(gauge(daemon, "rejected_memory_total"), 2 * i)
        self.held(daemon, 0)
        self.assertEqual(daemon.stop(), 0)

    def test_bytes_of_all_tensors(self):
        """A picture is 3,072 bytes and its answer 40, twice: 300 of them nearly fill a megabyte."""
        daemon = self.start("--tensor-total-max", "1M", "--workers", "2", "--cpu", "ref", "--compute-timeout-ms",
                            "200000", models=(NETWORK,))
        path, body, headers = slow_request(333)
        answer = daemon.ask("POST", path, body, headers)
        self.assertEqual(answer.status, 413)
        self.assertIn("333 rows need 1049616 bytes, tensor-total-max is 1048576", answer.error())
        answers = []
        slow = threading.Thread(target=lambda: answers.append(daemon.ask("POST", *slow_request(300), 200)))
        slow.start()
        until = time.monotonic() + 200
        while (held := gauge(daemon, "tensor_bytes_held")) != 300 * 3152:  # at first of the numbers alone
            self.assertIn(held, (0, 300 * 3072))
            self.assertLess(time.monotonic(), until)
        answer = daemon.ask("POST", *slow_request(40))
        self.assertEqual(answer.status, 503)
        self.assertIn("tensor-total-max; try again", answer.error())
        self.assertEqual(answer.headers["retry-after"], "1")
        self.assertEqual(gauge(daemon, "rejected_memory_total"), 1)
        slow.join()
        self.assertEqual(answers[0].status, 200)
        self.assertEqual(daemon.ask("POST", *slow_request(4)).status, 200)
        self.assertEqual(gauge(daemon, "tensor_bytes_held"), 0)
        self.assertEqual(daemon.stop(), 0)

    def test_computing_stops_when_time_is_up(self):
        daemon = self.start("--workers", "1", "--cpu", "ref", "--compute-timeout-ms", "100", "--batch-max", "4",
                            models=(NETWORK,))
        answer = daemon.ask("POST", *slow_request(300))
        self.assertEqual(answer.status, 504)
        self.assertIn("the request took longer than compute-timeout-ms", answer.error())
        self.assertEqual(gauge(daemon, "timed_out_total"), 1)
        self.assertEqual(daemon.ask("POST", "/v1/classify", PIXELS).status, 200)
        self.assertEqual(daemon.stop(), 0)

    def test_requests_that_name_their_model_in_the_body(self):
        """With two networks only a worker learns which is meant; what it then refuses is counted as well."""
        daemon = self.start_twins("--model-queue-max", "1", "--workers", "1", "--cpu", "ref", "--model-default", "off")
        picture = {"b64": base64.b64encode(PIXELS).decode()}
        body = json.dumps({"model": "resnet9-cifar10", "image": picture}).encode()
        request = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        answers = []
        for _ in range(20):  # until several wait while one is computed
            connections = [daemon.connect() for _ in range(12)]
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                answers.append(read_answer(connection))
                connection.close()
            if any(answer.status == 503 for answer in answers):
                break
        refused = [answer for answer in answers if answer.status == 503]
        self.assertTrue(refused)
        self.assertEqual({answer.status for answer in answers}, {200, 503})
        for answer in refused:
            self.assertIn("model-queue-max", answer.error())
        self.assertEqual(gauge(daemon, "rejected_queue_full_total"), len(refused))
        self.assertEqual(daemon.ask("POST", "/v1/classify", body).status, 200)  # given back
        self.assertEqual(daemon.stop(), 0)

    def test_requests_for_the_default_model_wait_in_its_queue_only(self):
        daemon = self.start_twins("--model-queue-max", "1", "--workers", "1", "--cpu", "ref", "--batch-max", "1",
                                  "--compute-timeout-ms", "200000", "--model-default", "resnet9-cifar11")
        self.assertEqual(daemon.ask("POST", "/v1/classify", PIXELS).json()["model"], "resnet9-cifar11")
        path, many, headers = slow_request(120)

        def ask_for_many():
            while daemon.ask("POST", path.replace("10", "11"), many, headers, 200).status == 503:
                pass  # a small one was in its way

        slow = threading.Thread(target=ask_for_many)
        slow.start()
        while daemon.ask("POST", "/v1/classify", PIXELS, timeout=200).status == 200:  # until it has come
            self.assertTrue(slow.is_alive())
        answer = daemon.ask("POST", "/v1/classify", PIXELS, timeout=200)
        self.assertEqual(answer.status, 503, answer.body)
        self.assertIn("resnet9-cifar11", answer.error())
        self.assertIn("model-queue-max", answer.error())
        picture = {"b64": base64.b64encode(PIXELS).decode()}
        body = json.dumps({"model": "resnet9-cifar10", "image": picture}).encode()
        answers = []
        threads = [threading.Thread(target=lambda *asked: answers.append(daemon.ask(*asked)),
                                    args=("POST", "/v1/classify", named, headers, 200))
                   for named, headers in ((body, ()), (b"\n" + body, ()),
                                          (gzip.compress(body), [("Content-Encoding", "gzip")]))]
        for thread in threads:
            thread.start()
        for thread in (slow, *threads):
            thread.join()
        self.assertIn(200, {answer.status for answer in answers})
        for answer in answers:  # when a worker read them they stood in each other's way, if at all
            self.assertIn(b"resnet9-cifar10", answer.body)
        self.assertEqual(daemon.stop(), 0)

    def test_nobody_answers_without_a_name_for_several(self):
        daemon = self.start_twins("--model-default", "off")
        answer = daemon.ask("POST", "/v1/classify", PIXELS)
        self.assertEqual((answer.status, answer.error()),
                         (400, '"model" must say which one: resnet9-cifar10, resnet9-cifar11'))
        self.assertEqual(daemon.stop(), 0)

    def test_jobs_whose_client_has_left_are_dropped_and_counted(self):
        daemon = self.start("--workers", "1", "--cpu", "ref", "--compute-timeout-ms", "200000",
                            models=(NETWORK, PRODUCT))
        until = time.monotonic() + 200  # under a sanitizer
        path, body, headers = slow_request(8)
        slow = [threading.Thread(target=daemon.ask, args=("POST", path, body, headers, 200)) for _ in range(3)]
        for thread in slow:  # the one worker is busy with these for long
            thread.start()
        while gauge(daemon, "requests_in_progress") < 3 or gauge(daemon, 'queue_length{kind="network"}') == 3:
            self.assertLess(time.monotonic(), until)
        leavers = [daemon.connect() for _ in range(5)]
        for connection in leavers:
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n" + PIXELS)
        while gauge(daemon, "requests_in_progress") < 8:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.005)
        for i, connection in enumerate(leavers):
            if i % 2:  # a reset rather than an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        for thread in slow:
            thread.join()
        while gauge(daemon, "requests_in_progress") > 0 and time.monotonic() < until:
            time.sleep(0.02)
        self.assertEqual(gauge(daemon, "canceled_total"), 5)

    def test_v2_counts_the_bytes_of_its_head_decompressed(self):
        daemon = self.start(models=(NETWORK,))
        head = json.dumps({"inputs": [{"name": "image", "shape": [1, 3, 32, 32], "datatype": "UINT8",
                                       "parameters": {"binary_data_size": 3072}}]}).encode()
        path = "/v2/models/resnet9-cifar10/infer"
        plain = daemon.ask("POST", path, head + PIXELS, [("Inference-Header-Content-Length", len(head))])
        self.assertEqual(plain.status, 200, plain.body)
        packed = gzip.compress(head + bytes(3072))
        self.assertLess(len(packed), len(head) + 100)
        answer = daemon.ask("POST", path, packed, [("Inference-Header-Content-Length", len(head)),
                                                   ("Content-Encoding", "gzip"), ("Accept-Encoding", "gzip")])
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.headers["content-encoding"], "gzip")
        self.assertIn("outputs", json.loads(gzip.decompress(answer.body)))


if __name__ == "__main__":
    unittest.main()
