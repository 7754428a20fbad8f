#!/usr/bin/env python3
# test: the Python example learns, compares and plots on the real daemon, and does without matplotlib
# tier: full
# timeout: 400
# sanitizers: asan, minutes in the other build; learn and test_client drive the same code
"""Runs examples/error_and_speed.py as a user would, in a folder of its own."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(HERE)
TOP = os.path.dirname(os.path.dirname(PACKAGE))
BUILD = os.environ.get("HALUT_BUILD", os.path.join(TOP, "build"))
EXAMPLE = os.path.join(PACKAGE, "examples", "error_and_speed.py")

if importlib.util.find_spec("numpy") is None:
    print("skip: the Python example: NumPy is not installed")
    sys.exit(77)


class Example(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        models = os.path.join(self.folder, "models")
        os.mkdir(models)
        shutil.copy(os.path.join(TOP, "models", "signal.safetensors"), models)
        self.daemon = subprocess.Popen([os.path.join(BUILD, "halutd"), "--listen", "127.0.0.1:0", "--models", models],
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(self.daemon.stdout.close)
        self.addCleanup(self.daemon.wait, 20)
        self.addCleanup(self.daemon.terminate)
        self.url = self.daemon.stdout.readline().split()[-1]

    def run_example(self, *path):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join((*path, PACKAGE)), MPLBACKEND="Agg",
                           MPLCONFIGDIR=self.folder)
        done = subprocess.run([sys.executable, EXAMPLE, self.url], cwd=self.folder, env=environment,
                              capture_output=True, text=True, timeout=200)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def compares(self, said):
        rows = re.findall(r"^ +(\d+)  (\d\.\d{4}) +(\d+) +\d+\.\d\d$", said, re.M)
        self.assertEqual([int(row[0]) for row in rows], [4, 8, 16, 32], said)
        errors = [float(row[1]) for row in rows]
        self.assertEqual(errors, sorted(errors, reverse=True))
        self.assertLess(errors[-1], 0.1)
        self.assertGreater(errors[-1], 0)
        self.assertTrue(all(int(row[2]) > 0 for row in rows), said)
        self.assertRegex(said, r"(?m)^ +exact  0\.0000 +[1-9]\d*$")

    def test_plots(self):
        if importlib.util.find_spec("matplotlib") is None:
            self.skipTest("matplotlib is not installed")
        self.compares(self.run_example())
        with open(os.path.join(self.folder, "error_and_speed.png"), "rb") as file:
            self.assertEqual(file.read(8), b"\x89PNG\r\n\x1a\n")

    def test_does_without_matplotlib(self):
        hidden = os.path.join(self.folder, "hidden")
        os.mkdir(hidden)
        with open(os.path.join(hidden, "matplotlib.py"), "w") as file:
            file.write("raise ImportError('hidden')\n")
        said = self.run_example(hidden)
        self.compares(said)
        self.assertIn("no plot", said)
        self.assertFalse(os.path.exists(os.path.join(self.folder, "error_and_speed.png")))


if __name__ == "__main__":
    unittest.main()
