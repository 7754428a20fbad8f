#!/usr/bin/env python3
# test: how it is started: sockets passed by systemd, readiness, Unix sockets, giving up root, IPv6
# timeout: 120
"""Starts the daemon the ways that a service manager does."""
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import unittest

from daemon import BUILD, PRODUCT, read_answer

HALUTD = os.path.join(BUILD, "halutd")


def ask(family, address):
    with socket.socket(family) as connection:
        connection.settimeout(20)
        connection.connect(address)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        return read_answer(connection)


def as_child(sockets, names=None, own_pid=True):
    """What systemd does between fork and exec: the sockets from descriptor 3 on, and the variables."""
    for i, one in enumerate([os.dup2(one.fileno(), 50 + i) for i, one in enumerate(sockets)]):
        os.dup2(one, 3 + i, inheritable=True)
    os.environ["LISTEN_FDS"] = str(len(sockets))
    os.environ["LISTEN_PID"] = str(os.getpid() if own_pid else os.getppid())
    if names:
        os.environ["LISTEN_FDNAMES"] = names


class Startup(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        os.chmod(self.folder, 0o755)
        self.models = os.path.join(self.folder, "models")
        os.mkdir(self.models)
        shutil.copy(PRODUCT, self.models)
        self.running = []

    def tearDown(self):
        for process in self.running:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
            process.stderr.close()
        shutil.rmtree(self.folder)

    def start(self, *options, **keys):
        process = subprocess.Popen([HALUTD, "--models", self.models, *options], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, **keys)
        self.running.append(process)
        return process

    def start_passed(self, sockets, *options, **how):
        """Through a small parent, since the environment must name the pid of the daemon itself."""
        out = os.open(os.path.join(self.folder, "out"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        process = os.fork()
        if process == 0:
            try:
                os.dup2(out, 1)
                os.dup2(out, 2)
                as_child(sockets, **how)
                os.execv(HALUTD, [HALUTD, "--models", self.models, "--listen", "127.0.0.1:0", *options])
            finally:
                os._exit(99)
        os.close(out)
        return process

    def out(self):
        with open(os.path.join(self.folder, "out")) as file:
            return file.read()

    def finish(self, process):
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 0)

    def test_sockets_that_systemd_passes_replace_listen(self):
        tcp = socket.create_server(("127.0.0.1", 0))
        path = os.path.join(self.folder, "passed.sock")
        local = socket.socket(socket.AF_UNIX)
        local.bind(path)
        local.listen()
        process = self.start_passed([tcp, local], names="web:local")
        self.assertEqual(ask(socket.AF_INET, tcp.getsockname()).status, 200)
        self.assertEqual(ask(socket.AF_UNIX, path).status, 200)
        self.assertEqual(self.out().count("listening on"), 2, self.out())
        self.assertIn(f"listening on http://127.0.0.1:{tcp.getsockname()[1]}\n", self.out())
        self.assertIn(f"listening on unix:{path}\n", self.out())
        os.kill(process, signal.SIGTERM)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), 0)
        self.assertTrue(os.path.exists(path), "the path of a passed socket is not the daemon's to remove")
        tcp.close()
        local.close()

    def test_sockets_for_another_process_are_left_alone(self):
        with socket.create_server(("127.0.0.1", 0)) as tcp:
            process = self.start_passed([tcp], own_pid=False)
            until = time.monotonic() + 20
            while "listening on" not in self.out() and time.monotonic() < until:
                time.sleep(0.02)
            self.assertNotIn(f":{tcp.getsockname()[1]}\n", self.out())
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)

    def test_what_is_no_listening_socket_is_refused(self):
        with socket.socket() as idle:
            process = self.start_passed([idle])
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), 1)
        self.assertIn("the passed descriptor 3 is no listening stream socket", self.out())

    def test_it_tells_systemd_when_it_is_ready_and_when_it_stops(self):
        for path in (os.path.join(self.folder, "notify"), "\0halutd-test-%d" % os.getpid()):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
                told.bind(path)
                told.settimeout(20)
                process = self.start("--listen", "127.0.0.1:0",
                                     env={**os.environ, "NOTIFY_SOCKET": path.replace("\0", "@")})
                self.assertEqual(told.recv(100), b"READY=1")
                process.send_signal(signal.SIGTERM)
                self.assertEqual(told.recv(100), b"STOPPING=1")
                self.assertEqual(process.wait(20), 0)

    def test_unix_sockets_have_the_mode_asked_for(self):
        path = os.path.join(self.folder, "one.sock")
        for mode, options in ((0o660, ()), (0o606, ("--socket-mode", "0606"))):
            process = self.start("--listen", f"unix:{path}", *options, umask=0o077)
            self.assertIn("listening", process.stdout.readline())
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode)
            self.assertEqual(ask(socket.AF_UNIX, path).status, 200)
            self.finish(process)
            self.assertFalse(os.path.exists(path))

    def test_any_address_takes_both_families(self):
        process = self.start("--listen", "[::]:0")
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        self.assertEqual(ask(socket.AF_INET6, ("::1", port)).status, 200)
        self.assertEqual(ask(socket.AF_INET, ("127.0.0.1", port)).status, 200)
        self.finish(process)

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_root_is_given_up_for_good(self):
        path = os.path.join(self.folder, "one.sock")
        user = pwd.getpwnam("nobody")
        process = self.start("--listen", f"unix:{path},127.0.0.1:0", "--user", "nobody")
        process.stdout.readline()
        self.assertIn("listening", process.stdout.readline())
        for task in os.listdir(f"/proc/{process.pid}/task"):
            with open(f"/proc/{process.pid}/task/{task}/status") as file:
                status = dict(line.split(":", 1) for line in file)
            self.assertEqual(set(status["Uid"].split()), {str(user.pw_uid)})
            self.assertEqual(set(status["Gid"].split()), {str(user.pw_gid)})
            self.assertNotIn("0", status["Groups"].split())
            self.assertEqual(int(status["CapEff"], 16), 0)
        self.assertEqual(os.stat(path).st_uid, user.pw_uid)
        self.assertEqual(ask(socket.AF_UNIX, path).status, 200)
        process.send_signal(signal.SIGHUP)  # reads what it may still read
        self.finish(process)

    def test_bad_users_and_modes_are_in_the_report(self):
        done = subprocess.run([HALUTD, "--models", self.models, "--user", "no-such-user-here", "--socket-mode", "0888",
                               "--check-config"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn('user: no user named "no-such-user-here"', done.stderr)
        self.assertIn('socket-mode: "0888" is not in', done.stderr)
        done = subprocess.run([HALUTD, "--models", self.models, "--user", "root", "--check-config"],
                              capture_output=True, text=True)
        self.assertIn('user: "root" is root', done.stderr)


if __name__ == "__main__":
    unittest.main()
