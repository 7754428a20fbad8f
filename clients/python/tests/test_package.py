#!/usr/bin/env python3
# test: pip installs the Python client with its types, which mypy takes in full strictness
# tier: full
# timeout: 600
# sanitizers: none, it runs none of our programs
"""A fresh virtual environment and the client's folder, as a user has them; then programs outside of the checkout."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(HERE)
OFFLINE = re.compile(r"No matching distribution found for setuptools|Temporary failure in name resolution")
RIGHT = """
import halutd
with halutd.Client("http://127.0.0.1:9") as client:
    label: str = client.classify("cat.png").top[0].label
    job: halutd.Job = client.learn([[1.0]], [[1.0]], name="n")
"""
WRONG = "import halutd\nlabel: int = halutd.Client().classify('cat.png').top[0].label\n"


def run(*command, folder, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, **options)


def need_mypy():
    if shutil.which("mypy") is None:
        raise unittest.SkipTest("mypy is not installed")


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        source = os.path.join(cls.folder, "source")
        shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
        # The second way is for a machine without network: what builds the package is then the system's.
        for site, isolation in ((), ()), (("--system-site-packages",), ("--no-build-isolation",)):
            venv = os.path.join(cls.folder, f"venv{len(site)}")
            made = run(sys.executable, "-m", "venv", *site, venv, folder=cls.folder)
            if made.returncode != 0:
                raise unittest.SkipTest(f"no virtual environment: {(made.stdout + made.stderr).strip()[:200]}")
            cls.python = os.path.join(venv, "bin", "python")
            done = run(cls.python, "-m", "pip", "install", "--disable-pip-version-check", "--retries", "0",
                       *isolation, source, folder=cls.folder)
            if done.returncode == 0:
                return
            said = done.stdout + done.stderr
            if not isolation and OFFLINE.search(said):
                continue
            if isolation and re.search(r"No module named '?setuptools|invalid command 'bdist_wheel'", said):
                raise unittest.SkipTest("no network for pip, and no python3-setuptools and python3-wheel")
            raise AssertionError(f"pip: {said}")

    def test_is_the_package_with_its_version(self):
        text = ("import halutd, importlib.metadata as m; "
                "print(halutd.__file__, m.version('halutd') == halutd.__version__)")
        done = run(self.python, "-c", text, folder=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        path, same = done.stdout.split()
        self.assertIn("site-packages", path)
        self.assertEqual(same, "True")

    def test_has_types_for_its_users(self):
        need_mypy()
        for text, code in ((RIGHT, 0), (WRONG, 1)):
            done = run("mypy", "--strict", "--python-executable", self.python, "--cache-dir=/dev/null", "-c", text,
                       folder=self.folder)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertIn('expression has type "str"', done.stdout)


class Source(unittest.TestCase):
    def test_is_strictly_typed(self):
        need_mypy()
        done = run("mypy", "--strict", "--cache-dir=/dev/null", "halutd", folder=PACKAGE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_both_clients_take_the_same_calls(self):
        sys.path.insert(0, PACKAGE)
        import halutd

        def calls(kind):
            return {name: str(inspect.signature(member).replace(return_annotation=inspect.Signature.empty))
                    for name, member in vars(kind).items() if inspect.isfunction(member) and name[0] != "_"}

        self.assertEqual(calls(halutd.Client), calls(halutd.AsyncClient))


if __name__ == "__main__":
    unittest.main()
