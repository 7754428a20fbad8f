#!/usr/bin/env python3
# test: every command, option and file that a document names is there, and every block of commands is run
# sanitizers: none, it runs none of our programs
"""Blocks of README.md, TUTORIAL.md and the like are run as they are by scripts that call `guide PAGE`, those of the
clients by clients_readme.py. What takes hours, root or other machines is only named, inline or in a block; of each such
command this looks up the target, the program's own list of options, and the file. The changelog tells of what was."""
import ast
import fnmatch
import functools
import glob
import os
import re
import shlex
import subprocess
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("HALUT_BUILD", os.path.join(TOP, "build"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][a-z-]*")
FILE = re.compile(r"[\w*./-]*[\w*]\.(?:c|h|cpp|inc|sh|py|sv|mk|md|mjs|js|css|html|json|ya?ml|cfg|png|jpg|safetensors)")


def read(*path):
    with open(os.path.join(TOP, *path)) as file:
        return file.read()


def git(*words):
    return subprocess.run(["git", *words], cwd=TOP, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


FILES = git("ls-files", "--cached", "--others", "--exclude-standard")
PAGES = [name for name in FILES if name.endswith(".md") and name != "CHANGELOG.md"]
STAGES = [os.path.basename(name)[:-3] for name in FILES if re.fullmatch(r"models/train/\w+\.py", name)]
# What documents name that is no file of this repository: another project's, and what a command writes.
ELSEWHERE = ("skimage/data/chelsea.png", "ablation/ablation.md")


@functools.cache
def help_of(*command):
    return subprocess.run([os.path.join(BUILD, command[0]), *command[1:], "--help"], capture_output=True, text=True,
                          check=True).stdout


def options_in(text):
    return set(OPTION.findall(text))


@functools.cache
def options_of_script(path):
    """As its parser has them; the stages of training share some."""
    text = read(path)
    for module in re.findall(r"^from \.(\w+) import .*options", text, re.M):  # of several stages
        text += read(os.path.join(os.path.dirname(path), f"{module}.py"))
    return set(re.findall(r'"(--?[a-zA-Z][a-z-]*)"', text)) | {"--help"}


def lacking(words, options):
    """What is wrong with the options among `words`."""
    given = [word.split("=")[0] for word in words if OPTION.match(word)]
    return "".join(f" no option {word}" for word in given if word not in options)


def check_make(words):
    makefiles = read("Makefile") + read("rtl/rtl.mk")
    said = ""
    for word in words:
        name = word.split("=")[0]
        if "=" in word and f"$({name})" not in makefiles and f"$(or $({name})" not in makefiles:
            said += f" no variable {name}"
        if "=" not in word and not re.search(rf"^{re.escape(word)}:", makefiles, re.M):
            said += f" no target {word}"
    return said


def check_halut(words):
    if not words or words[0] == "COMMAND" or words[0].startswith("-"):
        return lacking(words, {"--help", "--version"})
    commands = re.findall(r"^  (\w+)  ", help_of("halut"), re.M)
    if words[0] not in commands:
        return f" no command {words[0]}"
    return lacking(words[1:], options_in(help_of("halut", words[0])))


def check_script(words):
    """A script by its path, or a stage of training by -m."""
    if words[:1] == ["-m"]:
        words = [f"models/{words[1].replace('.', '/')}.py", *words[2:]]
    if words and words[0] not in FILES:
        return f" no file {words[0]}"
    return "" if not words else lacking(words[1:], options_of_script(words[0]))


def check_stage(stage, words):
    return lacking(words, options_of_script(f"models/train/{stage}.py"))


def check_check(name, words):
    source = f"tests/{name}.c"
    if source not in FILES:
        return f" no {source}"
    return "".join(f" no option {word}" for word in words if f'"{word}"' not in read(source))


def check_unit(words):
    verb, *units = words
    known = {"reload": "ExecReload=", "restart": "ExecStart="}
    return "".join(f" {unit} cannot {verb}" for unit in units
                   if verb not in known or known[verb] not in read(f"deploy/systemd/{unit}.service"))


def check_pip(words):
    return "" if words[0] == "install" and f"{words[1].removeprefix('./')}/pyproject.toml" in FILES else " no project"


def check_command(text):
    """What is wrong with a command, "" if nothing, None if it is no command that is known here."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = text.split()
    while words and re.match(r"export$|\w+=", words[0]):
        words = words[1:]
    if not words:
        return ""
    name, rest = words[0].removeprefix("build/"), words[1:]
    programs = {"make": check_make, "halut": check_halut, "systemctl": check_unit, "pip": check_pip,
                "halutd": lambda rest: lacking(rest, options_in(help_of("halutd"))),
                "python3": check_script, "/usr/bin/python3": check_script}
    if name in programs:
        return programs[name](rest)
    if re.fullmatch(r"check_\w+", name):
        return check_check(name, rest)
    if name.removeprefix("train.") in STAGES and (rest or "." in name):
        return check_stage(name.removeprefix("train."), rest)
    return None


def every_option():
    known = options_in(help_of("halutd")) | {"--help"}
    for command in re.findall(r"^  (\w+)  ", help_of("halut"), re.M):
        known |= options_in(help_of("halut", command)) if command != "serve" else set()
    for stage in STAGES:
        known |= options_of_script(f"models/train/{stage}.py")
    return known | options_of_script("models/train/examples/other_networks.py")


def is_file(text, page):
    """A path from the top or from the page's folder, a name that some file has, or a pattern of such."""
    text = re.sub(r"<\w+>", "*", text).removeprefix("./")
    made = re.findall(r"^```python\n# (\w+\.py)$", read(page), re.M)  # by a block of the page
    if text in made or text in ELSEWHERE:
        return True
    near = os.path.normpath(os.path.join(os.path.dirname(page), text))
    return any(fnmatch.fnmatch(name, pattern) for name in FILES
               for pattern in (text, near, *(["*/" + text] if "/" not in text else [])))


def spans(page):
    """The code within the prose, a line each."""
    prose = FENCE.sub("", read(page))
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose)]


