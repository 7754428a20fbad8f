#!/usr/bin/env python3
# test: the Python client against a server that misbehaves on purpose, and against the real daemon
"""The first half scripts every reply; the second half starts $HALUT_BUILD/halutd (default build/halutd)."""

import asyncio
import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, os.path.dirname(HERE))

import halutd  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None
try:
    import PIL.Image
except ImportError:
    PIL = None

LABELS = (b'{"model":"m","backend":"cpu","top":[{"label":"cat","index":3,"probability":0.5}],'
          b'"timing_us":{"compute":7}}')


def reply(status, body=LABELS, extra=""):
    return (f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body)


class Scripted:
    """Answers the n-th request with the n-th of `steps`: bytes, a list of them (with pauses), "close" (hang up),
    "stall" (say nothing)."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.requests = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        held = []  # stalled connections, kept open
        while self.steps:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            while self.steps and self.answer(connection, held):
                pass
            if connection not in held:
                connection.close()

    def answer(self, connection, held):
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return False
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        while length and len(body) < int(length.group(1)):
            body += connection.recv(65536)
        self.requests.append((head.decode(), body))
        step = self.steps.pop(0)
        if step == "stall":
            held.append(connection)
        if isinstance(step, list):
            self.drip(connection, step)
        if isinstance(step, (str, list)):
            return False
        connection.sendall(step)
        return b"connection: close" not in step.lower()

    @staticmethod
    def drip(connection, pieces):
        with contextlib.suppress(OSError):  # the client has gone
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.1)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.listener.close()


FAST = halutd.Retry(attempts=4, first_delay=0.01, longest_delay=0.05)


def both(test):
    """Runs test(self, call) with the blocking and with the asyncio client: call(url, lambda client: …)."""
    def run(self):
        def blocking(url, use, **options):
            with halutd.Client(url, **{"retry": FAST, **options}) as client:
                return use(client)

        def awaited(url, use, **options):
            async def main():
                async with halutd.AsyncClient(url, **{"retry": FAST, **options}) as client:
                    return await use(client)
            return asyncio.run(main())

        for name, call in (("sync", blocking), ("async", awaited)):
            with self.subTest(name):
                test(self, call)
    return run


class AgainstScript(unittest.TestCase):
    @both
    def test_retries_busy_server(self, call):
        with Scripted(reply(503, b'{"error":"queue full"}', "Retry-After: 0\r\n"),
                      reply(503, b'{"error":"queue full"}'), reply(200)) as server:
            result = call(server.url, lambda c: c.classify(b"pixels", top=1))
            self.assertEqual(result.top, [halutd.Label("cat", 3, 0.5)])
            self.assertEqual(result.timing_us, {"compute": 7})
            self.assertEqual([body for _, body in server.requests], [b"pixels"] * 3)

    @both
    def test_gives_up_when_busy_for_long(self, call):
        with Scripted(*[reply(503, b'{"error":"queue full"}', "Retry-After: 1\r\n")] * 4) as server:
            with self.assertRaises(halutd.ServerBusy) as caught:
                call(server.url, lambda c: c.classify(b"x"))
            self.assertEqual(caught.exception.message, "queue full")
            self.assertEqual(caught.exception.retry_after, 1.0)
            self.assertEqual(len(server.requests), 4)

    @both
    def test_does_not_retry_mistakes(self, call):
        for status, kind in ((400, halutd.RequestError), (404, halutd.NotFound)):
            with Scripted(reply(status, b'{"error":"bad picture"}'), reply(200)) as server:
                with self.assertRaises(kind) as caught:
                    call(server.url, lambda c: c.classify(b"x"))
                self.assertIn("bad picture", str(caught.exception))
                self.assertEqual(caught.exception.status, status)
                self.assertEqual(len(server.requests), 1)

    @both
    def test_learning_is_not_started_twice(self, call):
        done = b'{"id":"j","name":"n","state":"%s","stage":"","progress":0.5,"seconds":1%s}'
        close = "Connection: close\r\n"  # the start of learning takes a connection of its own
        busy, queued = reply(503, b'{"error":"full"}', close), reply(202, b'{"id":"j"}', close)
        with Scripted("close", queued) as server:
            with self.assertRaises(halutd.ConnectionFailed):
                call(server.url, lambda c: c.learn([[1]], [[1]], name="n"))
        with Scripted(busy, queued, reply(200, done % (b"running", b"")), "close",
                      reply(200, done % (b"failed", b',"error":"no luck"'))) as server:
            seen = []
            with self.assertRaises(halutd.LearningFailed) as caught:
                call(server.url, lambda c: c.learn([[1, 2]], [[1], [2]], name="n", seed=3, progress=seen.append))
            self.assertEqual([job.state for job in seen], ["running", "failed"])
            self.assertIn("no luck", str(caught.exception))
            head, body = server.requests[1]
            self.assertIn("POST /v1/learn ", head)
            self.assertIn(b'name="seed"\r\n\r\n3\r\n', body)
            self.assertEqual(body.count(b"\x93NUMPY"), 2)
        with Scripted(queued, *[reply(200, done % (b"running", b""))] * 50) as server:
            with self.assertRaises(halutd.TimedOut):
                call(server.url, lambda c: c.learn([[1]], [[1]], name="n", wait=0.2))

    @both
    def test_survives_hang_up(self, call):
        with Scripted("close", "close", reply(200)) as server:
            self.assertEqual(call(server.url, lambda c: c.classify(b"x")).model, "m")
            self.assertEqual(len(server.requests), 3)

    @both
    def test_survives_truncated_answer(self, call):
        with Scripted(reply(200)[:-10] + b"", "close", reply(200)) as server:
            server.steps[0] = (b"HTTP/1.1 200 X\r\nContent-Length: 900\r\nConnection: close\r\n\r\n{")
            self.assertEqual(call(server.url, lambda c: c.classify(b"x")).model, "m")

    @both
    def test_times_out(self, call):
        with Scripted("stall") as server:
            begin = time.monotonic()
            with self.assertRaises(halutd.TimedOut):
                call(server.url, lambda c: c.classify(b"x"), timeout=0.3)
            self.assertLess(time.monotonic() - begin, 5)

    @both
    def test_the_timeout_is_of_the_whole_call(self, call):
        head, blank, body = reply(200).partition(b"\r\n\r\n")
        for steps in ([bytes([one]) for one in reply(200)], [head + blank, *(bytes([one]) for one in body)]):
            with Scripted(steps) as server:
                begin = time.monotonic()
                with self.assertRaises(halutd.TimedOut):
                    call(server.url, lambda c: c.classify(b"x"), timeout=0.5)
                self.assertLess(time.monotonic() - begin, 3)

    @both
    def test_no_server(self, call):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            url = "http://127.0.0.1:%d" % taken.getsockname()[1]
        with self.assertRaises(halutd.ConnectionFailed):
            call(url, lambda c: c.classify(b"x"))
        self.assertFalse(call(url, lambda c: c.healthy()))
        with self.assertRaises(halutd.TimedOut):
            call(url, lambda c: c.wait_healthy(0.2))

    @both
    def test_error_that_is_not_json(self, call):
        with Scripted(reply(400, b"<html>no")) as server:
            with self.assertRaises(halutd.RequestError) as caught:
                call(server.url, lambda c: c.models())
            self.assertIn("<html>no", str(caught.exception))

    @both
    def test_reads_chunks(self, call):
        chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (5, LABELS[:5], len(LABELS) - 5, LABELS[5:])
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        with Scripted(answer, answer) as server:
            self.assertEqual(call(server.url, lambda c: c.classify(b"x")).model, "m")

    @both
    def test_binary_tensors(self, call):
        head = (b'{"model_name":"m","outputs":[{"name":"y","datatype":"INT16","shape":[2,2],'
                b'"parameters":{"binary_data_size":8}},{"name":"z","datatype":"FP32","shape":[1],'
                b'"data":[0.5]}]}')
        answer = reply(200, head + b"\x01\0\xff\xff\x03\0\x04\0",
                       f"Inference-Header-Content-Length: {len(head)}\r\n")
        with Scripted(answer) as server:
            x = halutd.Tensor("UINT8", [1, 2], [7, 9])
            result = call(server.url, lambda c: c.infer("m/n", {"x": x}, outputs=["y", "z"], id="i"))
            self.assertEqual(result.outputs["y"].to_list(), [[1, -1], [3, 4]])
            self.assertEqual(result.outputs["z"].data, [0.5])
            request, body = server.requests[0]
            self.assertIn("POST /v2/models/m%2Fn/infer HTTP/1.1", request)
            size = int(re.search(r"inference-header-content-length: (\d+)", request.lower()).group(1))
            self.assertEqual(body[size:], b"\x07\x09")

    @both
    def test_json_tensors(self, call):
        answer = reply(200, b'{"model_name":"m","model_version":"2","id":"i","outputs":[{"name":"y",'
                            b'"datatype":"BYTES","shape":[2],"data":["a","b"]}]}')
        with Scripted(answer) as server:
            x = halutd.Tensor("FP32", [2], [0.5, 1])
            result = call(server.url, lambda c: c.infer("m", {"x": x}, version="2", binary=False))
            self.assertEqual(result.outputs["y"].data, ["a", "b"])
            self.assertEqual(result.model_version, "2")
            self.assertIn(b'"data":[0.5,1]', server.requests[0][1])
            self.assertIn("/v2/models/m/versions/2/infer", server.requests[0][0])

    def test_refuses_what_it_cannot_send(self):
        with halutd.Client("http://127.0.0.1:1") as client:
            for bad in (7, object()):
                with self.assertRaises(TypeError):
                    client.classify(bad)
            for rows in ([], [[1], [1, 2]]):
                with self.assertRaises(ValueError):
                    client.matmul(rows, model="m")
            with self.assertRaises(ValueError):
                client.infer("m", {"x": halutd.Tensor("FLOAT", [1], [1])})
        with self.assertRaises(ValueError):
            halutd.Client("ftp://h")
        with self.assertRaises(halutd.Error):
            client.classify(b"closed by now")


class AgainstDaemon(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        program = os.path.join(os.environ.get("HALUT_BUILD", os.path.join(TOP, "build")), "halutd")
        cls.folder = tempfile.mkdtemp()  # what is learned goes there too
        for name in os.listdir(os.path.join(TOP, "models")):
            if name.endswith(".safetensors"):
                shutil.copy(os.path.join(TOP, "models", name), cls.folder)
        cls.daemon = subprocess.Popen(
            [program, "--listen", "127.0.0.1:0", "--models", cls.folder, "--learn-priority", "normal"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seen = []
        for line in cls.daemon.stdout:
            seen.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                cls.url = found.group()
                break
        else:
            raise AssertionError("the daemon did not start: " + "".join(seen))
        threading.Thread(target=cls.daemon.stdout.read, daemon=True).start()
        with halutd.Client(cls.url) as client:
            client.wait_healthy(20)
            cls.models = {m["name"]: m for m in client.models()["models"]}
        cls.networks = [n for n, m in cls.models.items() if m["kind"] == "network"]

    @classmethod
    def tearDownClass(cls):
        cls.daemon.terminate()
        status = cls.daemon.wait(20)
        cls.daemon.stdout.close()
        shutil.rmtree(cls.folder)
        if status != 0:
            raise AssertionError(f"the daemon ended with {status}")

    def setUp(self):
        self.photo = os.path.join(TOP, "models", "photo", "cat.jpg")

    def need_network(self):
        if not self.networks:
            self.skipTest("no network among the models")

    @both
    def test_classifies_the_photo(self, call):
        self.need_network()
        result = call(self.url, lambda c: c.classify(self.photo, top=3))
        self.assertEqual(result.top[0].label, "cat")
        self.assertEqual(len(result.top), 3)
        self.assertGreaterEqual(result.top[0].probability, result.top[1].probability)
        self.assertIn(result.model, self.networks)

    def test_takes_any_form_of_a_picture(self):
        self.need_network()
        raw = bytes(range(256)) * 12
        with halutd.Client(self.url) as client:
            wanted = client.classify(raw).raw["top"]
            self.assertEqual(client.classify(io.BytesIO(raw)).raw["top"], wanted)
            if numpy is not None:
                planes = numpy.frombuffer(raw, dtype=numpy.uint8).reshape(3, 32, 32)
                pixels = planes.transpose(1, 2, 0)
                self.assertEqual(client.classify(planes).raw["top"], wanted)
                self.assertEqual(client.classify(pixels).raw["top"], wanted)
                if PIL is not None:
                    image = PIL.Image.fromarray(numpy.ascontiguousarray(pixels))
                    self.assertEqual(client.classify(image).raw["top"], wanted)

    @both
    def test_multiplies(self, call):
        name = "signal"
        columns = self.models[name]["columns"]
        rows = [[((i * 31 + j) % 17) / 17 for j in range(columns)] for i in range(5)]
        product = call(self.url, lambda c: c.matmul(rows, model=name))
        self.assertEqual((product.rows, product.columns), (5, self.models[name]["outputs"]))
        self.assertEqual(len(product.c[4]), product.columns)
        if numpy is not None:
            same = call(self.url, lambda c: c.matmul(numpy.array(rows), model=name))
            numpy.testing.assert_array_equal(same.c, numpy.array(product.c, dtype=numpy.float32))

    @both
    def test_learns_with_progress(self, call):
        a = [[((i * 7 + j * 3) % 11) / 11 for j in range(4)] for i in range(200)]
        b = [[1.0, 0.5], [0.0, -1.0], [2.0, 1.0], [0.25, 0.0]]
        seen = []
        job = call(self.url, lambda c: c.learn(a, b, name="learned", codebooks=4, heldout=0.2, progress=seen.append))
        self.assertEqual((job.state, job.progress, job.ended), ("done", 1.0, True))
        self.assertEqual(seen[-1], job)
        self.assertLess(job.result["nmse"], 0.5)
        self.assertEqual(job.result["heldout_rows"], 40)
        self.assertEqual(call(self.url, lambda c: c.jobs())[-1], job)
        self.assertEqual(call(self.url, lambda c: c.cancel(job.id)), job)
        product = call(self.url, lambda c: c.matmul(a[:2], model="learned"))
        self.assertEqual((product.rows, product.columns), (2, 2))
        few = call(self.url, lambda c: c.learn(a, b, name="few", codebooks=4, prototypes=2, heldout=0.2))
        self.assertGreater(few.result["mse"], job.result["mse"])
        with self.assertRaises(halutd.RequestError) as caught:
            call(self.url, lambda c: c.learn(a, b, name="few", prototypes=3))
        self.assertIn("prototypes: must be 2, 4, 8 or 16, not 3", caught.exception.message)
        with self.assertRaises(halutd.RequestError) as caught:
            call(self.url, lambda c: c.learn(a, b[:3], name="learned"))
        self.assertIn("b: has 3 rows", caught.exception.message)

    @both
    def test_infers_alike_in_binary_and_json(self, call):
        name = "signal"
        try:
            call(self.url, lambda c: c.metadata())
        except halutd.NotFound:
            self.skipTest("the daemon has no /v2")
        about = call(self.url, lambda c: c.metadata(name))
        source, sink = about["inputs"][0]["name"], about["outputs"][0]["name"]
        columns = self.models[name]["columns"]
        x = halutd.Tensor("FP32", [2, columns], [i % 7 * 0.25 for i in range(2 * columns)])
        first = call(self.url, lambda c: c.infer(name, {source: x}, id="one"))
        second = call(self.url, lambda c: c.infer(name, {source: x}, binary=False))
        self.assertEqual(first.id, "one")
        self.assertEqual(first.outputs[sink].shape, [2, self.models[name]["outputs"]])
        # JSON has the shortest decimals that read back as the same float, which is not the same double.
        packed = halutd._protocol._pack("FP32", second.outputs[sink].data)
        self.assertEqual(halutd._protocol._pack("FP32", first.outputs[sink].data), packed)

    @both
    def test_says_what_is_wrong(self, call):
        with self.assertRaises(halutd.NotFound):
            call(self.url, lambda c: c.classify(b"\0" * 3072, model="nonesuch"))
        if self.networks:
            with self.assertRaises(halutd.RequestError) as caught:
                call(self.url, lambda c: c.classify(b"not a picture"))
            self.assertEqual(caught.exception.status, 400)
            self.assertIn("neither PNG nor JPEG", caught.exception.message)

    @both
    def test_reports_health_and_metrics(self, call):
        self.assertTrue(call(self.url, lambda c: c.healthy()))
        self.assertIn("# HELP halutd_", call(self.url, lambda c: c.metrics()))

    def test_many_at_once(self):
        name = "signal"
        columns = self.models[name]["columns"]
        rows = [[0.5] * columns]

        async def main():
            async with halutd.AsyncClient(self.url) as client:
                return await asyncio.gather(*[client.matmul(rows, model=name) for _ in range(50)])

        results = asyncio.run(main())
        self.assertEqual([r.c for r in results], [results[0].c] * 50)
        with halutd.Client(self.url) as client:
            failures = []

            def work():
                for _ in range(10):
                    if client.matmul(rows, model=name).c != results[0].c:
                        failures.append("differs")

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(failures, [])


if __name__ == "__main__":
    unittest.main()
