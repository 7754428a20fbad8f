#!/usr/bin/python3
"""compare.py HALUT MODEL WORK: measure halut and ONNX Runtime on one core, interleaved.

Each round runs, for each batch size, ours, the runtime's float32 and its int8, one after the other
on one core. What counts is processor time for an image: it stays when the machine is shared; the
wall clock is printed too. The ratio is taken within each round; its median and its least and greatest
value are printed. Writes WORK/NAME.json and, where Matplotlib is installed, WORK/NAME.png. --held is
put before ours and the runtime, to hold them to an instruction set. Beside the times, lookups a cycle
by layer against what the kernels reach on some of the layer's tables when nothing else bounds them,
and the instructions of an image by layer, which do not depend on who else is using the core.
"""
import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = {"fp32": "resnet9_fp32.onnx", "int8": "resnet9_int8.onnx"}
LAYER_FUNCTIONS = ("halut_dense_conv", "cpu_conv", "maxpool_run", "halut_ops_avgpool", "add_run", "halut_dense_linear")
NAMES = {"halut": "halut", "fp32": "ONNX Runtime fp32", "int8": "ONNX Runtime int8"}


CLOCKS = {"cpu": "processor time", "wall": "the wall clock"}


def run(command, options):
    """Run one measurement on the chosen core; returns its JSON object."""
    held = ["taskset", "-c", str(options.core), *options.held.split()]
    done = subprocess.run([*held, *command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"compare.py: {' '.join(command)} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def measure(options):
    """Seconds for an image: {clock: {batch: {who: [one a round]}}}."""
    times = {clock: {batch: {who: [] for who in NAMES} for batch in options.batches} for clock in CLOCKS}

    def keep(batch, who, command):
        made = run(command, options)
        times["cpu"][batch][who].append(made["cpu_seconds_per_image"])
        times["wall"][batch][who].append(1 / made["images_per_second"])
    for number in range(options.rounds):
        for batch in options.batches:
            ours = [options.halut, "bench", options.model, "--threads", "1", "--batch", str(batch),
                    "--seconds", str(options.seconds), "--json"]
            keep(batch, "halut", ours)
            for who, model in PEERS.items():
                peer = ["node", os.path.join(HERE, "peer.mjs"), options.work,
                        os.path.join(options.work, model), str(batch), str(options.seconds)]
                keep(batch, who, peer)
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    return times


def summarise(times):
    """Images a second and ratios by one clock, as {batch: {who: {...}}}."""
    table = {}
    for batch, by_who in times.items():
        table[batch] = {}
        for who, seconds in by_who.items():
            ratios = [peer / ours for peer, ours in zip(seconds, by_who["halut"])]
            table[batch][who] = {
                "images_per_second": 1 / statistics.median(seconds),
                "least": 1 / max(seconds), "greatest": 1 / min(seconds),
                "ratio": statistics.median(ratios), "ratio_least": min(ratios),
                "ratio_greatest": max(ratios),
            }
    return table


def layers(options):
    """What each layer takes at the largest batch: {instruction set: [{...}]}."""
    found = {}
    for cpu in ("avx512", "avx2"):
        ours = [options.halut, "bench", options.model, "--cpu", cpu, "--batch", str(max(options.batches)),
                "--seconds", str(options.seconds), "--json"]
        made = run(ours, options)
        if made["cpu"] == cpu:
            found[cpu] = made["layers"]
    return found


def instructions(options):
    """Instructions of one image with AVX2 (Valgrind knows no AVX-512) by layer, None where there is no Valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        counts = os.path.join(folder, "counts")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={counts}",
                   "--toggle-collect=halut_session_run", *(f"--dump-before={name}" for name in LAYER_FUNCTIONS),
                   options.halut, "classify", "--cpu", "avx2", options.model, options.picture]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        if done.returncode != 0:
            return None
        # One file before each layer, numbered from 1, and one at the end: the first has what comes before any layer.
        paths = [f"{counts}.{number + 1}" for number in range(len(os.listdir(folder)) - 1)] + [counts]
        made = []
        for path in paths[1:]:
            with open(path) as file:
                made.append(int(re.search(r"^totals: (\d+)", file.read(), re.MULTILINE)[1]))
        return made


def print_layers(found, counted):
    for cpu, lines in found.items():
        counts = counted if cpu == "avx2" and counted and len(counted) == len(lines) else [None] * len(lines)
        print(f"\n| layer, {cpu} | us an image | lookups a cycle | ceiling | reached | instructions, batch 1 |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for line, count in zip(lines, counts):
            reached, ceiling = line["lookups_per_cycle"], line["ceiling_lookups_per_cycle"]
            cells = [f"{reached:.1f}", f"{ceiling:.1f}", f"{reached / ceiling:.0%}"] if ceiling > 0 else [""] * 3
            cells.append(f"{count:,}" if count else "")
            print(f"| {line['name']} | {line['microseconds']:.1f} | " + " | ".join(cells) + " |")


def processor():
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def print_table(table):
    print("| batch | " + " | ".join(f"{NAMES[who]}, images/s" for who in NAMES) +
          " | against fp32 | against int8 |")
    print("| ---: | ---: | ---: | ---: | :---: | :---: |")
    for batch, row in table.items():
        cells = [f"{row[who]['images_per_second']:,.0f}" for who in NAMES]
        for who in PEERS:
            cell = row[who]
            cells.append(f"{cell['ratio']:.2f}× ({cell['ratio_least']:.2f}-{cell['ratio_greatest']:.2f})")
        print(f"| {batch} | " + " | ".join(cells) + " |")


def draw(table, path):
    try:
        import matplotlib
    except ImportError:
        print("no picture: Matplotlib is not installed", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=120)
    colours = {"halut": "#0b6e4f", "fp32": "#a0a4a8", "int8": "#5b6770"}
    for index, who in enumerate(NAMES):
        cells = [row[who] for row in table.values()]
        middle = [cell["images_per_second"] for cell in cells]
        spread = [[m - cell["least"] for m, cell in zip(middle, cells)],
                  [cell["greatest"] - m for m, cell in zip(middle, cells)]]
        bars = axes.bar([n + (index - 1) * 0.27 for n in range(len(cells))], middle, 0.25,
                        yerr=spread, capsize=3, color=colours[who], label=NAMES[who])
        axes.bar_label(bars, [f"{value:,.0f}" for value in middle], padding=3, fontsize=8)
    axes.set_xticks(range(len(table)), [f"batch {batch}" for batch in table])
    axes.set_ylabel("images a second of one core")
    axes.set_title("CIFAR-10 ResNet-9, one thread (higher is better)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    print(f"picture: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("halut")
    parser.add_argument("model")
    parser.add_argument("work")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 64])
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--picture", default="models/photo/cat.jpg")
    parser.add_argument("--held", default="", help="command that holds the one behind it to fewer instructions")
    parser.add_argument("--name", default="bench", help="of the files written")
    options = parser.parse_args()
    tables = {clock: summarise(times) for clock, times in measure(options).items()}
    about = {"processor": processor(), "core": options.core, "rounds": options.rounds,
             "seconds": options.seconds, "load": os.getloadavg()[0], "held": options.held, "results": tables,
             "layers": layers(options), "instructions_by_layer": instructions(options)}
    with open(os.path.join(options.work, f"{options.name}.json"), "w") as out:
        json.dump(about, out, indent=1)
    print(f"\n{about['processor']}, core {options.core}, median of {options.rounds} interleaved rounds "
          f"of {options.seconds:g} s, load {about['load']:.1f}" + (f", {options.name}" if options.held else ""))
    for clock, table in tables.items():
        print(f"\nby {CLOCKS[clock]}:\n")
        print_table(table)
    print_layers(about["layers"], about["instructions_by_layer"])
    if about["instructions_by_layer"]:
        print(f"\n{sum(about['instructions_by_layer']):,} instructions an image with AVX2, batch 1 (callgrind)")
    draw(tables["cpu"], os.path.join(options.work, f"{options.name}.png"))


if __name__ == "__main__":
    main()
