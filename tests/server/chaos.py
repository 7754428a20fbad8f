#!/usr/bin/env python3
# test: clients that break off, dribble, pipeline, flood and talk nonsense: every answer is accounted for, nothing stays
# timeout: 200
"""chaos.py [--minutes N] [--seed N]: a crowd of ill-behaved clients beside well-behaved ones, for 20 s or N minutes.

Afterwards the daemon's own counters must say what the clients saw, and memory and descriptors must be back.
"""
import argparse
import os
import random
import re
import socket
import struct
import sys
import threading
import time

from daemon import PIXELS, Answer, Daemon

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n"
WHOLE = HEAD + PIXELS
SMALL = b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"
STATUSES = {200, 204, 400, 404, 405, 408, 411, 413, 414, 417, 431, 501, 503, 504, 505}
EARLY = {400, 408, 413, 414, 431, 501, 505}  # may come before there is a request: without an id, and counted nowhere


class Peer:
    """One connection, with what it saw."""

    def __init__(self, daemon, seen):
        self.socket = daemon.connect(timeout=10)
        self.seen, self.buffer = seen, b""

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self):
        """The next answer, or None at the end; counted, and checked for its form."""
        try:
            answer = self.read()
        except (ConnectionResetError, socket.timeout):
            return None
        if answer is not None:
            self.seen.count(answer)
        return answer

    def fill(self, is_enough):
        """Reads until is_enough(); false at the end of the stream."""
        while not is_enough():
            more = self.socket.recv(65536)
            if not more:
                return False
            self.buffer += more
        return True

    def read(self):
        if not self.fill(lambda: b"\r\n\r\n" in self.buffer):
            return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        size = int(headers.get("content-length", 0))
        if not self.fill(lambda: len(self.buffer) >= size):
            return None
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return Answer(int(lines[0].split()[1]), headers, body)

    def answers(self):
        while self.answer() is not None:
            pass

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Seen:
    def __init__(self):
        self.lock = threading.Lock()
        self.statuses, self.early, self.ids, self.wrong = {}, {}, set(), []

    def count(self, answer):
        identity = answer.headers.get("x-request-id")
        with self.lock:
            counts = self.early if identity is None else self.statuses
            counts[answer.status] = counts.get(answer.status, 0) + 1
            if identity in self.ids:
                self.wrong.append(f"a second answer to {identity}")
            elif identity is not None:
                self.ids.add(identity)
            if answer.status not in (EARLY if identity is None else STATUSES):
                self.wrong.append(f"status {answer.status}")
            elif answer.headers.get("content-type") == "application/json":
                try:
                    answer.json()
                except ValueError:
                    self.wrong.append(f"not JSON: {answer.body[:80]!r}")


# What each kind of peer does. None of them waits for longer than its socket's ten seconds.

def partial(peer, rng):
    peer.send(WHOLE[:rng.randrange(1, len(WHOLE))])
    peer.socket.close()


def half_closed(peer, rng):
    peer.send(WHOLE if rng.random() < 0.5 else WHOLE[:rng.randrange(1, len(WHOLE))])
    peer.socket.shutdown(socket.SHUT_WR)
    peer.answers()
    peer.socket.close()


def reset(peer, rng):
    peer.send(WHOLE[:rng.randrange(1, len(WHOLE) + 1)])
    peer.reset()


def changes_its_mind(peer, rng):
    """Leaves while its request is queued or computed."""
    peer.send(WHOLE)
    time.sleep(rng.uniform(0, 0.002))
    peer.reset()


def pipelined(peer, rng):
    count = rng.randrange(2, 12)
    peer.send(b"".join(rng.choice((WHOLE, SMALL)) for _ in range(count)))
    got = sum(peer.answer() is not None for _ in range(count))
    if got != count:
        with peer.seen.lock:
            peer.seen.wrong.append(f"{got} answers to {count} requests")
    peer.socket.close()


def leaves_unread(peer, rng):
    peer.send(WHOLE * rng.randrange(1, 8))
    peer.reset()


def dribbling(peer, rng):
    at, end = 0, time.time() + 1.5
    while at < len(WHOLE) and time.time() < end:
        step = rng.randrange(1, 40)
        peer.send(WHOLE[at:at + step])
        at += step
        time.sleep(0.01)
    if rng.random() < 0.5:
        peer.send(WHOLE[at:])
        peer.answer()
    peer.socket.close()


def junk(peer, rng):
    peer.send(rng.choice((os.urandom(rng.randrange(1, 3000)), b"\r\n" * 50, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00" * 9,
                          b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"A" * 40000)))
    peer.socket.shutdown(socket.SHUT_WR)
    peer.answers()
    peer.socket.close()


def oversized(peer, rng):
    length = rng.choice((70000, 200000, 1 << 31, 1 << 62))
    peer.send(b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % length + b"x" * 100000)
    peer.answer()
    peer.socket.close()


