#!/usr/bin/env python3
# test: learning over the API: jobs, events, cancelling, limits, crashes
# timeout: 900
"""Learns small products through the daemon and compares with `halut learn` on the same data."""
import array
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

from daemon import BUILD, NETWORK, PRODUCT, Daemon

ENDED = ("done", "failed", "cancelled")
# Else other programs on this machine would decide how long the tests take.
AT_ONCE = ("--learn-priority", "normal")


def matrix(rows, columns, seed=1):
    """Rows that have few degrees of freedom, so that there is something to learn."""
    source = random.Random(seed)
    mix = [[source.gauss(0, 1) for _ in range(columns)] for _ in range(3)]
    values = array.array("f")
    for _ in range(rows):
        z = [source.gauss(0, 1) for _ in range(3)]
        values.extend(sum(z[i] * mix[i][j] for i in range(3)) for j in range(columns))
    return values


def npy(values, columns, kind="<f4"):
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({len(values) // columns}, {columns}), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + values.tobytes()


def form(**fields):
    body = b""
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else str(value).encode()
        body += f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data + b"\r\n"
    return body + b"--xyz--\r\n"


A, B = matrix(600, 8), matrix(8, 3, 2)
SMALL = {"a": npy(A, 8), "b": npy(B, 3)}
# Learns for seconds: one wide codebook. Noise, as nothing is to be found.
NOISE = array.array("f", [random.random() for _ in range(20000 * 64)])
SLOW = {"name": "slow", "a": npy(NOISE, 64), "b": npy(matrix(64, 64), 64), "codebooks": 1}


class Learner(Daemon):
    def learn(self, headers=(("Content-Type", "multipart/form-data; boundary=xyz"),), **fields):
        return self.ask("POST", "/v1/learn", form(**fields), headers)

    def job(self, accepted):
        answer = self.ask("GET", accepted.json()["url"])
        return answer.json() if answer.status == 200 else None

    def wait(self, accepted, until=ENDED, seconds=120):
        assert accepted.status == 202, accepted.body
        end = time.time() + seconds
        while time.time() < end:
            job = self.job(accepted)
            if job["state"] in until or job["stage"] in until:
                return job
            time.sleep(0.02)
        raise AssertionError(f"not {until} in {seconds} s: {job}")

    def metric(self, name):
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no metric {name}")

    def models(self):
        return {(m["name"], m["version"]) for m in self.ask("GET", "/v1/models").json()["models"]}


class Events:
    """One stream of events, over a plain socket."""

    def __init__(self, daemon, accepted):
        self.connection = daemon.connect()
        self.connection.sendall(f"GET {accepted.json()['url']}/events HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        self.raw, self.text, self.ended, self.comments = b"", "", False, 0
        while b"\r\n\r\n" not in self.raw:
            self.fill()
        head, _, self.raw = self.raw.partition(b"\r\n\r\n")
        self.head = head.decode("latin-1").lower()
        self.status = int(self.head.split()[1])

    def fill(self):
        more = self.connection.recv(65536)
        if not more:
            raise EOFError("the stream was cut")
        self.raw += more

    def chunk(self):
        while b"\r\n" not in self.raw:
            self.fill()
        size, _, rest = self.raw.partition(b"\r\n")
        size = int(size, 16)
        while len(rest) < size + 2:
            self.fill()
            rest = self.raw.partition(b"\r\n")[2]
        self.raw = rest[size + 2:]
        self.ended = size == 0
        self.text += rest[:size].decode()

    def next(self):
        """(name, object), or None at the proper end of the stream."""
        while True:
            block, end, rest = self.text.partition("\n\n")
            if end and block.startswith(":"):
                self.comments += 1
                self.text = rest
            elif end:
                self.text = rest
                fields = dict(line.split(": ", 1) for line in block.split("\n"))
                return fields["event"], json.loads(fields["data"])
            elif self.ended:
                return None
            else:
                self.chunk()

    def __iter__(self):
        return iter(self.next, None)

    def close(self):
        self.connection.close()


class Learning(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Learner(*AT_ONCE)

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        assert code == 0, f"exit code {code}"

    def refused(self, status, words, answer):
        self.assertIsNotNone(answer)
        self.assertEqual(answer.status, status, answer.body)
        self.assertIn(words, answer.error())

    def test_learns_what_the_command_line_learns(self):
        accepted = self.daemon.learn(name="same", codebooks=2, ridge=0.5, heldout=0.25, **SMALL)
        self.assertEqual(accepted.status, 202, accepted.body)
        self.assertEqual(accepted.headers["location"], accepted.json()["url"])
        self.assertEqual(accepted.json()["state"], "queued")
        result = self.daemon.wait(accepted, ["done"])["result"]
        with tempfile.TemporaryDirectory() as folder:
            for name in "ab":
                with open(f"{folder}/{name}.npy", "wb") as file:
                    file.write(SMALL[name])
            done = subprocess.run([os.path.join(BUILD, "halut"), "learn", "--a", f"{folder}/a.npy", "--b",
                                   f"{folder}/b.npy", "--codebooks", "2", "--ridge", "0.5", "--heldout", "0.25",
                                   "--output", f"{folder}/same.safetensors", "--json"],
                                  capture_output=True, text=True, check=True)
            cli = json.loads(done.stdout)
            subprocess.run([os.path.join(BUILD, "halut"), "matmul", "--output", f"{folder}/c.npy",
                            f"{folder}/same.safetensors", f"{folder}/a.npy"], check=True, capture_output=True)
            with open(f"{folder}/c.npy", "rb") as file:
                product = file.read()
        self.assertLess(cli["nmse"], 0.5)
        for key in ("nmse", "r2", "mse", "mse_float", "mse_int8", "columns", "outputs", "codebooks", "learn_rows",
                    "heldout_rows"):
            self.assertAlmostEqual(result[key], cli[key], places=7, msg=key)
        self.assertEqual((result["model"], result["version"], result["heldout_rows"]), ("same", 1, 150))
        self.assertEqual(result["file_bytes"], os.path.getsize(os.path.join(self.daemon.folder, result["file"])))
        served = self.daemon.ask("POST", "/v1/matmul?model=same", SMALL["a"]).body
        self.assertEqual(served[-600 * 3 * 4:], product[-600 * 3 * 4:])

    def test_fewer_prototypes_are_those_of_the_command_line(self):
        errors = []
        for count in (2, 4, 8, 16):
            job = self.daemon.wait(self.daemon.learn(name="few", codebooks=2, prototypes=count, **SMALL), ["done"])
            with tempfile.TemporaryDirectory() as folder:
                for name in "ab":
                    with open(f"{folder}/{name}.npy", "wb") as file:
                        file.write(SMALL[name])
                done = subprocess.run([os.path.join(BUILD, "halut"), "learn", "--a", f"{folder}/a.npy", "--b",
                                       f"{folder}/b.npy", "--codebooks", "2", "--prototypes", str(count), "--heldout",
                                       "0.1", "--output", f"{folder}/few.safetensors", "--json"],
                                      capture_output=True, text=True, check=True)
            errors.append(json.loads(done.stdout)["mse"])
            self.assertAlmostEqual(job["result"]["mse"], errors[-1], places=7)
        self.assertEqual(errors, sorted(errors, reverse=True))
        rows = [list(A[i:i + 8]) for i in range(0, len(A), 8)]
        columns = [list(B[i:i + 3]) for i in range(0, len(B), 3)]
        for options, error in (({"prototypes": 4}, errors[1]), ({}, errors[3])):
            body = json.dumps({"name": "few", "a": rows, "b": columns, "codebooks": 2, **options}).encode()
            job = self.daemon.wait(self.daemon.ask("POST", "/v1/learn", body), ["done"])
            self.assertAlmostEqual(job["result"]["mse"], error, places=7)

    def test_json_and_float64_learn_the_same(self):
        rows = [list(A[i:i + 8]) for i in range(0, len(A), 8)]
        columns = [list(B[i:i + 3]) for i in range(0, len(B), 3)]
        body = json.dumps({"name": "json", "a": rows, "b": columns, "codebooks": 3, "seed": 7, "by": "input"})
        first = self.daemon.wait(self.daemon.ask("POST", "/v1/learn", body.encode()), ["done"])
        wide = {"a": npy(array.array("d", A), 8, "<f8"), "b": npy(array.array("d", B), 3, "<f8")}
        again = self.daemon.wait(self.daemon.learn(name="wide", codebooks=3, seed=7, by="input", **wide), ["done"])
        self.assertEqual(first["result"]["mse"], again["result"]["mse"])
        other = self.daemon.wait(self.daemon.learn(name="other", codebooks=3, seed=7, **SMALL), ["done"])
        self.assertEqual(other["result"]["codebooks"], 3)

    def test_a_name_gets_another_version_and_old_files_go(self):
        daemon = Learner(*AT_ONCE, "--learn-versions-max", "2")
        for number in range(1, 6):
            job = daemon.wait(daemon.learn(name="again", codebooks=2, **SMALL), ["done"])
            self.assertEqual(job["result"]["version"], number)
        names = sorted(name for name in os.listdir(daemon.folder) if name.startswith("again"))
        self.assertEqual(names, [f"again@{v}.safetensors" for v in (3, 4, 5)])
        self.assertEqual({m for m in daemon.models() if m[0] == "again"}, {("again", v) for v in (3, 4, 5)})
        self.assertEqual(daemon.ask("POST", "/v1/matmul", json.dumps(
            {"model": "again", "a": [[0] * 8]}).encode()).json()["version"], 5)
        stats = daemon.ask("GET", "/v2/models/again/stats").json()["model_stats"]
        self.assertEqual({(s["version"], s["inference_count"]) for s in stats}, {("3", 0), ("4", 0), ("5", 1)})
        job = daemon.wait(daemon.learn(name="signal", codebooks=2, **SMALL), ["done"])
        self.assertEqual(job["result"]["version"], 2)  # signal.safetensors has version 1, and stays
        self.assertTrue(os.path.exists(os.path.join(daemon.folder, "signal.safetensors")))
        self.assertEqual(daemon.stop(), 0)

    def test_files_that_are_not_served_keep_their_versions(self):
        daemon = Learner(*AT_ONCE)
        self.assertEqual(daemon.ask("POST", "/v2/repository/models/signal/unload").status, 200)
        job = daemon.wait(daemon.learn(name="signal", codebooks=2, **SMALL), ["done"])
        self.assertEqual((job["result"]["version"], job["result"]["file"]), (2, "signal@2.safetensors"))
        self.assertIn(("signal", 2), daemon.models())
        self.assertEqual(daemon.ask("POST", "/v2/repository/models/resnet9-cifar10/unload").status, 200)
        self.refused(409, 'a network is called "resnet9-cifar10"', daemon.learn(name="resnet9-cifar10", **SMALL))
        self.assertEqual(daemon.stop(), 0)

    def test_a_file_that_came_meanwhile_wins(self):
        daemon = Learner(*AT_ONCE, models=[NETWORK])
        shutil.copy(PRODUCT, daemon.folder)  # signal, version 1, and nobody has looked yet
        job = daemon.wait(daemon.learn(name="signal", codebooks=2, **SMALL), ["failed"])
        self.assertIn("version 1 is in signal.safetensors already", job["error"])
        self.assertFalse(os.path.exists(os.path.join(daemon.folder, "signal@1.safetensors")))
        job = daemon.wait(daemon.learn(name="signal", codebooks=2, **SMALL), ["done"])
        self.assertEqual(job["result"]["version"], 2)
        self.assertEqual(daemon.stop(), 0)

    def test_small_values_and_large_products(self):
        rows = [[0, 1], [1, 0], [1, 1], [2, 1], [0, 0], [2, 2], [1, 3], [3, 1]]
        body = {"name": "tiny", "codebooks": 1, "a": rows, "b": [[1e-45], [1e-45]]}
        job = self.daemon.wait(self.daemon.ask("POST", "/v1/learn", json.dumps(body).encode()), ["done"])
        self.assertGreaterEqual(job["result"]["mse_int8"], 0)
        body = {"name": "large", "codebooks": 2, "heldout": 0, "a": [[1, 0], [0, 1]] * 4, "b": [[3e38], [3e38]]}
        self.daemon.wait(self.daemon.ask("POST", "/v1/learn", json.dumps(body).encode()), ["done"])
        for path, body in (("/v1/matmul", {"model": "large", "a": [[1, 0], [1, 1]]}),
                           ("/v1/models/large:predict", {"instances": [[1, 0], [1, 1]]})):
            self.refused(400, "[1][0] is infinite, which JSON cannot carry", self.daemon.ask(
                "POST", path, json.dumps(body).encode()))
        answer = self.daemon.ask("POST", "/v1/matmul?model=large", npy(array.array("f", [1, 1]), 2))
        self.assertEqual((answer.status, answer.body[-4:]), (200, struct.pack("<f", float("inf"))))

    def test_bad_bodies_are_named(self):
        learn, refused = self.daemon.learn, self.refused
        nan = array.array("f", A)
        nan[11] = float("nan")
        refused(400, "empty", self.daemon.ask("POST", "/v1/learn"))
        refused(400, "name: is missing", learn(**SMALL))
        refused(400, "b: is missing", learn(name="x", a=SMALL["a"]))
        refused(400, "a: is missing", learn(name="x", b=SMALL["b"]))
        refused(400, "unknown field \"colour\"", learn(name="x", colour="red", **SMALL))
        for name in ("", ".x", "a/b", "x" * 64, "é", "stats"):
            refused(400, "name", learn(name=name, **SMALL))
        for field, values in {"codebooks": ("0", "1.5", "x", "", "0x2", "nan", "1025"), "ridge": ("-1", "inf", "1,5"),
                              "prototypes": ("0", "1", "3", "12", "17", "2.5", "x", ""),
                              "heldout": ("0.6", "-0.1"), "seed": ("-1", "1e17", " 1"), "by": ("rows",)}.items():
            for value in values:
                refused(400, field + ":", learn(name="x", **SMALL, **{field: value}))
        refused(400, "codebooks: 9, but a has only 8", learn(name="x", codebooks=9, **SMALL))
        refused(400, "b: has 7 rows, but a has 8 columns", learn(name="x", a=SMALL["a"], b=npy(B[:21], 3)))
        refused(400, "a[1][3]: not a finite", learn(name="x", a=npy(nan, 8), b=SMALL["b"]))
        refused(400, "a: ", learn(name="x", a=SMALL["a"][:-5], b=SMALL["b"]))
        refused(400, "b: ", learn(name="x", a=SMALL["a"], b=b"not an array"))
        refused(400, "boundary", learn([("Content-Type", "multipart/form-data")], name="x", **SMALL))
        twice = form(name="x", **SMALL).replace(b"--xyz--", form(name="y")[:-9] + b"--xyz--")
        refused(400, "name: is given twice", self.daemon.ask(
            "POST", "/v1/learn", twice, [("Content-Type", "multipart/form-data; boundary=xyz")]))
        for body, words in ((b'{"name":"x","a":[[1,2]],"b":[[1],[2]],"codebook":1}', "codebooks"),
                            (b'{"name":"x","a":[[1,2],[3]],"b":[[1],[2]]}', "a[1]"),
                            (b'{"name":"x","a":[1,2],"b":[[1],[2]]}', "a: must be an array of rows"),
                            (b'{"name":"x","a":"1","b":[[1],[2]]}', "a: must be"),
                            (b'{"name":"x","a":[[1,2]],"b":[[1],[2]],"codebooks":"2"}', "codebooks"),
                            (b'{"name":"x","a":[[1,2]],"b":[[1],[2]],"prototypes":6}', "2, 4, 8 or 16, not 6"),
                            (b'{"name":"x","a":[[1,2]],"b":[[1],[2]],"seed":9007199254740993}', "not 9007199254740993"),
                            (b'{"name":7,"a":[[1,2]],"b":[[1],[2]]}', "name"), (b'{"name":"x",', "")):
            refused(400, words, self.daemon.ask("POST", "/v1/learn", body))
        refused(409, "a network is called", learn(name="resnet9-cifar10", **SMALL))
        refused(404, "no job", self.daemon.ask("GET", "/v1/jobs/nobody"))
        refused(404, "no job", self.daemon.ask("DELETE", "/v1/jobs/nobody"))
        refused(404, "no job", self.daemon.ask("GET", "/v1/jobs/nobody/events"))
        self.assertEqual(self.daemon.ask("GET", "/v1/learn").status, 405)
        self.assertEqual(self.daemon.metric('halutd_learn_jobs{state="queued"}'), 0)

    def test_events_follow_a_job_to_its_end(self):
        accepted = self.daemon.learn(name="events", codebooks=2, **SMALL)
        stream = Events(self.daemon, accepted)
        self.assertEqual(stream.status, 200)
        self.assertIn("content-type: text/event-stream", stream.head)
        self.assertIn("cache-control: no-store", stream.head)
        events = list(stream)
        self.assertEqual(events[-1][0], "done")
        self.assertEqual(events[-1][1], self.daemon.job(accepted))
        self.assertEqual({name for name, _ in events[:-1]} - {"progress"}, set())
        shares = [job["progress"] for _, job in events]
        self.assertEqual(shares, sorted(shares))
        self.assertEqual(shares[-1], 1)
        stream.connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n")  # it is still a connection
        self.assertIn(b"200 OK", stream.connection.recv(65536))
        stream.close()
        late = Events(self.daemon, accepted)  # of a job that has ended: its end alone
        self.assertEqual([name for name, _ in late], ["done"])
        late.close()
        head = self.daemon.ask("HEAD", accepted.json()["url"] + "/events")
        self.assertEqual((head.status, head.headers["content-type"]), (200, "text/event-stream"))

    def test_jobs_wait_their_turn_and_can_be_cancelled(self):
        slow = self.daemon.learn(**SLOW)
        stream = Events(self.daemon, slow)
        waiting = self.daemon.learn(name="waits", codebooks=2, **SMALL)
        last = self.daemon.learn(name="last", codebooks=2, **SMALL)
        idle = Events(self.daemon, waiting)
        self.daemon.wait(slow, ["growing trees"])
        self.assertEqual(self.daemon.job(waiting)["state"], "queued")
        self.assertEqual(self.daemon.job(waiting)["stage"], "waiting")
        self.assertEqual([j["id"] for j in self.daemon.ask("GET", "/v1/jobs").json()["jobs"]][-3:],
                         [a.json()["id"] for a in (slow, waiting, last)])
        self.assertEqual(self.daemon.metric('halutd_learn_jobs{state="queued"}'), 2)
        self.assertEqual(self.daemon.metric('halutd_learn_event_streams'), 2)
        cancelled = self.daemon.ask("DELETE", waiting.json()["url"])
        self.assertEqual((cancelled.status, cancelled.json()["state"]), (200, "cancelled"))
        self.assertEqual([name for name, _ in idle][-1], "cancelled")
        idle.close()
        before = self.daemon.metric('halutd_learn_jobs_ended_total{state="cancelled"}')
        cancelled = self.daemon.ask("DELETE", slow.json()["url"])
        self.assertEqual((cancelled.status, cancelled.json()["state"]), (200, "cancelled"))
        self.assertEqual([name for name, _ in stream][-1], "cancelled")
        stream.close()
        self.assertEqual(self.daemon.wait(last)["state"], "done")
        self.assertEqual(self.daemon.ask("DELETE", last.json()["url"]).json()["state"], "done")
        self.assertEqual(self.daemon.metric('halutd_learn_jobs_ended_total{state="cancelled"}'), before + 1)
        self.assertFalse({"slow", "waits"} & {name for name, _ in self.daemon.models()})

    def test_streams_stay_alive_and_those_who_leave_are_noticed(self):
        slow = [self.daemon.learn(**dict(SLOW, a=npy(NOISE * 4, 64))) for _ in range(6)]  # half a minute, if let
        waiting = self.daemon.learn(name="w", codebooks=2, **SMALL)
        stays, leaves, rude = (Events(self.daemon, waiting) for _ in range(3))
        self.assertEqual(self.daemon.metric('halutd_learn_event_streams'), 3)
        leaves.close()
        rude.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        rude.close()
        end = time.time() + 20
        while self.daemon.metric('halutd_learn_event_streams') > 1 and time.time() < end:
            time.sleep(0.1)
        self.assertEqual(self.daemon.metric('halutd_learn_event_streams'), 1)
        self.assertEqual(stays.next()[1]["state"], "queued")
        while stays.comments == 0 and self.daemon.job(waiting)["state"] == "queued":
            stays.chunk()
            stays.comments += stays.text.startswith(":")
            stays.text = "" if stays.text.startswith(":") else stays.text
        self.assertGreater(stays.comments, 0)
        self.daemon.ask("DELETE", waiting.json()["url"])
        self.assertEqual([name for name, _ in stays][-1], "cancelled")
        for job in slow:
            self.daemon.ask("DELETE", job.json()["url"])
        stays.close()

    def test_serving_comes_first(self):
        daemon = Learner("--learn-threads", "2")
        slow = daemon.learn(**SLOW)
        Events(daemon, slow).close()
        policies, end = [], time.time() + 60
        while not policies and time.time() < end:
            tasks = f"/proc/{daemon.process.pid}/task"
            for task in os.listdir(tasks):
                try:
                    with open(f"{tasks}/{task}/comm") as file:
                        if file.read().strip() == "learn":
                            policies.append(os.sched_getscheduler(int(task)))
                except (FileNotFoundError, ProcessLookupError):
                    pass
            policies = [p for p in policies if p == os.SCHED_IDLE]
        self.assertEqual(set(policies), {os.SCHED_IDLE})
        self.assertEqual(daemon.stop(), 0)

    def test_what_it_counts(self):
        for state in ENDED:
            self.assertGreaterEqual(self.daemon.metric(f'halutd_learn_jobs_ended_total{{state="{state}"}}'), 0)
        done = self.daemon.metric('halutd_learn_jobs_ended_total{state="done"}')
        self.daemon.wait(self.daemon.learn(name="counted", codebooks=2, **SMALL), ["done"])
        self.assertEqual(self.daemon.metric('halutd_learn_jobs_ended_total{state="done"}'), done + 1)


class Limits(unittest.TestCase):
    def refused(self, status, words, answer):
        self.assertEqual(answer.status, status, answer.body)
        self.assertIn(words, answer.error())
        if status == 503:
            self.assertIn("retry-after", answer.headers)

    def test_sizes(self):
        daemon = Learner("--learn-bytes-max", "128K", "--learn-rows-max", "599", "--learn-codebooks-max", "4",
                         "--body-max", "4K", "--learn-width-max", "7")
        self.refused(413, "learn-rows-max 599", daemon.learn(name="x", **SMALL))
        rows = [list(A[i:i + 8]) for i in range(0, len(A), 8)]
        self.refused(413, "rows", daemon.ask("POST", "/v1/learn", json.dumps(
            {"name": "x", "a": rows, "b": [[1]] * 8}).encode()))
        self.refused(413, "learn-codebooks-max 4", daemon.learn(name="x", codebooks=5, **SMALL))
        self.refused(413, "learn-width-max 7", daemon.learn(name="x", codebooks=1, a=npy(A[:80], 8), b=SMALL["b"]))
        self.refused(413, "learn-bytes-max", daemon.learn(name="x", a=bytes(140000), b=b""))
        fits = daemon.learn(name="x", codebooks=2, a=npy(A[:-8], 8), b=SMALL["b"])
        self.assertEqual(daemon.wait(fits)["state"], "done")
        self.assertEqual(daemon.stop(), 0)

    def test_jobs_and_streams(self):
        daemon = Learner(*AT_ONCE, "--learn-jobs-max", "2", "--learn-streams-max", "1")
        slow, waiting = daemon.learn(**SLOW), daemon.learn(name="y", **SMALL)
        self.refused(503, "learn-jobs-max", daemon.learn(name="z", **SMALL))
        stream = Events(daemon, slow)
        self.refused(503, "learn-streams-max", daemon.ask("GET", waiting.json()["url"] + "/events"))
        self.assertEqual(daemon.metric("halutd_rejected_learning_total"), 2)
        daemon.ask("DELETE", slow.json()["url"])
        self.assertEqual([name for name, _ in stream][-1], "cancelled")
        stream.close()
        self.assertEqual(daemon.wait(waiting)["state"], "done")
        again = daemon.learn(name="z", **SMALL)
        stream = Events(daemon, again)
        self.assertEqual([name for name, _ in stream][-1], "done")
        stream.close()
        self.assertEqual(daemon.stop(), 0)

    def test_memory(self):
        daemon = Learner(*AT_ONCE, "--learn-memory-max", "20M")
        answer = daemon.learn(**SLOW)
        self.refused(413, "learn-memory-max", answer)
        need = int(answer.error().split(" bytes")[0].split()[-1])
        self.refused(413, "a: 25600000 bytes", daemon.learn(
            a=npy(array.array("f", bytes(25600000)), 8)))
        daemon.stop()
        daemon = Learner(*AT_ONCE, "--learn-memory-max", str(need + 100000))
        slow = daemon.learn(**SLOW)
        self.refused(503, "learn-memory-max", daemon.learn(**SLOW))
        self.assertEqual(daemon.learn(name="fits", **SMALL).status, 202)
        daemon.ask("DELETE", slow.json()["url"])
        self.assertEqual(daemon.stop(), 0)

    def test_time(self):
        daemon = Learner(*AT_ONCE, "--learn-timeout-ms", "200")
        job = daemon.wait(daemon.learn(**SLOW))
        self.assertEqual((job["state"], job["error"]), ("failed", "learning took longer than learn-timeout-ms"))
        self.assertEqual(daemon.stop(), 0)

    def test_ended_jobs_are_forgotten(self):
        daemon = Learner(*AT_ONCE, "--learn-kept-max", "2")
        jobs = [daemon.learn(name="k", **SMALL) for _ in range(4)]
        daemon.wait(jobs[-1])
        self.assertEqual([daemon.job(job) is not None for job in jobs], [False, False, True, True])
        self.assertEqual(daemon.stop(), 0)
        daemon = Learner(*AT_ONCE, "--learn-kept-ms", "100")
        job = daemon.learn(name="k", **SMALL)
        end = time.time() + 60
        while daemon.job(job) is not None and time.time() < end:
            time.sleep(0.05)
        self.assertIsNone(daemon.job(job))
        self.assertEqual(daemon.stop(), 0)

    def test_no_more_models_than_can_be_served(self):
        daemon = Learner(*AT_ONCE, "--workers", "1")
        for number in range(2, 64):
            daemon.wait(daemon.learn(name=f"n{number}", **SMALL), ["done"])
        self.assertEqual(len(daemon.models()), 64)
        self.refused(507, "64 models", daemon.learn(name="more", **SMALL))
        self.assertEqual(daemon.stop(), 0)

    def test_off(self):
        daemon = Learner("--learn", "off")
        self.refused(403, "learning is off", daemon.learn(name="x", **SMALL))
        self.assertEqual(daemon.ask("GET", "/v1/jobs").json(), {"learning": False, "jobs": []})
        self.assertEqual(daemon.ask("GET", "/v1/jobs/x").status, 404)
        self.assertEqual(daemon.stop(), 0)

    @unittest.skipIf(os.getuid() != 0, "needs root to run the daemon as somebody else")
    def test_a_directory_that_cannot_be_written(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o555)
            program = os.path.join(folder, "halutd")
            shutil.copy(PRODUCT, folder)
            shutil.copy(os.path.join(BUILD, "halutd"), program)
            daemon = Learner.__new__(Learner)
            daemon.folder, daemon.log = tempfile.mkdtemp(), tempfile.TemporaryFile("w+")
            daemon.process = subprocess.Popen([program, "--listen", "127.0.0.1:0", "--models", folder],
                                              stdout=subprocess.PIPE, stderr=daemon.log, text=True, user=65534)
            daemon.port = int(daemon.process.stdout.readline().rsplit(":", 1)[1])
            self.refused(507, "cannot be written", daemon.learn(name="x", **SMALL))
            self.assertEqual(daemon.stop(), 0)


class Ends(unittest.TestCase):
    def test_shutdown_cancels_and_says_so(self):
        daemon = Learner(*AT_ONCE)
        slow, waiting = daemon.learn(**SLOW), daemon.learn(name="w", **SMALL)
        streams = [Events(daemon, slow), Events(daemon, waiting)]
        daemon.wait(slow, ["growing trees"])
        self.assertEqual(daemon.stop(), 0)
        for stream in streams:
            self.assertEqual([name for name, _ in stream][-1], "cancelled")
            stream.close()

    def test_models_outlive_the_daemon_and_jobs_do_not(self):
        daemon = Learner(*AT_ONCE)
        job = daemon.wait(daemon.learn(name="kept", codebooks=2, **SMALL), ["done"])
        answer = daemon.ask("POST", "/v1/matmul?model=kept", SMALL["a"]).body
        again = Learner(models=[os.path.join(daemon.folder, job["result"]["file"])])
        self.assertEqual(again.ask("POST", "/v1/matmul?model=kept", SMALL["a"]).body, answer)
        self.assertEqual(again.ask("GET", "/v1/jobs").json()["jobs"], [])
        self.assertEqual(again.wait(again.learn(name="kept", codebooks=2, **SMALL))["result"]["version"], 2)
        self.assertEqual((daemon.stop(), again.stop()), (0, 0))

    def test_killed_while_it_saves(self):
        big = {"name": "big", "a": npy(matrix(64, 128), 128), "b": npy(array.array("f", [
            random.random() for _ in range(128 * 2048)]), 2048), "codebooks": 128}
        seen = 0
        for _ in range(20):
            daemon = Learner(*AT_ONCE)
            accepted = daemon.learn(**big)
            self.assertEqual(accepted.status, 202, accepted.body)
            end = time.time() + 100
            while time.time() < end:
                names = os.listdir(daemon.folder)
                if any(name.startswith("big@") for name in names):
                    break
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait()
            seen += any(name.endswith(".part") for name in os.listdir(daemon.folder))
            command = [os.path.join(BUILD, "halutd"), "--models", daemon.folder, "--check-config"]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            daemon.stop(0)
            if seen >= 3:
                break
        self.assertGreaterEqual(seen, 1, "never hit the moment")

    def test_a_save_that_fails_leaves_nothing(self):
        daemon = Learner.__new__(Learner)
        daemon.folder = tempfile.mkdtemp()
        shutil.copy(PRODUCT, daemon.folder)
        daemon.log = open(os.path.join(daemon.folder, "log"), "w+")
        daemon.process = subprocess.Popen(
            [os.path.join(BUILD, "halutd"), "--listen", "127.0.0.1:0", "--models", daemon.folder, *AT_ONCE],
            stdout=subprocess.PIPE, stderr=daemon.log, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)))
        daemon.port = int(daemon.process.stdout.readline().rsplit(":", 1)[1])
        job = daemon.wait(daemon.learn(name="full", codebooks=8, **SMALL))
        self.assertEqual(job["state"], "failed")
        self.assertIn("full@1.safetensors: File too large", job["error"])
        self.assertEqual(sorted(os.listdir(daemon.folder)), ["log", "signal.safetensors"])
        self.assertEqual(daemon.stop(), 0)

    def test_a_network_of_another_file_is_left_alone(self):
        daemon = Learner(*AT_ONCE, models=[NETWORK])
        daemon.wait(daemon.learn(name="beside", codebooks=2, **SMALL), ["done"])
        self.assertEqual(daemon.models(), {("resnet9-cifar10", 1), ("beside", 1)})
        self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    unittest.main()
