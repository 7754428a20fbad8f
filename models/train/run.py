"""What every stage does alike: the device, checkpoints written whole or not at all, a CSV log, a progress bar."""
import contextlib
import copy
import csv
import ctypes
import itertools
import os
import pickle
import subprocess
import sys
import time
import traceback

import torch
import torch.nn as nn

from .data import normalise, targets


def command(main):
    """Runs a stage. What its user can mend, which is what this package refuses and what the system does, ends it with
    one line; a fault of ours shows where it is."""
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"error: {error}")
    except ValueError as error:
        frame = list(traceback.walk_tb(error.__traceback__))[-1][0]
        if not (frame.f_globals.get("__package__") or "").startswith(__package__):
            raise
        raise SystemExit(f"error: {error}")


def machine_options(cli, device=None):
    """What every stage takes: where it computes, if it is not on that device always, and on how many threads."""
    if device is None:
        cli.add_argument("--device", help="of PyTorch; default cuda where there is one, else cpu")
    else:
        cli.set_defaults(device=device)
    cli.add_argument("--threads", type=int, default=2, help="of the CPU")


def keep_memory():
    """Has glibc keep what is freed: faulting the pages of maps in at every step costs a third of it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-4, 0), (-1, -1), (-2, 2 ** 28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)


def prepare(args, seed=0):
    """Returns the device to compute on."""
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    try:
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SystemExit(f"--device {args.device}: {str(error).splitlines()[0]}")
    return device


def check_epochs(cli, args):
    if args.epochs < 1:
        cli.error(f"--epochs {args.epochs}: must be at least 1")


def check_out(cli, option, args):
    """A run that begins from another's weights cannot write over them."""
    if os.path.exists(args.start) and os.path.exists(args.out) and os.path.samefile(args.start, args.out):
        cli.error(f"{option}: {args.out} is where it starts from; name another --out")


def device_of(model):
    return next(model.parameters()).device


def has_bfloat16(device):
    """Whether it computes in bfloat16 at speed. A CPU without AVX-512 does so many times slower than in float32."""
    return device.type == "cuda" or (device.type == "cpu" and "usage: AVX512" in torch.__config__.show())


def mixed(device):
    """bfloat16 where it is safe, on devices that gain by it."""
    if has_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def save(path, state):
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def load_state(path):
    """A checkpoint, on the CPU. A file from elsewhere cannot run code, but with PyTorch 1, whose safe reader does not
    know the numbers in an optimiser's state."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=int(torch.__version__.split(".")[0]) >= 2)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: no checkpoint: {str(error).splitlines()[0] if str(error) else 'it is cut off'}")
    if not isinstance(state, dict) or not ("model" in state or "average" in state):
        raise ValueError(f"{path}: no checkpoint of these stages")
    return state


def averaged(path):
    state = load_state(path)
    if "average" not in state:
        raise ValueError(f"{path} has no averaged weights: it is what convert writes")
    return state["average"]


def load_weights(model, state):
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights of another network: {' '.join(str(error).split())[:300]}")


def weights(path):
    """The averaged weights in a checkpoint of `teacher` or `finetune`; in one of `convert` the only ones."""
    state = load_state(path)
    return state["average" if "average" in state else "model"]


class Log:
    """Appends one CSV row an epoch; a run that is resumed after `epochs` goes on in the same file behind those."""

    def __init__(self, path, columns, epochs):
        self.path, self.columns = path, columns
        kept = []
        if os.path.exists(path):
            with open(path, newline="") as file:
                kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= epochs]
        with open(path + ".part", "w", newline="") as file:
            csv.writer(file).writerows([columns, *kept])
        os.replace(path + ".part", path)

    def row(self, **values):
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([values[c] for c in self.columns])
        print("  ".join(f"{c} {values[c]}" for c in self.columns), flush=True)


class Progress:
    """A bar with rate and time left on a terminal; silent elsewhere."""

    def __init__(self, total, label):
        self.total, self.label, self.start = total, label, time.time()
        self.shown = 0.0

    def step(self, done, note=""):
        now = time.time()
        if not sys.stderr.isatty() or (now - self.shown < 0.5 and done < self.total):
            return
        self.shown = now
        left = (now - self.start) / max(done, 1) * (self.total - done)
        bar = "#" * (30 * done // self.total)
        end = "\n" if done == self.total else ""
        print(f"\r{self.label} [{bar:<30}] {done}/{self.total} {left:5.0f} s left {note}",
              end=end, file=sys.stderr, flush=True)


class Average:
    """Exponential moving average of the parameters; batch-norm statistics are measured again for it."""

    def __init__(self, model, decay):
        self.model, self.decay, self.steps = copy.deepcopy(model), decay, 0

    @torch.no_grad()
    def update(self, model):
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for mine, theirs in zip(self.model.parameters(), model.parameters()):
            mine.lerp_(theirs, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers()):
            mine.copy_(theirs)


@torch.no_grad()
def recalibrate(model, batches, count):
    """Replaces the running batch-norm statistics by the exact average over at most `count` batches."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    batches = itertools.islice(batches, count)
    first = next(batches, None)
    if first is None:
        raise ValueError("there is no batch to measure batch norm on (fewer images than a batch holds?)")
    momentum = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    model.train()
    for x, _ in itertools.chain([first], batches):
        with mixed(device_of(model)):
            model(x.to(device_of(model)))
    for m, value in zip(norms, momentum):
        m.momentum = value
    model.eval()


@torch.no_grad()
def logits(model, images, size=250):
    """On the CPU, [images][classes]."""
    model.eval()
    device = device_of(model)
    with mixed(device):
        parts = [model(normalise(images[i:i + size]).to(device)).float() for i in range(0, len(images), size)]
    return torch.cat(parts).cpu()


def accuracy(model, images, labels):
    """Top-1 in percent."""
    return 100.0 * (logits(model, images).argmax(1) == targets(labels, images)).float().mean().item()