def flooding(peer, rng):
    chunk = b"1\r\nx\r\n" * 2000
    peer.send(b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.send(chunk * rng.randrange(1, 8))
    peer.send(b"0\r\n\r\n")
    peer.answer()
    peer.socket.close()


def confused(peer, rng):
    peer.send(b"POST /v1/classify HTTP/1.1\r\nHost: t\r\n" + rng.choice((
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length : 5\r\n", b"Transfer-Encoding: x\r\n chunked\r\n", b"X: a\rb\r\n", b"Content-Length: 1e3\r\n",
        b"X: " + b"y" * 7000 + b"\r\n", b"X: y\r\n" * 100)) + b"\r\nhello")
    peer.answers()
    peer.socket.close()


def bad_bodies(peer, rng):
    body = rng.choice((b"{" * 3000, b'{"image":{"b64":"?"}}', b"\x89PNG\r\n\x1a\n" + os.urandom(200), b"{}",
                       b'{"instances":[[' + b"1," * 3071 + b"256]]}", os.urandom(3071)))
    path = rng.choice((b"/v1/classify", b"/v1/matmul", b"/predictions/nobody", b"/v2/models/signal/infer"))
    peer.send(b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % (path, len(body)) + body)
    peer.answer()
    peer.socket.close()


KINDS = [partial, half_closed, reset, changes_its_mind, pipelined, leaves_unread, dribbling, junk, oversized, flooding,
         confused, bad_bodies]


def metrics(daemon):
    text = daemon.ask("GET", "/metrics").body.decode()
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


def total(values, name, **labels):
    """The sum of a family, or of those with these labels."""
    found = 0.0
    for key, value in values.items():
        if re.match(re.escape(name) + r"(\{|$)", key) and all(f'{k}="{v}"' in key for k, v in labels.items()):
            found += value
    return found


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def resident(daemon):
    with open(f"/proc/{daemon.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def crowd(daemon, seconds, seed, seen, good):
    """Runs all kinds of peers, and four that behave: those must get 200, or 503 and then try again."""
    end = time.time() + seconds

    def ill(index):
        rng = random.Random(seed * 1000 + index)
        while time.time() < end:
            kind = rng.choice(KINDS)
            try:
                kind(Peer(daemon, seen), rng)
            except OSError as error:
                if daemon.process.poll() is not None:
                    return
                if not isinstance(error, (ConnectionError, socket.timeout)) and "not connected" not in str(error):
                    raise

    def well():
        peer = Peer(daemon, seen)
        while time.time() < end:
            peer.send(WHOLE)
            answer = peer.answer()
            with seen.lock:
                good[answer.status if answer else None] = good.get(answer.status if answer else None, 0) + 1
            if answer is None or answer.headers.get("connection", "").lower() == "close":
                peer = Peer(daemon, seen)
        peer.socket.close()

    threads = [threading.Thread(target=ill, args=(i,)) for i in range(12)]
    threads += [threading.Thread(target=well) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_quiet(daemon):
    """Until the one connection is the one that asks and nothing is parked."""
    for _ in range(100):
        values = metrics(daemon)
        if total(values, "halutd_connections") <= 1 and total(values, "halutd_requests_in_progress") == 0:
            return values
        time.sleep(0.1)
    return values


def check(name, is_so, detail, failures):
    print(f"{'ok  ' if is_so else 'FAIL'} {name}: {detail}", flush=True)
    if not is_so:
        failures.append(name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1 / 3)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    args = parser.parse_args()
    print(f"seed {args.seed}, {args.minutes * 60:.0f} s")
    daemon = Daemon("--request-timeout-ms", "2000", "--body-max", "64K", "--connections-per-address-max", "0",
                    "--queue-max", "64", "--log-level", "error")
    failures, seen, good = [], Seen(), {}
    crowd(daemon, min(5.0, args.minutes * 30), args.seed, Seen(), {})  # so that what is kept is there
    before = wait_quiet(daemon)
    fds, memory = descriptors(daemon), resident(daemon)
    crowd(daemon, args.minutes * 60, args.seed + 1, seen, good)
    check("it lives", daemon.process.poll() is None, daemon.said()[-300:], failures)
    after = wait_quiet(daemon)

    def grown(name, **labels):
        return total(after, name, **labels) - total(before, name, **labels)

    answers = sum(seen.statuses.values())
    check("no wrong answer", not seen.wrong, seen.wrong[:3], failures)
    check("who behaves is served", set(good) <= {200, 503} and good.get(200, 0) > 0, good, failures)
    ended, aborted = grown("halutd_requests_total"), grown("halutd_requests_aborted_total")
    unsent = {status: f"{grown('halutd_requests_total', code=str(status)):.0f} sent, {count} seen"
              for status, count in sorted(seen.statuses.items())
              if grown("halutd_requests_total", code=str(status)) < count}
    check("what was seen was sent, by status", not unsent, unsent or dict(sorted(seen.statuses.items())), failures)
    # Each classification that was counted as a success had an answer made; those whose peer left are counted apart.
    success = grown("halutd_inference_success_total")
    classified = grown("halutd_requests_total", code="200", path="/v1/classify")
    check("each inference is an answer or an abort", classified <= success <= classified + aborted,
          f"{success:.0f} inferences, {classified:.0f} answers, {aborted:.0f} aborted", failures)
    check("nothing is in progress", total(after, "halutd_requests_in_progress") == 0, "", failures)
    check("no connection stays", total(after, "halutd_connections") <= 1, total(after, "halutd_connections"), failures)
    held = total(after, "halutd_body_bytes_held")
    check("no body stays", held == 0, held, failures)
    check("no descriptor stays", descriptors(daemon) <= fds, f"{descriptors(daemon)}, {fds} before", failures)
    growth = resident(daemon) - memory
    # The address sanitizer keeps what was freed, the thread sanitizer what each thread did to it.
    kept = 512 << 20 if {"ASAN_OPTIONS", "TSAN_OPTIONS"} & set(os.environ) else 0
    check("memory is flat", growth < (4 << 20) + kept, f"{growth >> 10} KiB more", failures)
    check("it stops", daemon.stop() == 0, f"{answers} answers seen, {ended:.0f} sent, {aborted:.0f} aborted; "
          f"{sum(seen.early.values())} seen that came before a request", failures)
    print(f"{11 - len(failures)} passed, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
