#!/usr/bin/env python3
# test: the daemon over sockets: answers, refusals, limits, reload, drain
# timeout: 300
"""Starts HALUT_BUILD/halutd on a free port for each class of cases and talks to it over plain sockets."""
import base64
import functools
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest
import zlib

BUILD = os.environ.get("HALUT_BUILD", "build")
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NETWORK = os.path.join(TOP, "models", "resnet9-cifar10.safetensors")
PRODUCT = os.path.join(TOP, "models", "signal.safetensors")
PIXELS = bytes(range(256)) * 12  # 3072 bytes


class Daemon:
    def __init__(self, *options, models=(NETWORK, PRODUCT), program=os.path.join(BUILD, "halutd")):
        self.folder = tempfile.mkdtemp()
        for path in models:
            shutil.copy(path, self.folder)
        self.log = open(os.path.join(self.folder, "log"), "w+")
        command = [program, "--listen", "127.0.0.1:0", "--models", self.folder, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if "listening on http://127.0.0.1:" not in line:
            raise RuntimeError(f"no ready line: {line!r} {self.said()}")
        self.port = int(line.rsplit(":", 1)[1])

    def said(self):
        self.log.flush()
        with open(self.log.name) as file:
            return file.read()

    def connect(self, timeout=20):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, raw):
        """Sends bytes, returns all answers until the peer closes or is silent."""
        with self.connect() as connection:
            deliver(connection, raw)
            return read_answer(connection)

    def ask(self, method, path, body=b"", headers=(), timeout=20):
        with self.connect(timeout) as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in headers)
            deliver(connection, head.encode() + b"\r\n" + body)
            return read_answer(connection, method == "HEAD")

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.stdout.close()
        self.log.close()
        shutil.rmtree(self.folder)
        return code


def deliver(connection, raw):
    """Sends bytes to a peer that may answer and close before it has them all."""
    try:
        connection.sendall(raw)
    except (BrokenPipeError, ConnectionResetError):
        pass


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.json()["error"]


def read_answer(connection, is_head=False):
    """One answer, or None if the peer closes without one."""
    data = b""
    try:
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        while not is_head and len(body) < int(headers.get("content-length", 0)):
            more = connection.recv(65536)
            if not more:
                break
            body += more
    except (ConnectionResetError, socket.timeout):
        return None
    return Answer(int(lines[0].split()[1]), headers, body)


@functools.lru_cache
def has_accelerator():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(PRODUCT, folder)
        done = subprocess.run([os.path.join(BUILD, "halutd"), "--backend", "rtl", "--models", folder,
                               "--check-config"], capture_output=True, text=True)
    return "built without Verilator" not in done.stderr


def needs_accelerator(test):
    """Called in a test: skips it, and says why, where the build has none."""
    if not has_accelerator():
        print(f"\nskip: {test.id().split('.', 1)[1]}: this build has no accelerator", flush=True)
        test.skipTest("this build has no accelerator")


def png(width, height, pixel=b"\x80\x40\x20"):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + pixel * width) * height)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def npy(values, columns):
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(values) // columns}, {columns}), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    body = struct.pack(f"<{len(values)}f", *values)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + body


