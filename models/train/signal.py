#!/usr/bin/python3
"""signal.py HALUT MODEL: learn the example product, eight samples of a signal to mean, slope and curvature.

The rows of A are noisy parabolas, the columns of B the least-squares weights of the three figures, so
that anybody can tell from the samples what the exact answer is. Same seed, same model.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np

SAMPLES, ROWS = 8, 20000


def draw(rng):
    """Signals around a level, with a slope, a curvature and some noise."""
    time = np.arange(SAMPLES) - (SAMPLES - 1) / 2
    level, slope, curvature = (rng.uniform(-limit, limit, (ROWS, 1)) for limit in (10, 2, 0.3))
    signals = level + slope * time + curvature * time**2 + 0.2 * rng.normal(size=(ROWS, SAMPLES))
    square = time**2 - np.mean(time**2)
    weights = [np.full(SAMPLES, 1 / SAMPLES), time / np.sum(time**2), square / np.sum(square**2)]
    return signals.astype(np.float32), np.stack(weights, axis=1).astype(np.float32)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, name) for name in ("a.npy", "b.npy")]
        for name, array in zip(names, draw(np.random.default_rng(0))):
            np.save(name, array)
        subprocess.run([sys.argv[1], "learn", "--a", names[0], "--b", names[1], "-C", str(SAMPLES),
                        "--name", "signal", "-o", sys.argv[2]], check=True)


if __name__ == "__main__":
    main()
