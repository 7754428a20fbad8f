#!/usr/bin/env python3
# test: without descriptors or past connections-max the daemon waits without spinning, and takes all up again
# timeout: 120
import os
import resource
import tempfile
import time
import unittest

from daemon import BUILD, PIXELS, Daemon, read_answer

ASK = b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"


def waited(daemon):
    lines = daemon.ask("GET", "/metrics").body.decode().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("halutd_connections_waited_total ")][0]


def cpu_seconds(daemon):
    with open(f"/proc/{daemon.process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Exhaustion(unittest.TestCase):
    def stall(self, daemon, room, late_at_once):
        """Fills `room` connections and eight more, of which at most so many are served at once; the others wait, then
        get their turn."""
        held = [daemon.connect() for _ in range(room)]
        time.sleep(0.3)
        late = [daemon.connect() for _ in range(8)]
        for connection in late:
            connection.sendall(ASK)
            connection.settimeout(0.2)
        start = cpu_seconds(daemon)
        time.sleep(1)
        self.assertLess(cpu_seconds(daemon) - start, 0.5, "it spins while it waits")
        served = sum(read_answer(connection) is not None for connection in late)
        self.assertLessEqual(served, late_at_once, "there was no stall")
        held[0].sendall(b"POST /v1/classify HTTP/1.1\r\nHost: t\r\nContent-Length: 3072\r\n\r\n" + PIXELS)
        self.assertEqual(read_answer(held[0]).status, 200)  # who is in is served meanwhile
        for connection in held:
            connection.close()
        for connection in late:
            connection.settimeout(10)
        for connection in late[:served]:
            connection.close()
        for connection in late[served:]:  # each makes room for the next
            answer = read_answer(connection)
            self.assertEqual(answer and answer.status, 200)
            connection.close()
        self.assertGreater(waited(daemon), 0)
        for _ in range(20):
            self.assertEqual(daemon.ask("GET", "/healthz").status, 200)
        self.assertEqual(daemon.stop(), 0)

    def test_no_descriptors(self):
        daemon = Daemon("--connections-per-address-max", "0", "--workers", "1")
        used = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (used + 6, used + 6))
        self.stall(daemon, 6, 7)

    def test_connections_leave_descriptors_for_files(self):
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "halutd")
            with open(program, "w", opener=lambda path, flags: os.open(path, flags, 0o755)) as script:
                script.write(f'#!/bin/sh\nulimit -n 80\nexec {os.path.join(BUILD, "halutd")} "$@"\n')
            daemon = Daemon("--connections-per-address-max", "0", "--workers", "1", program=program)
        held = [daemon.connect() for _ in range(60)]
        time.sleep(0.3)
        held[0].sendall(b"POST /v1/reload HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(read_answer(held[0]).status, 200)
        self.assertIn("connections-max is 16, not 1024: there may be 80 descriptors, of which 64 are for files",
                      daemon.said())
        for connection in held:
            connection.close()
        self.assertEqual(daemon.stop(), 0)

    def test_no_connections(self):
        self.stall(Daemon("--connections-max", "6", "--connections-per-address-max", "0", "--workers", "1"), 6, 0)


if __name__ == "__main__":
    unittest.main()
