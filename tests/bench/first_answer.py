#!/usr/bin/python3
"""first_answer.py BUILD: from the start of the daemon to its first classified picture.

Starts it with both shipped models again and again; prints the median and the quartiles in
milliseconds of wall clock, and the resident memory at the end.
"""
import os
import statistics
import sys
import time

ROUNDS = 21


def measure(server):
    """Milliseconds to the answer, and resident KiB after it."""
    began = time.perf_counter()
    daemon = server.Daemon()
    answer = daemon.ask("POST", "/v1/classify", server.PIXELS)
    taken = 1000 * (time.perf_counter() - began)
    with open(f"/proc/{daemon.process.pid}/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    daemon.stop()
    if answer is None or answer.status != 200:
        sys.exit("first_answer.py: the daemon did not classify")
    return taken, resident


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    os.environ["HALUT_BUILD"] = sys.argv[1]
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "server"))
    import daemon as server
    times, resident = zip(*(measure(server) for _ in range(ROUNDS)))
    low, middle, high = statistics.quantiles(times, n=4)
    memory = statistics.median(resident) / 1024
    print(f"start to first answer: {middle:.0f} ms ({low:.0f}-{high:.0f}), then {memory:.1f} MiB resident")


if __name__ == "__main__":
    main()
