#!/usr/bin/env python3
# test: halut learn killed while it saves leaves the old model whole, and a folder that loads
# timeout: 200
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np

BUILD = os.environ.get("HALUT_BUILD", "build")
KILLS = 4


class Killed(unittest.TestCase):
    def test_a_save_that_is_killed(self):
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(1)
            np.save(os.path.join(folder, "a.npy"), rng.normal(size=(400, 64)).astype(np.float32))
            np.save(os.path.join(folder, "b.npy"), rng.normal(size=(64, 4000)).astype(np.float32))
            models = os.path.join(folder, "models")
            os.mkdir(models)
            path = os.path.join(models, "m.safetensors")
            command = [os.path.join(BUILD, "halut"), "learn", "--a", os.path.join(folder, "a.npy"), "--b",
                       os.path.join(folder, "b.npy"), "-C", "16", "-o", path]
            subprocess.run(command, check=True, capture_output=True)
            inside = 0
            for _ in range(KILLS):
                known = set(os.listdir(models))
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                while process.poll() is None:  # until it writes beside the model
                    if set(os.listdir(models)) - known:
                        process.send_signal(signal.SIGKILL)
                        break
                    time.sleep(0.0002)
                inside += process.wait() == -signal.SIGKILL
                check = subprocess.run([os.path.join(BUILD, "halut"), "check", path], capture_output=True, text=True)
                self.assertEqual(check.returncode, 0, check.stderr)
                served = subprocess.run([os.path.join(BUILD, "halutd"), "--models", models, "--check-config"],
                                        capture_output=True, text=True)
                self.assertEqual(served.returncode, 0, served.stderr)
            left = [name for name in os.listdir(models) if name.endswith(".part")]
            print(f"killed in the save {inside} times of {KILLS}, {len(left)} unfinished files left", file=sys.stderr)
            self.assertGreater(inside, 0)
            self.assertGreater(len(left), 0, "no kill came before the file was whole")


if __name__ == "__main__":
    unittest.main()
