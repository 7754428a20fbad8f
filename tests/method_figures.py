#!/usr/bin/python3
# test: the figures of models/METHOD.md are those that models/figures.py draws, and its numbers those that it finds
# timeout: 240
# tier: full
# sanitizers: asan, minutes in the other build; inspection drives the same code
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODELS = os.path.join(TOP, "models")
BUILD = os.environ.get("HALUT_BUILD", os.path.join(TOP, "build"))
BYTES_MAX = 100_000  # of all figures

try:
    import matplotlib  # noqa: F401
    import numpy as np
    from PIL import Image
except ImportError as missing:
    print(f"skip: the figures of models/METHOD.md: {missing}; Debian: python3-matplotlib python3-numpy python3-pil")
    sys.exit(77)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


class Method(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        command = [sys.executable, os.path.join(MODELS, "figures.py"), BUILD, cls.folder.name]
        cls.facts = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        with open(os.path.join(MODELS, "METHOD.md")) as file:
            cls.page = " ".join(file.read().split())

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_figures(self):
        drawn = sorted(os.listdir(self.folder.name))
        self.assertEqual(sorted(re.findall(r"!\[[^]]+\]\(([^)]+)\)", self.page)), drawn)
        kept = [os.path.join(MODELS, name) for name in drawn]
        self.assertLess(sum(map(os.path.getsize, kept)), BYTES_MAX)
        for name, path in zip(drawn, kept):
            new, old = pixels(os.path.join(self.folder.name, name)), pixels(path)
            self.assertEqual(new.shape, old.shape, name)
            # Another version of a font may move the edge of a letter.
            self.assertLess(np.abs(new - old).mean(), 1, name)

    def test_numbers_of_the_path_and_the_sum(self):
        facts = self.facts
        ways = [f"{value} > {threshold} {'right' if value > threshold else 'left'}"
                for value, threshold in zip(facts["values"], facts["thresholds"])]
        self.assertIn(f"{', '.join(ways)}, so binary {facts['code']:04b}, code {facts['code']}.", self.page)
        self.assertIn(f"Code {facts['code']} of codebook 15 names a row whose entry for output 7 is {facts['entry']}.",
                      self.page)
        self.assertIn(f"The rows that the {facts['codebooks']} codes name", self.page)
        self.assertIn(f"({facts['sum']} − {-facts['bias']}) · {facts['scale']} / 65536, rounded down, is "
                      f"{facts['value']};", self.page)
        self.assertEqual((facts["sum"] + facts["bias"]) * facts["scale"] // 65536, facts["value"])

    def test_numbers_of_the_error(self):
        told = re.search(r"one codebook loses ([\d.]+) of the variance, 16 lose ([\d.]+), and 64, one a column, "
                         r"([\d.]+); with 2 prototypes 64 codebooks still lose ([\d.]+)\.", self.page)
        lost = self.facts["lost"]
        found = [lost["16"][0], lost["16"][4], lost["16"][6], lost["2"][6]]
        for page, here in zip(told.groups(), found):
            self.assertLess(abs(float(page) / here - 1), 0.05, page)


if __name__ == "__main__":
    unittest.main()
