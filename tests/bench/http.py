#!/usr/bin/python3
"""http.py BUILD [--rounds N] [--seconds S]: what serving costs, on top of computing.

    overhead    CPU time of the server for a POST of 3,072 bytes at 16 connections, to classify with a network whose
                kernel costs next to nothing, against a bare libuv server that sends the same body back (echo.c);
                with the kernel's part of both (system) and without (user)
    throughput  answers a second at saturation (64 connections) against images a second of `halut bench`
    latency     the 99th percentile at half of that rate, and at half of what one connection gets, sent evenly (load.c),
                against the median time of computing. Batches make saturation much more than one processor does image by
                image, so that half of it can be most of what it does without a queue.

Servers run on one processor, clients on another. Rounds of what is compared are interleaved; figures are medians. Needs
NumPy and wrk.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOP / "models/golden"))
import make  # noqa: E402

BYTES = 3072
SHIPPED = TOP / "models/resnet9-cifar10.safetensors"
HERE, THERE = (sorted(os.sched_getaffinity(0)) * 2)[:2]  # of the servers, of the clients
CONNECTIONS = 16


class Server:
    def __init__(self, *command):
        self.process = subprocess.Popen(["taskset", "-c", str(HERE), *map(str, command)], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.port = int(re.search(r"(\d+)\s*$", self.process.stdout.readline()).group(1))

    def cpu(self):
        """Nanoseconds of processor time of all its threads: in all, and in system calls, which is counted in ticks."""
        process = pathlib.Path(f"/proc/{self.process.pid}")
        whole = sum(int((task / "schedstat").read_text().split()[0]) for task in (process / "task").iterdir())
        fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        return whole, int(fields[12]) * 10 ** 9 / os.sysconf("SC_CLK_TCK")

    def saturate(self, script, connections, seconds):
        """Answers a second, and the server's microseconds of processor time for each: in all, and in system calls."""
        before = self.cpu()
        done = subprocess.run(["taskset", "-c", str(THERE), "wrk", "-t", "1", "-c", str(connections), "-d",
                               f"{seconds}s", "-s", script, f"http://127.0.0.1:{self.port}/v1/classify"],
                              capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in done or "Socket errors" in done:
            raise SystemExit(done)
        answers = int(re.search(r"(\d+) requests in", done).group(1))
        whole, system = ((b - a) / answers / 1e3 for a, b in zip(before, self.cpu()))
        return float(re.search(r"Requests/sec: *([\d.]+)", done).group(1)), whole, system

    def evenly(self, build, body, rate, seconds):
        """Requests at even distances: what load.c found."""
        done = subprocess.run(["taskset", "-c", str(THERE), build / "tests/bench/load", str(self.port), "/v1/classify",
                               body, f"{rate:.3f}", str(seconds), str(CONNECTIONS)],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)

    def stop(self):
        self.process.terminate()
        if self.process.wait(20) not in (0, -15):
            raise SystemExit(f"a server ended with {self.process.returncode}")
        self.process.stdout.close()


def daemon(build, folder):
    return Server(build / "halutd", "--listen", "127.0.0.1:0", "--models", folder, "--workers", "1")


def bench(build, model, batch, seconds):
    done = subprocess.run(["taskset", "-c", str(HERE), build / "halut", "bench", model, "--batch", str(batch),
                           "--seconds", str(seconds), "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def overhead(build, folder, script, args):
    """Rows of the table: microseconds by both servers, and their ratio."""
    net = make.Net("next-to-nothing", [3, 32, 32], [125, 123, 114], 1)
    net.pool("maxpool", (16, 16))
    net.pool("maxpool", (2, 2))
    net.linear(10)
    model = folder / "nothing.safetensors"
    net.save(str(model), [f"class {i}" for i in range(10)], 1, "for tests/bench/http.py")
    kernel = bench(build, model, 1, 1)["cpu_seconds_per_image"] * 1e6
    shutil.copytree(folder, folder / "nothing", ignore=lambda *_: ["nothing"])
    port, ours, theirs = free_port(), [], []
    echo, served = Server(build / "tests/bench/echo", port), daemon(build, folder / "nothing")
    for _ in range(args.rounds):
        _, whole, system = echo.saturate(script, CONNECTIONS, args.seconds)
        theirs.append((whole, whole - system, system))
        _, whole, system = served.saturate(script, CONNECTIONS, args.seconds)
        ours.append((whole - kernel, whole - kernel - system, system))
    echo.stop()
    served.stop()
    rows = []
    for part, mine, bare in zip(("", ", user", ", system"), zip(*ours), zip(*theirs)):
        rows += [(f"CPU a POST of 3,072 bytes, bare libuv echo{part}", f"{spread(bare, 1)} µs"),
                 (f"the same, halutd less its kernel ({kernel:.1f} µs){part}", f"{spread(mine, 1)} µs"),
                 (f"ratio{part}", spread([a / b for a, b in zip(mine, bare)]))]
    return rows


def serving(build, folder, script, args):
    """Rows of the table: throughput and latency with the shipped network."""
    (folder / "shipped").mkdir()
    shutil.copy(SHIPPED, folder / "shipped")
    served, alone, single, rates, computing = daemon(build, folder / "shipped"), [], [], [], []
    halves = {"half of saturation": rates, "half of what one connection gets": single}
    loads = {name: [] for name in halves}
    for _ in range(args.rounds):
        alone.append(bench(build, SHIPPED, 64, args.seconds)["images_per_second"])
        rates.append(served.saturate(script, 64, args.seconds)[0])
        single.append(served.saturate(script, 1, args.seconds)[0])
        computing.append(1e3 / bench(build, SHIPPED, 1, args.seconds)["images_per_second"])
        for name, whole in halves.items():
            loads[name].append(served.evenly(build, folder / "body", whole[-1] / 2, args.seconds))
    served.stop()
    rows = [("images/s, `halut bench`", spread(alone, 0)), ("answers/s at saturation", spread(rates, 0)),
            ("share", spread([a / b for a, b in zip(rates, alone)])),
            ("answers/s to one connection, one after another", spread(single, 0)),
            ("an image computed alone", f"{spread(computing)} ms")]
    for name, found in loads.items():
        late = [one["p99_us"] / 1e3 for one in found]
        rows += [(f"median at {name}", f"{spread([one['p50_us'] / 1e3 for one in found])} ms"),
                 ("99th percentile", f"{spread(late)} ms"),
                 ("the client itself late by, at worst", f"{spread([one['unpunctual_us'] / 1e3 for one in found])} ms"),
                 ("99th percentile to computing", spread([a / b for a, b in zip(late, computing)]))]
    return rows


def main():
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("build", type=pathlib.Path)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--seconds", type=int, default=3)
    args = cli.parse_args()
    build = args.build.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "body").write_bytes(bytes(range(256)) * (BYTES // 256))
        script = folder / "post.lua"
        script.write_text(f'local file = io.open("{folder}/body", "rb")\n'
                          'wrk.method, wrk.body = "POST", file:read("*a")\n')
        rows = overhead(build, folder, script, args) + serving(build, folder, script, args)
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(": ")[1].strip() for line in file if line.startswith("model name")), "this machine")
    print(f"{name}, server on processor {HERE}, client on {THERE}; median (least-most) of {args.rounds} rounds\n")
    print("| what | figure |\n| --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
