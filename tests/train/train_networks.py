#!/usr/bin/python3
# test: the example of other networks goes all the way, from pictures to a file that is measured as it was trained
# timeout: 240
# tier: full
# sanitizers: none, PyTorch; check_learn and learn_cli run the learner
import json
import os
import subprocess
import sys
import unittest

import train_support

train_support.need_torch()
from train.data import VALIDATION  # noqa: E402

TRAINED, TESTED, APART = 640, 500, 3.0  # pictures; and points between the float network and the served one


def run(folder):
    """The command on the gratings in `folder`: its last line."""
    command = [sys.executable, "-m", "train.examples.other_networks", "--network", "resnet8", "--data", folder,
               "--halut", train_support.PROGRAM, "--out", f"{folder}/out", "--epochs", "4", "--finetune", "1",
               "--images", "300"]
    models = os.path.join(train_support.TOP, "models")
    done = subprocess.run(command, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": models})
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


class Networks(unittest.TestCase):
    def test_goes_all_the_way_and_resumes(self):
        with train_support.folder() as folder:
            images, labels = train_support.gratings(TRAINED + VALIDATION, 1)
            train_support.write_training(folder, images, labels)
            train_support.write_batch(f"{folder}/test_batch.bin", *train_support.gratings(TESTED, 2))
            made = run(folder)
            print(made)
            self.assertEqual(list(made), ["network", "dense", "converted", "finetuned", "served"])
            self.assertGreater(made["dense"], 15)  # chance is 10
            self.assertGreater(made["served"], 15)
            self.assertLessEqual(abs(made["served"] - made["finetuned"]), APART)
            self.assertEqual(run(folder), made)


if __name__ == "__main__":
    unittest.main()