class Serving(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--body-max", "100K", "--request-timeout-ms", "1000", "--rows-max", "64",
                            "--image-pixels-max", "10000")

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        assert code == 0, f"exit code {code}"

    def ask(self, *args, **keys):
        answer = self.daemon.ask(*args, **keys)
        self.assertIsNotNone(answer, "no answer")
        return answer

    def refused(self, status, words, *args, **keys):
        answer = self.ask(*args, **keys)
        self.assertEqual(answer.status, status, answer.body)
        self.assertIn(words, answer.error())
        return answer

    def test_health_and_models(self):
        self.assertEqual(self.ask("GET", "/healthz").json(), {"status": "ready"})
        models = {m["name"]: m for m in self.ask("GET", "/v1/models").json()["models"]}
        self.assertEqual(models["resnet9-cifar10"]["classes"], 10)
        self.assertEqual(models["signal"]["columns"], 8)
        self.assertEqual(self.ask("GET", "/v1/models/signal").json()["outputs"], 3)
        self.refused(404, "nobody", "GET", "/v1/models/nobody")

    def test_every_form_of_an_image_gives_the_same_answer(self):
        raw = self.ask("POST", "/v1/classify?top=10", PIXELS).json()
        self.assertEqual(len(raw["top"]), 10)
        self.assertAlmostEqual(sum(t["probability"] for t in raw["top"]), 1, places=4)
        text = base64.b64encode(PIXELS).decode()
        forms = {
            "put": self.ask("PUT", "/v1/classify?top=10", PIXELS).json()["top"],
            "b64": self.ask("POST", "/v1/classify",
                            json.dumps({"image": {"b64": text}, "top": 10}).encode()).json()["top"],
            "numbers": self.ask("POST", "/v1/classify?top=10", json.dumps({"instances": [list(PIXELS)]}).encode())
            .json()["predictions"][0]["top"],
            "pictures": self.ask("POST", "/v1/classify?top=10", json.dumps({"instances": [{"b64": text}]}).encode())
            .json()["predictions"][0]["top"],
            "form": self.ask("POST", "/v1/classify?top=10", b'--x\r\nContent-Disposition: form-data; name="image"; '
                             b'filename="a"\r\n\r\n' + PIXELS + b"\r\n--x--\r\n",
                             headers=[("Content-Type", "multipart/form-data; boundary=x")]).json()["top"],
        }
        for name, top in forms.items():
            self.assertEqual(top, raw["top"], name)
        self.assertEqual(self.ask("POST", "/v1/classify", png(40, 32)).status, 200)

    def test_bad_images_are_named(self):
        self.refused(400, "empty", "POST", "/v1/classify")
        self.refused(400, "PNG", "POST", "/v1/classify", png(32, 32)[:-20])
        self.refused(413, "image-pixels-max", "POST", "/v1/classify", png(200, 200))
        self.refused(400, "instances", "POST", "/v1/classify", b'{"instances":[[1,2,3]]}')
        self.refused(400, "instances[0][0]: 256", "POST", "/v1/classify", b'{"instances":[[256' + b",0" * 3071 + b"]]}")
        self.refused(400, "b64", "POST", "/v1/classify", b'{"image":{"b64":"?"}}')
        self.refused(400, "model", "POST", "/v1/classify", b'{"modle":"x","image":{"b64":""}}')
        self.refused(400, "boundary", "POST", "/v1/classify", PIXELS, headers=[("Content-Type", "multipart/form-data")])
        self.refused(404, "nobody", "POST", "/v1/classify?model=nobody", PIXELS)
        for top in ("0", "%203", "%2B3", "11x", ""):
            self.refused(400, "top: must be", "POST", "/v1/classify?top=" + top, PIXELS)
        self.refused(400, 'parameter "top" is given twice', "POST", "/v1/classify?top=3&fit=crop&top=3", PIXELS)
        self.assertEqual(self.ask("POST", "/v1/classify?&top=3&&fit=crop&", PIXELS).status, 200)
        self.refused(400, "tpo", "POST", "/v1/classify?tpo=1", PIXELS)
        self.refused(400, "backend", "POST", "/v1/classify?backend=gpu", PIXELS)

    def test_products(self):
        values = [((i * 7) % 5) / 5 for i in range(16)]
        rows = [values[:8], values[8:]]
        answer = self.ask("POST", "/v1/matmul", json.dumps({"model": "signal", "a": rows}).encode()).json()
        self.assertEqual((answer["rows"], answer["columns"]), (2, 3))
        same = self.ask("POST", "/v1/matmul?model=signal", npy(values, 8)).body
        self.assertEqual(same[:6], b"\x93NUMPY")
        flat = struct.unpack("<6f", same[-24:])
        for got, wanted in zip(flat, sum(answer["c"], [])):
            self.assertEqual(struct.pack("<f", got), struct.pack("<f", wanted))
        one = self.ask("POST", "/v1/matmul", json.dumps({"a": rows[0]}).encode()).json()
        self.assertEqual(one["c"][0], answer["c"][0])

    def test_bad_matrices_are_named(self):
        self.refused(400, "takes 8", "POST", "/v1/matmul", b'{"a":[[1,2,3]]}')
        self.refused(400, "a[1]", "POST", "/v1/matmul", b'{"a":[[1,2,3,4,5,6,7,8],[1,2]]}')
        self.refused(400, "a[0][2]", "POST", "/v1/matmul", b'{"a":[[1,2,NaN,4,5,6,7,8]]}')
        self.refused(400, "a[0][1]", "POST", "/v1/matmul", npy([0, float("nan")] + [0] * 6, 8))
        self.refused(400, "a", "POST", "/v1/matmul", b'{"model":"signal"}')
        self.refused(413, "rows-max", "POST", "/v1/matmul", npy([0.0] * 8 * 65, 8))
        self.refused(400, "a[0][0]: nested deeper than 2 levels", "POST", "/v1/matmul", b'{"a":[[[1]]]}')
        self.refused(400, "", "POST", "/v1/matmul", npy([0.0] * 8, 8)[:-3])
        self.refused(400, "", "POST", "/v1/matmul", b'{"a":[[1,')

    def test_paths_and_methods(self):
        self.refused(404, "/nowhere", "GET", "/nowhere")
        answer = self.refused(405, "DELETE", "DELETE", "/v1/classify")
        self.assertIn("POST", answer.headers["allow"])
        self.assertEqual(self.ask("OPTIONS", "/v1/matmul").status, 204)
        self.assertEqual(self.ask("HEAD", "/healthz").status, 200)
        self.assertIn("text/html", self.ask("GET", "/").headers["content-type"])

    def test_body_limits_hold_before_upload(self):
        head = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 2000000000\r\nExpect: 100-continue\r\n\r\n"
        answer = self.daemon.send(head)
        self.assertEqual(answer.status, 413)
        self.assertIn("body-max", answer.error())
        flood = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        flood += (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 10 + b"0\r\n\r\n"
        self.assertEqual(self.daemon.send(flood).status, 413)
        self.assertEqual(self.ask("POST", "/healthz", b"").status, 405)

    def test_ambiguous_framing_is_refused(self):
        start = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\n"
        cases = {
            "both lengths": start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "two lengths": start + b"Content-Length: 5\r\nContent-Length: 3\r\n\r\nhello",
            "blank before colon": start + b"Content-Length : 5\r\n\r\nhello",
            "another coding": start + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "folded": start + b"Transfer-Encoding: x\r\n chunked\r\n\r\n0\r\n\r\n",
            "signed length": start + b"Content-Length: +5\r\n\r\nhello",
            "no host": b"POST /v1/classify HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        }
        for name, raw in cases.items():
            with self.subTest(name):
                answer = self.daemon.send(raw)
                self.assertIsNotNone(answer)
                self.assertEqual(answer.status, 400)

    def test_pipelined_requests_are_answered_in_order(self):
        one = b"POST /v1/classify?top=%d HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n"
        with self.daemon.connect() as connection:
            connection.sendall(b"".join(one % n + PIXELS for n in range(1, 6)))
            data = b""
            while data.count(b"timing_us") < 5:
                more = connection.recv(65536)
                self.assertTrue(more, "closed early")
                data += more
        bodies = [json.loads(line) for line in data.split(b"\n") if line.startswith(b"{")]
        self.assertEqual([len(body["top"]) for body in bodies], [1, 2, 3, 4, 5])

    def test_a_dribbling_request_is_cut(self):
        with self.daemon.connect() as connection:
            start = time.time()
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n")
            try:
                while time.time() - start < 10:
                    connection.sendall(b"x")
                    time.sleep(0.2)
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.assertLess(time.time() - start, 8)

    def test_broken_peers_do_no_harm(self):
        whole = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n" + PIXELS
        for cut in (10, 60, 500, len(whole)):
            for _ in range(5):
                connection = self.daemon.connect()
                connection.sendall(whole[:cut])
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        self.daemon.send(os.urandom(3000))
        self.assertEqual(self.ask("POST", "/v1/classify", PIXELS).status, 200)

    def test_peers_that_leave_with_their_last_bytes_are_noticed(self):
        daemon = Daemon()  # its request-timeout-ms is 30 s: only being noticed helps

        def connections():
            lines = daemon.ask("GET", "/metrics").body.decode().splitlines()
            return int([line for line in lines
                        if line.startswith("halutd_connections ")][0].split()[1])

        whole = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n" + PIXELS
        for cut in (10, 40, 60, 500, 2000):
            for _ in range(20):
                connection = daemon.connect()
                connection.sendall(whole[:cut])
                connection.close()
        left, deadline = connections(), time.time() + 10
        while left > 1 and time.time() < deadline:  # one is the connection that asks
            time.sleep(0.2)
            left = connections()
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(left, 1)

    def test_metrics_count(self):
        def success():
            text = self.ask("GET", "/metrics").body.decode()
            return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                       if line.startswith("halutd_inference_success_total"))

        before = success()
        for _ in range(3):
            self.ask("POST", "/v1/classify", PIXELS)
        self.assertEqual(success(), before + 3)

    def test_computing_is_told_by_part(self):
        daemon = Daemon("--workers", "1")
        try:
            for body in (PIXELS, PIXELS):
                daemon.ask("POST", "/v1/classify", body)
            rows = [[1] * 8 for _ in range(500)]
            daemon.ask("POST", "/v1/matmul", json.dumps({"model": "signal", "a": rows}).encode())
            text = daemon.ask("GET", "/metrics").body.decode()
        finally:
            daemon.stop()
        for model, count in (("resnet9-cifar10", 2), ("signal", 1)):
            each = rf'{{model="{model}",version="\d+",backend="cpu"'
            parts = {}
            for part in ("encode", "accumulate", "rest"):
                label = rf'{each},part="{part}"}} (\S+)'
                parts[part] = float(re.search(f"halutd_compute_seconds_sum{label}", text)[1])
                self.assertEqual(int(re.search(f"halutd_compute_seconds_count{label}", text)[1]), count, part)
                self.assertGreater(parts[part], 0, f"{model} {part}")
            whole = float(re.search(rf'halutd_phase_seconds_sum{each},phase="compute"}} (\S+)', text)[1])
            self.assertAlmostEqual(sum(parts.values()), whole, delta=1e-6)
            if model == "resnet9-cifar10":  # of the small product both take a few microseconds
                self.assertGreater(parts["accumulate"], parts["encode"])

    def test_triton_names_say_the_same(self):
        daemon = Daemon("--metrics-triton", "on")
        try:
            for body in (PIXELS, PIXELS, b"no picture"):
                daemon.ask("POST", "/v1/classify", body)
            values = {}
            for line in daemon.ask("GET", "/metrics").body.decode().splitlines():
                if not line.startswith("#") and "_bucket" not in line and 'backend="cpu"' in line:
                    values[line.split("{")[0] + "".join(re.findall(r'phase="\w+"', line))] = float(line.split()[-1])
            for name, ours in (("request_success", "inference_success_total"), ("count", "inference_rows_total"),
                               ("request_failure", "inference_failure_total"), ("exec_count", "batches_total")):
                self.assertEqual(values[f"nv_inference_{name}"], values[f"halutd_{ours}"], name)
            self.assertEqual(values["nv_inference_request_success"], 2)
            self.assertEqual(values["nv_inference_request_failure"], 1)
            for name, phase in (("queue", "queue"), ("compute_input", "decode"), ("compute_infer", "compute"),
                                ("compute_output", "reply")):
                self.assertEqual(values[f"nv_inference_{name}_duration_us"],
                                 int(values[f'halutd_phase_seconds_sumphase="{phase}"'] * 1e6 + 1e-4), name)
            self.assertGreater(values["nv_inference_request_duration_us"], 0)
        finally:
            daemon.stop()
        self.assertNotIn(b"nv_", self.ask("GET", "/metrics").body)

    def test_each_series_is_there_once(self):
        for method, path in (("GET", "/v1/jobs/none"), ("DELETE", "/v1/jobs/none"), ("GET", "/v2/logging"),
                             ("POST", "/v2/logging")):
            self.ask(method, path, b"{}" if method == "POST" else b"")
        text = self.ask("GET", "/metrics").body.decode()
        series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
        self.assertEqual(len(series), len(set(series)))
        self.assertIn('halutd_requests_total{path="/v1/jobs/{}",code="404"} 2\n', text)

    def test_part_names_may_be_written_in_any_way(self):
        for disposition in ('form-data; name=image; filename=x.jpg', 'form-data; filename="a; name=b"; NAME="image"',
                            'form-data;\tname=image'):
            for start, end in (("--x", "--x--"), ("\r\n--x \t", "--x--")):
                head = f"{start}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
                body = head + PIXELS + f"\r\n{end}".encode()
                answer = self.ask("POST", "/v1/classify", body, [("Content-Type", "multipart/form-data; boundary=x")])
                self.assertEqual(answer.status, 200, answer.body)

    def test_headers_of_proxies_make_nobody_local(self):
        for name in ("X-Forwarded-Proto", "x-forwarded-host", "Forwarded", "X-Real-Ip", "Via"):
            self.refused(403, "key", "POST", "/v1/reload", headers=[(name, "a")])
        self.assertEqual(self.ask("POST", "/v1/reload", headers=[("X-Forward", "a")]).status, 200)

    def test_request_ids_are_echoed(self):
        answer = self.ask("GET", "/healthz", headers=[("X-Request-Id", "abc-1")])
        self.assertEqual(answer.headers["x-request-id"], "abc-1")


class Limits(unittest.TestCase):
    def test_a_full_queue_answers_503_and_loses_nothing(self):
        daemon = Daemon("--queue-max", "2", "--workers", "1", "--batch-max", "1", "--cpu", "ref",
                        "--compute-timeout-ms", "200000")
        counts, lock = {}, threading.Lock()

        def client():
            for _ in range(4):
                answer = daemon.ask("POST", "/v1/classify", PIXELS)
                with lock:
                    counts[answer.status] = counts.get(answer.status, 0) + 1
                if answer.status == 503:
                    assert answer.headers["retry-after"] == "1", answer.headers
                    assert "queue-max" in answer.error(), answer.body

        threads = [threading.Thread(target=client) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sum(counts.values()), 48)
        self.assertEqual(set(counts), {200, 503}, counts)
        counted = f"halutd_rejected_queue_full_total {counts[503]}\n"
        self.assertIn(counted, daemon.ask("GET", "/metrics").body.decode())
        self.assertEqual(daemon.stop(), 0)

    def test_bodies_may_have_the_last_byte_of_the_limit(self):
        daemon = Daemon("--body-max", "4096")
        row = b'{"model":"signal","a":[[0,1,2,3,4,5,6,7]]}'
        for bytes_, status in ((4096, 200), (4097, 413)):
            body = row + b" " * (bytes_ - len(row))
            self.assertEqual(daemon.ask("POST", "/v1/matmul", body).status, status)
            chunked = b"POST /v1/matmul HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
            for part in (body[:4000], body[4000:]):
                chunked += b"%x\r\n%s\r\n" % (len(part), part)
            self.assertEqual(daemon.send(chunked + b"0\r\n\r\n").status, status)
        self.assertEqual(daemon.stop(), 0)

    def test_a_body_a_little_too_large_is_read_before_it_is_refused(self):
        daemon = Daemon("--body-max", "3M")
        body = b" " * (4 << 20)  # a client that only writes would see a broken pipe, not the answer
        with daemon.connect(20) as connection:
            connection.sendall(b"POST /v1/matmul HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            self.assertIn(b" 413 ", connection.recv(64))
        self.assertEqual(daemon.stop(), 0)

    def test_connections_per_address(self):
        daemon = Daemon("--connections-per-address-max", "3")
        held = [daemon.connect() for _ in range(3)]
        try:
            extra = daemon.send(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
            self.assertIsNone(extra)
        finally:
            for connection in held:
                connection.close()
        answer, end = None, time.time() + 10
        while answer is None and time.time() < end:  # until it has noticed that they left
            answer = daemon.send(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")
        self.assertEqual(answer and answer.status, 200)
        self.assertEqual(daemon.stop(), 0)

    def test_late_jobs_get_504(self):
        daemon = Daemon("--compute-timeout-ms", "1", "--workers", "1", "--cpu", "ref")
        request = b"POST /v1/classify HTTP/1.1\r\nHost: test\r\nContent-Length: 3072\r\n\r\n" + PIXELS
        statuses = []
        for _ in range(30):  # until others come while one is computed: a busy machine may take them together
            connections = [daemon.connect() for _ in range(8)]
            for connection in connections:
                connection.sendall(request)
                time.sleep(0.005)  # else one batch has them all; a picture takes the reference longer
            for connection in connections:
                statuses.append(read_answer(connection).status)
                connection.close()
            if 504 in statuses:
                break
        self.assertIn(504, statuses)
        self.assertLessEqual(set(statuses), {200, 504})
        counted = f"halutd_timed_out_total {statuses.count(504)}\n"
        self.assertIn(counted, daemon.ask("GET", "/metrics").body.decode())
        self.assertEqual(daemon.stop(), 0)


class Lifecycle(unittest.TestCase):
    def wait_for(self, condition):
        for _ in range(100):
            if condition():
                return
            time.sleep(0.05)
        self.fail("it did not happen within five seconds")

    def test_a_reload_adds_models_and_keeps_what_breaks(self):
        daemon = Daemon(models=[NETWORK])
        self.assertEqual(daemon.ask("POST", "/v1/matmul", b'{"a":[[0]]}').status, 404)
        shutil.copy(PRODUCT, daemon.folder)
        daemon.process.send_signal(signal.SIGHUP)
        self.wait_for(lambda: b"signal" in daemon.ask("GET", "/v1/models").body)
        path = os.path.join(daemon.folder, "signal.safetensors")
        with open(path + ".new", "wb") as file:
            file.write(b"broken")
        os.rename(path + ".new", path)
        daemon.process.send_signal(signal.SIGHUP)
        self.wait_for(lambda: "the one being served stays" in daemon.said())
        answer = daemon.ask("POST", "/v1/matmul", json.dumps({"a": [[0.5] * 8]}).encode())
        self.assertEqual(answer.status, 200)
        self.assertEqual(daemon.stop(), 0)

    def test_a_log_that_was_moved_away_is_opened_anew(self):
        with tempfile.TemporaryDirectory() as folder:
            path, moved = os.path.join(folder, "log"), os.path.join(folder, "log.1")
            daemon = Daemon("--access-log", path)

            def lines(of):
                with open(of) as file:
                    return [json.loads(line)["path"] for line in file]

            try:
                daemon.ask("GET", "/healthz")
                os.rename(path, moved)
                daemon.process.send_signal(signal.SIGHUP)
                self.wait_for(lambda: os.path.exists(path))
                daemon.ask("GET", "/v1/models")
                self.wait_for(lambda: lines(path))
                self.assertEqual((lines(moved), lines(path)), (["/healthz"], ["/v1/models"]))
                os.rename(path, moved)
                os.mkdir(path)
                daemon.ask("POST", "/v1/reload")
                self.assertIn("the one that is open goes on", daemon.said())
                self.wait_for(lambda: lines(moved)[-1] == "/v1/reload")
            finally:
                self.assertEqual(daemon.stop(), 0)

    def test_signals_change_what_is_logged(self):
        daemon = Daemon("--log-level", "warning")
        self.assertNotIn("models ready", daemon.said())
        told = 0
        for number, level in ((signal.SIGUSR1, "info"), (signal.SIGUSR1, "debug"), (signal.SIGUSR1, "debug"),
                              (signal.SIGUSR2, "info"), (signal.SIGUSR2, "warning"), (signal.SIGUSR2, "error"),
                              (signal.SIGUSR2, "error"), (signal.SIGUSR1, "warning")):
            daemon.process.send_signal(number)
            told += 1
            self.wait_for(lambda: daemon.said().count("log level: ") == told)
            self.assertEqual(daemon.said().splitlines()[-1], f"halutd: log level: {level}")
            settings = daemon.ask("GET", "/v2/logging").json()
            self.assertEqual([settings["log_error"], settings["log_warning"], settings["log_info"],
                              settings["log_verbose_level"] > 0],
                             [level in words for words in (("error", "warning", "info", "debug"),
                                                           ("warning", "info", "debug"), ("info", "debug"),
                                                           ("debug",))])
        daemon.ask("POST", "/v2/logging", json.dumps({"log_error": False, "log_warning": False}).encode())
        daemon.process.send_signal(signal.SIGUSR2)  # from nothing at all: errors, and says so
        self.wait_for(lambda: daemon.said().endswith("log level: error\n"))
        self.assertTrue(daemon.ask("GET", "/v2/logging").json()["log_error"])
        self.assertEqual(daemon.stop(), 0)

    def test_requests_under_way_are_answered_at_the_end(self):
        """Some are computed when the signal comes, others still arrive."""
        daemon = Daemon("--cpu", "ref", "--workers", "1")
        request = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n" + PIXELS
        requests = [(daemon.connect(), cut) for cut in (len(request), len(request), 1000, 20)]
        for connection, cut in requests:
            connection.sendall(request[:cut])
        self.wait_for(lambda: any(line.startswith("halutd_requests_in_progress") and not line.endswith(" 0")
                                  for line in daemon.ask("GET", "/metrics").body.decode().splitlines()))
        daemon.process.send_signal(signal.SIGTERM)
        self.wait_for(lambda: "draining" in daemon.said())
        for connection, cut in requests:
            connection.sendall(request[cut:])
        for connection, _ in requests:
            answer = read_answer(connection)
            self.assertEqual((answer.status, answer.headers.get("connection")), (200, "close"))
            connection.close()
        self.assertEqual(daemon.stop(), 0)

    def test_both_backends_give_the_same(self):
        needs_accelerator(self)
        daemon = Daemon("--backend", "both", "--workers", "1")
        tops = [daemon.ask("POST", f"/v1/classify?top=10&backend={name}", PIXELS).json() for name in ("cpu", "rtl")]
        self.assertEqual(tops[0]["top"], tops[1]["top"])
        self.assertEqual([t["backend"] for t in tops], ["cpu", "rtl"])
        self.assertGreater(tops[1]["device"]["cycles"], 0)
        self.assertEqual(daemon.stop(), 0)

    def test_startup_reports_every_problem(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("one", "two"):
                with open(os.path.join(folder, name + ".safetensors"), "wb") as file:
                    file.write(b"junk of " + name.encode() * 9)
            done = subprocess.run([os.path.join(BUILD, "halutd"), "--models", folder, "--check-config"],
                                  capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("one.safetensors", done.stderr)
        self.assertIn("two.safetensors", done.stderr)

    def test_an_unknown_option_gets_a_suggestion(self):
        done = subprocess.run([os.path.join(BUILD, "halutd"), "--lisen", "x"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("listen", done.stderr)

    def test_health_is_the_binarys_own(self):
        daemon = Daemon()
        program = os.path.join(BUILD, "halutd")
        self.assertEqual(subprocess.run([program, "--health", f"http://127.0.0.1:{daemon.port}"]).returncode, 0)
        self.assertEqual(daemon.stop(signal.SIGINT), 0)
        done = subprocess.run([program, "--health", "http://127.0.0.1:1"], capture_output=True)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