class Commands(unittest.TestCase):
    def test_every_block_is_run_or_looked_up(self):
        run = {page for script in glob.glob(os.path.join(TOP, "tests", "*.sh"))
               for page in re.findall(r'^guide (\S+\.md) ', read(script), re.M)}
        run |= set(re.findall(r'"([\w/]+\.md)"', read("tests/clients_readme.py")))
        self.assertGreaterEqual(len(run), 5)
        for page in PAGES:
            for language, text in FENCE.findall(read(page)) if page not in run else ():
                with self.subTest(page=page, text=text):
                    if language == "sh":
                        for line in text.replace("\\\n", "").splitlines():
                            self.assertEqual(check_command(line), "", line)
                    elif language == "python":
                        self.check_calls(text)
                    else:
                        self.assertEqual(language, "", "a block that nothing runs")

    def check_calls(self, text):
        """A sketch: the functions that it imports are there, and take what it gives them."""
        imported = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom):
                source = ast.parse(read("models", node.module.replace(".", "/") + ".py"))
                functions = {one.name: one for one in source.body if isinstance(one, ast.FunctionDef)}
                imported.update((one.name, functions[one.name]) for one in node.names)
            elif isinstance(node, ast.Expr):
                takes = imported[node.value.func.id].args
                names = [one.arg for one in takes.args + takes.kwonlyargs]
                self.assertLessEqual(len(node.value.args), len(takes.args))
                self.assertLessEqual({one.arg for one in node.value.keywords}, set(names))
                self.assertGreaterEqual(len(node.value.args) + len(node.value.keywords),
                                        len(takes.args) - len(takes.defaults))

    def test_every_command_within_prose(self):
        found = 0
        for page in PAGES:
            for span in spans(page):
                said = check_command(span)
                with self.subTest(page=page, span=span):
                    self.assertIn(said, ("", None))
                found += said is not None
        self.assertGreater(found, 60)

    def test_every_option_within_prose(self):
        known, found = every_option(), 0
        done = subprocess.run([os.path.join(BUILD, "halutd"), "--print-config"], capture_output=True, text=True,
                              check=True)
        settings = set(re.findall(r"^#?([a-z-]+) =", done.stdout, re.M))
        for page in PAGES:
            for span in spans(page):
                with self.subTest(page=page, span=span):
                    if span.startswith("--"):
                        self.assertIn(re.split("[ =]", span)[0], known)
                        found += 1
                    if re.fullmatch(r"HALUTD_[A-Z_]+", span):
                        self.assertIn(span[7:].lower().replace("_", "-"), settings)
        self.assertGreater(found, 10)

    def test_every_file_within_prose(self):
        found = 0
        for page in PAGES:
            for span in spans(page):
                if FILE.fullmatch(span) and not span.startswith(("build/", "/")):
                    with self.subTest(page=page, span=span):
                        self.assertTrue(is_file(span, page), span)
                    found += 1
        self.assertGreater(found, 100)


if __name__ == "__main__":
    unittest.main()
