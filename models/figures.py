#!/usr/bin/env python3
"""figures.py BUILD FOLDER: draws the figures of METHOD.md into FOLDER and prints the numbers that the page names.

With another shipped network: `figures.py build models`, and correct the numbers of the page, which its test compares.
The numbers are a running daemon's own (BUILD/halutd, /v1/explain), those of the model file, and BUILD/halut's reports.
Needs NumPy, Pillow and matplotlib.
"""
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

import matplotlib
import numpy as np
from PIL import Image

import reference

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "resnet9-cifar10.safetensors")
PHOTO = os.path.join(HERE, "photo", "cat.jpg")
LAYER, X, Y, OUTPUT, CODEBOOK = "conv2_conv", 15, 13, 7, 15
CODEBOOKS = (1, 2, 4, 8, 16, 32, 64)
PROTOTYPES = (16, 8, 4, 2)
TAKEN, OTHER = "#c03020", "#b0b0b0"


def picture():
    """The photo as the network sees it: its middle square, 32 x 32."""
    photo = Image.open(PHOTO).convert("RGB")
    left, top = (photo.width - photo.height) // 2, 0
    return photo.crop((left, top, left + photo.height, photo.height)).resize((32, 32), Image.BOX)


def explained(build, pixels):
    """What the daemon tells of one value of one layer."""
    command = [os.path.join(build, "halutd"), "--listen", "127.0.0.1:0", "--models", HERE]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = daemon.stdout.readline().split()[-1]
        query = f"{address}/v1/explain?layer={LAYER}&x={X}&y={Y}&output={OUTPUT}"
        body = np.asarray(pixels).transpose(2, 0, 1).tobytes()
        with urllib.request.urlopen(urllib.request.Request(query, body), timeout=60) as reply:
            return json.load(reply)
    finally:
        daemon.terminate()
        daemon.wait(20)


def save(figure, folder, name):
    """As a PNG of few colours: a third of the bytes."""
    figure.canvas.draw()
    pixels = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    pixels.quantize(96).save(os.path.join(folder, name), optimize=True)
    plt.close(figure)


def tree_spots():
    """Where the nodes 1 to 31 of a tree are drawn; the leaves are 16 to 31."""
    return {node: ((node + 0.5) * 2 ** (4 - level) - 16 - 0.5, 4 - level)
            for level in range(5) for node in range(2 ** level, 2 ** (level + 1))}


