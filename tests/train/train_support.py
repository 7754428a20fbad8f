"""What the tests of models/train share."""
import os
import sys
import tempfile

sys.dont_write_bytecode = True
TOP = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path[:0] = [os.path.join(TOP, "models"), os.path.join(TOP, "models", "golden")]
PROGRAM = os.path.join(os.environ.get("HALUT_BUILD", os.path.join(TOP, "build")), "halut")


def need_torch():
    """Ends the program as skipped where PyTorch is missing."""
    try:
        import torch
    except ImportError as error:
        print(f"skip: {sys.executable} has no PyTorch ({error}); Debian: python3-torch")
        sys.exit(77)
    torch.set_num_threads(2)
    torch.manual_seed(1)
    return torch


def folder():
    return tempfile.TemporaryDirectory(prefix="halut-train-")
