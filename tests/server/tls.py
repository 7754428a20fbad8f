#!/usr/bin/env python3
# test: TLS: many parked requests, plain listeners beside it, bad peers, bad certificates
# timeout: 200
"""Serves over TLS with a certificate made for the occasion, and asks with Python's ssl module (OpenSSL)."""
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

from daemon import BUILD, NETWORK, PIXELS, PRODUCT, npy, read_answer

HALUTD = os.path.join(BUILD, "halutd")
THREADS, REQUESTS = 32, 1000


def make_pair(folder, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                    os.path.join(folder, name + ".key"), "-out", os.path.join(folder, name + ".crt")],
                   check=True, capture_output=True)


def head(path, body=b"", *more):
    lines = [f"POST {path} HTTP/1.1", "Host: t", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


@unittest.skipUnless(shutil.which("openssl"), "openssl is not installed")
class Secure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        for name in ("one", "two"):
            make_pair(cls.folder, name)
        for model in (NETWORK, PRODUCT):
            shutil.copy(model, cls.folder)
        cls.log = open(os.path.join(cls.folder, "log"), "w+")
        cls.path = os.path.join(cls.folder, "plain.sock")
        cls.process = subprocess.Popen(
            [HALUTD, "--models", cls.folder, "--tls-cert", cls.file("one.crt"), "--tls-key", cls.file("one.key"),
             "--listen", f"127.0.0.1:0,http://127.0.0.1:0,unix:{cls.path}", "--request-timeout-ms", "2000"],
            stdout=subprocess.PIPE, stderr=cls.log, text=True)
        lines = [cls.process.stdout.readline() for _ in range(3)]
        assert "listening on https://127.0.0.1:" in lines[0], lines
        assert "listening on http://127.0.0.1:" in lines[1], lines
        cls.port, cls.plain_port = (int(line.rsplit(":", 1)[1]) for line in lines[:2])
        cls.context = ssl.create_default_context(cafile=cls.file("one.crt"))

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        code = cls.process.wait(20)
        cls.process.stdout.close()
        cls.log.close()
        shutil.rmtree(cls.folder)
        assert code == 0, f"exit code {code}"

    @classmethod
    def file(cls, name):
        return os.path.join(cls.folder, name)

    def connect(self, context=None):
        return (context or self.context).wrap_socket(socket.create_connection(("127.0.0.1", self.port), timeout=30),
                                                     server_hostname="127.0.0.1")

    def ask(self, raw):
        with self.connect() as connection:
            connection.sendall(raw)
            return read_answer(connection)

    def test_the_same_answers_as_without(self):
        raw = head("/v1/classify?top=10", PIXELS)
        secure = self.ask(raw)
        self.assertEqual(secure.status, 200)
        for family, address in ((socket.AF_INET, ("127.0.0.1", self.plain_port)), (socket.AF_UNIX, self.path)):
            with socket.socket(family) as connection:
                connection.connect(address)
                connection.sendall(raw)
                self.assertEqual(read_answer(connection).json()["top"], secure.json()["top"])

    def test_a_thousand_parked_requests_on_kept_connections(self):
        expected = self.ask(head("/v1/classify?top=10", PIXELS)).json()["top"]
        left, faults, lock = [REQUESTS], [], threading.Lock()

        def client():
            try:
                with self.connect() as connection:
                    while True:
                        with lock:
                            if left[0] == 0:
                                return
                            left[0] -= 1
                        connection.sendall(head("/v1/classify?top=10", PIXELS))
                        answer = read_answer(connection)
                        if answer is None or answer.status != 200 or answer.json()["top"] != expected:
                            faults.append(answer and (answer.status, answer.body))
            except OSError as fault:
                faults.append(fault)

        threads = [threading.Thread(target=client) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(faults, [])
        self.assertEqual(left, [0])

    def test_large_bodies_both_ways_and_requests_in_one_write(self):
        array = npy([float(i % 8) for i in range(8 * 40000)], 8)  # 1.3 MB; several TLS records
        answer = self.ask(head("/v1/matmul", array))
        self.assertEqual(answer.status, 200)
        self.assertGreater(len(answer.body), 400000)
        with self.connect() as connection:
            connection.sendall(head("/v1/classify", PIXELS) * 5)
            data = b""
            while data.count(b"HTTP/1.1 200") < 5 or not data.endswith(b"}\n"):
                more = connection.recv(65536)
                self.assertTrue(more, data)
                data += more

    def connections(self):
        return self.metric("halutd_connections")

    def test_bad_peers_do_no_harm(self):
        plain, junk = b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 1000
        for raw in (plain, junk, b"\0" * 20, b""):
            with socket.create_connection(("127.0.0.1", self.port)) as connection:
                connection.sendall(raw)
                try:
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # the daemon has cut it already
                connection.settimeout(10)
                try:
                    self.assertNotIn(b"HTTP", connection.recv(1000))
                except ConnectionResetError:
                    pass
        old = ssl.create_default_context(cafile=self.file("one.crt"))
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            self.connect(old)
        for size in (0, 10, 2000):  # cut in the middle of a body, without a goodbye
            connection = self.connect()
            connection.sendall(head("/v1/classify", PIXELS)[:100 + size])
            connection.close()
        dribble = self.connect()
        dribble.sendall(b"POST /v1/classify HTTP/1.1\r\n")
        dribble.settimeout(20)
        try:
            self.assertEqual(dribble.recv(100), b"")  # cut at request-timeout-ms, nothing in the clear
        except (ssl.SSLError, ConnectionError):
            pass
        dribble.close()
        until = time.monotonic() + 10
        while self.connections() > 1 and time.monotonic() < until:
            time.sleep(0.1)
        self.assertEqual(self.connections(), 1)
        self.assertEqual(self.ask(head("/v1/classify", PIXELS)).status, 200)

    def said(self):
        with open(self.log.name) as file:
            return file.read()

    def reload(self, words):
        before = self.said().count(words)
        self.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while self.said().count(words) == before and time.monotonic() < until:
            time.sleep(0.02)
        self.assertGreater(self.said().count(words), before, self.said())

    def metric(self, name):
        with socket.create_connection(("127.0.0.1", self.plain_port)) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            text = read_answer(connection).body.decode()
        return int(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])

    def test_a_signal_reads_the_certificate_again_and_a_bad_pair_changes_nothing(self):
        def shown():
            context = ssl.create_default_context(cafile=self.file("both.pem"))
            with self.connect(context) as connection:
                return dict(part[0] for part in connection.getpeercert()["subject"])["commonName"]

        def put(certificate, key):
            for name, path in ((certificate, "one.crt"), (key, "one.key")):
                shutil.copy(os.path.join(kept, name), self.file(path + ".new"))
                os.rename(self.file(path + ".new"), self.file(path))

        kept = tempfile.mkdtemp(dir=self.folder)
        for name in ("one.crt", "one.key", "two.crt", "two.key"):
            shutil.copy(self.file(name), kept)
        with open(self.file("both.pem"), "w") as both:
            for name in ("one.crt", "two.crt"):
                with open(self.file(name)) as file:
                    both.write(file.read())
        self.addCleanup(lambda: (put("one.crt", "one.key"), self.reload("reloaded: the certificate")))
        held = self.connect()  # on the first certificate, through all that follows
        self.assertEqual(shown(), "one")
        failures = self.metric("halutd_reload_failures_total")
        put("two.crt", "one.key")
        self.reload("reload failed, the certificate is what it was")
        self.assertIn("one.key is not the key of", self.said())
        self.assertEqual(self.metric("halutd_reload_failures_total"), failures + 1)
        self.assertEqual(shown(), "one")
        for _ in range(3):  # what came between is let go
            put("one.crt", "one.key")
            self.reload("reloaded: the certificate")
            put("two.crt", "two.key")
            self.reload("reloaded: the certificate")
        self.assertEqual(shown(), "two")
        expires = ssl.cert_time_to_seconds(subprocess.run(
            ["openssl", "x509", "-noout", "-enddate", "-in", self.file("two.crt")], capture_output=True, text=True,
            check=True).stdout.strip().removeprefix("notAfter="))
        self.assertEqual(self.metric("halutd_tls_certificate_expiry_timestamp_seconds"), expires)
        held.sendall(head("/v1/classify", PIXELS))
        self.assertEqual(read_answer(held).status, 200)
        held.close()
        os.unlink(self.file("one.key"))
        self.reload("reload failed, the certificate is what it was")
        self.assertIn("one.key: No such file", self.said())
        self.assertEqual(shown(), "two")

    def test_the_binary_asks_for_health_over_tls(self):
        def asked(url):
            return subprocess.run([HALUTD, "--health", url], capture_output=True, text=True)

        for path in ("", "/healthz", "/v2/health/ready"):
            done = asked(f"https://127.0.0.1:{self.port}{path}")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        done = asked(f"https://127.0.0.1:{self.port}/nowhere")
        self.assertEqual(done.returncode, 1)
        self.assertIn("404", done.stderr)
        for url, words in ((f"https://127.0.0.1:{self.plain_port}", "TLS: "),
                           (f"http://127.0.0.1:{self.port}", "no answer"), ("https://127.0.0.1:1", "refused"),
                           ("ftp://127.0.0.1", "--health takes http[s]://HOST[:PORT][/PATH]")):
            done = asked(url)
            self.assertEqual(done.returncode, 1, url)
            self.assertIn(words, done.stderr)

    def problems(self, *options):
        done = subprocess.run([HALUTD, "--models", self.folder, "--check-config", *options], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    def test_what_is_wrong_with_a_certificate_is_in_the_report(self):
        one, two, key = self.file("one.crt"), self.file("two.crt"), self.file("one.key")
        self.assertIn("one.key is not the key of", self.problems("--tls-cert", two, "--tls-key", key))
        self.assertIn("one.key: no certificate", self.problems("--tls-cert", key, "--tls-key", key))
        self.assertIn("one.crt: no private key", self.problems("--tls-cert", one, "--tls-key", one))
        self.assertIn("absent: No such file", self.problems("--tls-cert", one, "--tls-key", self.file("absent")))
        self.assertIn("tls-cert: must be given with tls-key", self.problems("--tls-cert", one))
        self.assertIn("https://127.0.0.1 needs tls-cert", self.problems("--listen", "https://127.0.0.1:1"))
        both = self.problems("--tls-cert", two, "--tls-key", key, "--keys-file", "/nonexistent")
        self.assertIn("tls-cert, tls-key:", both)
        self.assertIn("keys-file: /nonexistent", both)


if __name__ == "__main__":
    unittest.main()
