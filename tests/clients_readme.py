#!/usr/bin/env python3
# test: every example of the clients' pages, as written, against the daemon
"""Takes the fenced blocks out of the pages, puts the daemon's address in, and runs each, beside a picture. One line a
block that failed, then the counts."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("HALUT_BUILD", os.path.join(TOP, "build"))
PAGES = ("clients/README.md", "clients/python/README.md")
WRITTEN = "http://127.0.0.1:8080"


def run(language, text, folder):
    environment = dict(os.environ, PYTHONPATH=os.path.join(TOP, "clients", "python"))
    if language == "python":
        command = [sys.executable, "-c", text]
    elif language == "js":
        # Imports are relative to the importing file, and the example is written for the top folder.
        text = text.replace('"./clients', f'"{TOP}/clients')
        command = ["node", "--input-type=module", "-e", text]
    else:
        source, program = os.path.join(folder, "example.c"), os.path.join(folder, "example")
        with open(source, "w") as file:
            file.write(text)
        subprocess.run(["cc", "-std=c17", "-Wall", "-Wextra", "-Werror", f"-I{TOP}", source,
                        f"{TOP}/clients/c/halut_client.c", "-o", program], check=True)
        command = [program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=60)
    if done.returncode != 0 or done.stdout.strip() == "":
        raise RuntimeError(f"exit {done.returncode}\n{done.stdout}{done.stderr}")


def main():
    blocks = []
    for page in PAGES:
        with open(os.path.join(TOP, page)) as file:
            blocks += re.findall(r"^```(\w+)\n(.*?)^```$", file.read(), re.M | re.S)
    models = tempfile.mkdtemp()  # what the examples learn goes there too
    for name in os.listdir(os.path.join(TOP, "models")):
        if name.endswith(".safetensors"):
            shutil.copy(os.path.join(TOP, "models", name), models)
    daemon = subprocess.Popen([os.path.join(BUILD, "halutd"), "--listen", "127.0.0.1:0", "--models", models],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    passed = failed = skipped = 0
    try:
        url = next(filter(None, (re.search(r"http://127[.\d]+:\d+", line)
                                 for line in daemon.stdout))).group()
        threading.Thread(target=daemon.stdout.read, daemon=True).start()
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(os.path.join(TOP, "models", "photo", "cat.jpg"), folder)
            for number, (language, text) in enumerate(blocks, 1):
                if language == "js" and shutil.which("node") is None:
                    skipped += 1
                    print(f"skip: block {number}: no node")
                    continue
                try:
                    run(language, text.replace(WRITTEN, url), folder)
                    passed += 1
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    failed += 1
                    print(f"block {number} ({language}): {error}")
    finally:
        daemon.terminate()
        code = daemon.wait(20)
        shutil.rmtree(models)
        if code != 0:
            failed += 1
            print(f"the daemon ended with {daemon.returncode}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or passed < 4 else 0


sys.exit(main())
