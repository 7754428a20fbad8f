# %% [markdown]
# # Error against speed
# Learns one product with more and more codebooks on a running daemon, and compares each with the exact product: how
# much of it is lost, and how long a row takes. Needs NumPy; draws a plot where matplotlib is installed.
#
# The cells run in Jupyter and in editors that know `# %%`, or all at once:
# `error_and_speed.py [http://127.0.0.1:8080]`

# %%
import json
import sys
import time
import urllib.request

import numpy as np

import halutd

URL = next((word for word in sys.argv[1:] if word.startswith("http://")), "http://127.0.0.1:8080")
client = halutd.Client(URL)
client.wait_healthy()

# %% [markdown]
# The rows follow eight causes through a soft threshold, with a little noise: 256 columns that resemble each other.
# `a` is learned from, `new` is what comes later.

# %%
rng = np.random.default_rng(1)
causes = rng.normal(size=(8, 256))


def rows(count):
    return (np.tanh(rng.normal(size=(count, 8)) @ causes / 2) + 0.1 * rng.normal(size=(count, 256))).astype(np.float32)


a, new = rows(10000), rows(2000)
b = rng.normal(size=(256, 64)).astype(np.float32)
exact = new @ b
CALLS = 10

# %% [markdown]
# Learn, multiply, compare. The error is the share of the variance that is lost. The time of a row is the server's own,
# of computing alone: the least that its statistics gained by a call, over the rows.


# %%
def computed(model):
    """Nanoseconds that the server has computed for the model."""
    with urllib.request.urlopen(f"{URL}/v2/models/{model}/stats") as reply:
        return json.load(reply)["model_stats"][0]["inference_stats"]["compute_infer"]["ns"]


def measure(codebooks):
    model = f"error-{codebooks}"
    job = client.learn(a, b, name=model, codebooks=codebooks, by="input")  # by the product: better, but slower
    error = ((np.asarray(client.matmul(new, model=model).c) - exact) ** 2).mean() / exact.var()
    clock = [computed(model)]
    for _ in range(CALLS):
        client.matmul(new, model=model)
        clock.append(computed(model))
    return error, np.diff(clock).min() / len(new), job.result["seconds"]


print("codebooks  error   ns a row  learned in s")
results = {}
for codebooks in (4, 8, 16, 32):
    results[codebooks] = error, nanoseconds, seconds = measure(codebooks)
    print(f"{codebooks:9}  {error:.4f}  {nanoseconds:8.0f}  {seconds:12.2f}")

# %% [markdown]
# The exact product, here, by NumPy with the BLAS and the threads that it has:

# %%
clock = [time.perf_counter()]
for _ in range(CALLS):
    new @ b
    clock.append(time.perf_counter())
multiplied = np.diff(clock).min() / len(new) * 1e9
print(f"    exact  0.0000  {multiplied:8.0f}")

# %%
try:
    import matplotlib.pyplot as plt
except ImportError:
    print("no plot: matplotlib is not installed")
else:
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    error, nanoseconds, _ = zip(*results.values())
    axes.plot(nanoseconds, error, marker="o")
    for codebooks, x, y in zip(results, nanoseconds, error):
        axes.annotate(f"{codebooks} codebooks", (x, y), (5, 5), textcoords="offset points")
    axes.axvline(multiplied, linestyle="--", color="grey", label="exact, NumPy")
    axes.set(xlabel="nanoseconds a row", ylabel="share of the variance lost", yscale="log", xlim=(0, None))
    axes.legend()
    figure.savefig("error_and_speed.png")

client.close()
