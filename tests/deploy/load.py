#!/usr/bin/python3
"""load.py URL SECONDS THREADS [LEAST]: post matrices and pictures for a while, LEAST at least, and count what fails.

Every request is its own connection, and is never tried again: what a balancer hides stays hidden,
what it does not hide is counted. Prints `N requests, N failed` and exits with 1 if any failed.
"""
import http.client
import pathlib
import sys
import threading
import time
import urllib.parse

PHOTO = pathlib.Path(__file__).resolve().parents[2] / "models/photo/cat.jpg"
# What is posted where, and what the answer has. The picture is more than one packet, and many buffers' worth.
SMALL = ("/v1/matmul", b'{"model":"signal","a":[[0,1,2,3,4,5,6,7]]}', b'"c":[[')
LARGE = ("/v1/classify", PHOTO.read_bytes(), b'"top":[')
LARGE_EVERY = 8


def post(address, path, body, wanted):
    """One request; returns what went wrong, or None."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200 or wanted not in text:
            return f"status {answer.status}: {text[:200]!r}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
    return None


def main():
    url, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    least = int(sys.argv[4]) if len(sys.argv) > 4 else 10
    address = urllib.parse.urlsplit(url).netloc
    end = time.monotonic() + seconds
    counts, failures = [0] * threads, []

    def work(index):
        while time.monotonic() < end or sum(counts) < least:
            counts[index] += 1
            wrong = post(address, *(SMALL if counts[index] % LARGE_EVERY else LARGE))
            if wrong is not None:
                failures.append(wrong)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for wrong in failures[:5]:
        print(wrong)
    print(f"{sum(counts)} requests, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