def draw_path(folder, pixels, tensors, told):
    """A codebook's tree, the way that was taken, and what its leaves add to one output."""
    path = told["paths"][CODEBOOK]
    taken = {level["node"] for level in path["levels"]} | {16 + path["code"]}
    figure, (photo, tree, bars) = plt.subplots(1, 3, figsize=(11, 4), dpi=80, width_ratios=(2.2, 6, 2.6),
                                               layout="constrained")
    photo.imshow(pixels)
    photo.add_patch(plt.Rectangle((X - 1.5, Y - 1.5), 3, 3, fill=False, color=TAKEN, linewidth=2))
    photo.set_title("the picture, 32 x 32,\nand the place", fontsize=10)
    photo.axis("off")
    spots = tree_spots()
    for node in range(2, 32):
        inside = node in taken
        ends = np.array([spots[node // 2], spots[node]]).T
        tree.plot(*ends, color=TAKEN if inside else OTHER, linewidth=2 if inside else 1, zorder=1)
    for node, (x, y) in spots.items():
        label = node - 16 if node >= 16 else f"> {tensors[LAYER + '.threshold'][CODEBOOK][node]}"
        tree.text(x, y, label, ha="center", va="center", fontsize=8 if node < 16 else 9, zorder=2,
                  bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": TAKEN if node in taken else OTHER})
    for step, level in enumerate(path["levels"]):
        tree.text(-3.2, 4 - step, f"y {level['y'] - Y:+d}, x {level['x'] - X:+d}: {level['value']}", ha="center",
                  va="center", fontsize=9, color=TAKEN)
    tree.set_xlim(-5, 16)
    tree.set_title(f"codebook {CODEBOOK} of {LAYER}: a value a level, right if greater", fontsize=10)
    tree.axis("off")
    codes = np.arange(16)
    bars.bar(codes, path["entries"], color=[TAKEN if code == path["code"] else OTHER for code in codes])
    bars.axhline(0, color="black", linewidth=0.8)
    bars.set_title(f"its table for output {OUTPUT}", fontsize=10)
    bars.set_xlabel("code")
    save(figure, folder, "method-path.png")


def draw_sum(folder, tensors, told):
    """The table rows that the codes name, and the running sum of one column of them."""
    codes = [path["code"] for path in told["paths"]]
    rows = tensors[LAYER + ".table"][:, np.arange(len(codes)), codes].T.astype(int)  # [codebook][output]
    running = rows[:, OUTPUT].cumsum()
    assert [path["entry"] for path in told["paths"]] == rows[:, OUTPUT].tolist() and running[-1] == told["sum"]
    figure, (heat, line) = plt.subplots(1, 2, figsize=(11, 4), dpi=80, width_ratios=(3, 2), layout="constrained")
    shown = heat.imshow(rows, cmap="RdBu_r", vmin=-127, vmax=127, aspect="auto", interpolation="nearest")
    heat.axvline(OUTPUT, color=TAKEN, linewidth=1.5)
    heat.set(xlabel="output", ylabel="codebook")
    heat.set_title("a row a codebook: the one that its code names", fontsize=10)
    figure.colorbar(shown, ax=heat)
    line.step(np.arange(len(running) + 1), [0, *running], where="post", color=TAKEN)
    line.axhline(-told["bias"], color="black", linewidth=0.8, linestyle="--", label="what the bias takes away")
    line.set(xlabel="codebooks added", ylabel=f"sum of output {OUTPUT}")
    line.set_title(f"({told['sum']} {told['bias']:+d}) times {told['scale']} / 65536: {told['value']}", fontsize=10)
    line.legend(fontsize=9)
    save(figure, folder, "method-sum.png")


def blocks():
    """Every 8 x 8 block of the photo in grey, [n][64], in an order that is fixed; and the cosine transform [64][64]."""
    grey = np.asarray(Image.open(PHOTO).convert("L"), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (8, 8))[::2, ::2].reshape(-1, 64)
    cosine = np.cos(np.pi / 8 * np.outer(np.arange(8), np.arange(8) + 0.5)) * 0.5
    cosine[0] /= np.sqrt(2)
    return np.random.default_rng(1).permutation(windows), np.ascontiguousarray(np.kron(cosine, cosine).T, np.float32)


def learn_all(build):
    """{prototypes: [share of the variance lost, for each of CODEBOOKS]} on blocks that were kept out."""
    with tempfile.TemporaryDirectory() as folder:
        a, b, out = (os.path.join(folder, name) for name in ("a.npy", "b.npy", "out.safetensors"))
        for path, array in zip((a, b), blocks()):
            np.save(path, array)

        def lost(prototypes, codebooks):
            command = [os.path.join(build, "halut"), "learn", "--a", a, "--b", b, "-C", str(codebooks), "-K",
                       str(prototypes), "-o", out, "--json"]
            return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["nmse"]

        return {k: [lost(k, codebooks) for codebooks in CODEBOOKS] for k in PROTOTYPES}


def draw_error(folder, errors):
    figure, axes = plt.subplots(figsize=(6, 4), dpi=80, layout="constrained")
    for prototypes, lost in errors.items():
        axes.plot(CODEBOOKS, lost, marker="o", label=f"{prototypes} prototypes")
    axes.set(xscale="log", yscale="log", xlabel="codebooks, of 64 columns", ylabel="share of the variance lost")
    axes.set_xticks(CODEBOOKS, CODEBOOKS)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    axes.set_title("8 x 8 blocks of a photo times the cosine transform", fontsize=10)
    save(figure, folder, "method-error.png")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.split("\n", 1)[0])
    build, folder = sys.argv[1:]
    pixels, (tensors, _) = picture(), reference.load(MODEL)
    told = explained(build, pixels)
    errors = learn_all(build)
    draw_path(folder, pixels, tensors, told)
    draw_sum(folder, tensors, told)
    draw_error(folder, errors)
    path = told["paths"][CODEBOOK]
    print(json.dumps({"values": [level["value"] for level in path["levels"]],
                      "thresholds": [level["threshold"] for level in path["levels"]],
                      "code": path["code"], "entry": path["entry"], "sum": told["sum"], "bias": told["bias"],
                      "scale": told["scale"], "value": told["value"], "codebooks": told["codebooks"],
                      "lost": {k: [float(f"{share:.2g}") for share in lost] for k, lost in errors.items()}}))


if __name__ == "__main__":
    main()
