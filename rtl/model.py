#!/usr/bin/env python3
"""System model of the accelerator: cycles, table traffic and energy of an image of the shipped network.

usage: model.py                     a table over units and batch, next to the original's published figures
       model.py --svg FILE          the same as a plot
       model.py --validate PROGRAM  compare with the counters of tests/rtl/network.c; fails past 2 %

Cycles follow the driver step by step: a run of n row groups and g groups takes (n - 1) max(g, B) + g + 3 + B
cycles for B output beats; a tile that does not stay is loaded beside the run before it, 17 beats a codebook.
With several units, rows are divided among them and one load stream feeds all. Energy constants are those of
core/energy.h. Left out: time and energy of the host, of activations, of DRAM behind the table memory.
"""
import json
import math
import os
import re
import struct
import subprocess
import sys

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
SUM_CODEBOOKS = 256
HZ = 624e6  # the original's clock, so that the two can be compared
ORIGINAL = "986 images/s, 23.8 uJ"


def energy_constants():
    """{counter: picojoules} from core/energy.h."""
    with open(os.path.join(TOP, "core", "energy.h"), encoding="utf-8") as file:
        found = re.findall(r"XX\((\w+), ([0-9.]+),", file.read())
    if len(found) != 3:
        raise SystemExit("model.py: core/energy.h does not list three constants")
    return {name: float(value) for name, value in found}


def learned_layers():
    """[rows of an image, codebooks, outputs] of each learned layer, from the head of the model file."""
    with open(os.path.join(TOP, "models", "resnet9-cifar10.safetensors"), "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
    shape = json.loads(head["__metadata__"]["halut.input"])
    sizes, found = {"input": (shape["height"], shape["width"])}, []
    for node in json.loads(head["__metadata__"]["halut.graph"]):
        size = sizes[node["in"][0]]
        if "kernel" in node:
            size = tuple((n + 2 * pad - kernel) // stride + 1 for n, pad, kernel, stride in
                         zip(size, node.get("pad", (0, 0)), node["kernel"], node["stride"]))
        sizes[node["name"]] = size
        if node["op"] == "halut":
            outputs, codebooks, _ = head[node["name"] + ".table"]["shape"]
            found.append((size[0] * size[1], codebooks, outputs))
    return found


class Unit:
    """Sizes of an accelerator; the defaults are those of the backend (RTL_UNIT in rtl.mk)."""

    def __init__(self, slots=4, lanes=128, rows=8, codebooks=4096, beat_lanes=8, bytes_per_cycle=128):
        self.slots, self.lanes, self.rows, self.codebooks = slots, lanes, rows, codebooks
        self.beats = lanes // beat_lanes
        self.load_cycles = max(1, math.ceil(lanes / bytes_per_cycle))  # of a load beat


LAYERS = learned_layers()


def run_cycles(unit, row_groups, groups):
    return (row_groups - 1) * max(groups, unit.beats) + groups + 3 + unit.beats


def tiles(unit, codebooks, outputs):
    """Groups of each tile, in the order in which the driver runs them."""
    cut = min(SUM_CODEBOOKS, unit.codebooks // 2)
    row = [math.ceil(min(cut, codebooks - c) / unit.slots) for c in range(0, codebooks, cut)]
    return row * math.ceil(outputs / unit.lanes)


def layer_counts(unit, rows, codebooks, outputs, resident):
    """(cycles, load beats, encodes) of one product."""
    work = tiles(unit, codebooks, outputs)
    chunk = 1024 if resident else 16384
    steps = []  # (run cycles, tile)
    encodes = 0
    for begin in range(0, rows, chunk):
        row_groups = math.ceil(min(chunk, rows - begin) / unit.rows)
        for tile, groups in enumerate(work):
            steps.append((run_cycles(unit, row_groups, groups), tile))
            encodes += row_groups * groups * unit.slots * unit.rows
    if resident:
        return sum(cycles for cycles, _ in steps), 0, encodes

    def beats(tile):
        return 17 * unit.slots * work[tile]

    cycles, loaded = beats(0) * unit.load_cycles, beats(0)
    held = {0}
    for n, (run, tile) in enumerate(steps):
        after = steps[n + 1][1] if n + 1 < len(steps) else tile
        if after not in held:
            cycles += max(run, beats(after) * unit.load_cycles)
            loaded += beats(after)
            held = {tile, after}
        else:
            cycles += run
    return cycles, loaded, encodes


def network(unit, batch, resident, units=1):
    """Counts of one image."""
    total = {"cycles": 0, "table_bytes": 0, "encodes": 0, "lookups": 0}
    for rows, codebooks, outputs in LAYERS:
        share = math.ceil(rows * batch / units)
        cycles, beats, encodes = layer_counts(unit, share, codebooks, outputs, resident)
        total["cycles"] += cycles / batch
        total["table_bytes"] += beats * unit.lanes / batch
        total["encodes"] += encodes * units / batch
        total["lookups"] += rows * codebooks * outputs
    return total


def microjoule(counts, constants):
    return 1e-6 * (constants["lookups"] * counts["lookups"] + constants["device_encodes"] * counts["encodes"]
                   + constants["device_table_bytes"] * counts["table_bytes"])


def validate(program):
    worst = 0
    for batch in (1, 2, 16):
        for resident, options in ((True, ""), (False, "resident=1")):
            counted = json.loads(subprocess.run([program, str(batch), options, "1"], check=True,
                                                capture_output=True, text=True).stdout)
            modelled = network(Unit(), batch, resident)
            for key in ("cycles", "table_bytes", "encodes"):
                have, want = modelled[key] * batch, counted[key]
                off = abs(have - want) / want if want else float(have != 0)
                worst = max(worst, off)
                print(f"batch {batch:2} {'resident' if resident else 'streamed'} {key:11} "
                      f"model {have:10.0f} counters {want:10} {100 * off:.2f} %")
    print(f"{int(worst <= 0.02)} passed, {int(worst > 0.02)} failed")
    return worst > 0.02


def sweep():
    constants = energy_constants()
    for resident in (True, False):
        for width in (128,) if resident else (128, 16):
            for units in (1, 2, 4):
                for batch in (1, 4, 16, 64):
                    counts = network(Unit(bytes_per_cycle=width), batch, resident, units)
                    yield (resident, width, units, batch, counts, HZ / counts["cycles"],
                           microjoule(counts, constants))


def table():
    print("| tables | bytes/cycle | units | batch | cycles/image | table bytes/image | "
          "images/s at 624 MHz | uJ/image |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for resident, width, units, batch, counts, speed, energy in sweep():
        print(f"| {'resident' if resident else 'streamed'} | {'-' if resident else width} | {units} | "
              f"{batch} | "
              f"{counts['cycles']:.0f} | {counts['table_bytes']:.0f} | {speed:.0f} | {energy:.1f} |")
    print(f"\nThe original publishes {ORIGINAL} for four units of 64 lanes, without loading its tables in "
          "time and with the cycles of its four parallel units added up.")


def svg(path):
    lines, colours = {}, ("#1b6", "#16b", "#b61")
    for resident, width, units, batch, _, speed, energy in sweep():
        if units in (1, 4) and width in (128, 16):
            lines.setdefault((resident, width, units), []).append((batch, speed, energy))
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="760" height="330" font-family="sans-serif" font-size="11">',
           '<rect width="760" height="330" fill="white"/>']
    for panel, (index, title, top) in enumerate(((1, "images/s at 624 MHz (log)", 2e5), (2, "uJ/image", 28))):
        left = 60 + 380 * panel

        def y(value, index=index, top=top):
            return 260 - 220 * (math.log10(value / 1e3) / math.log10(top / 1e3) if index == 1 else value / top)

        out.append(f'<text x="{left}" y="20">{title}, against batch</text>'
                   f'<path d="M{left} 40V260H{left + 280}" fill="none" stroke="black"/>')
        for tick in (1e3, 1e4, 1e5) if index == 1 else (5, 10, 15, 20, 25):
            out.append(f'<text x="{left - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick:g}</text>')
        for k, batch in enumerate((1, 4, 16, 64)):
            out.append(f'<text x="{left + 90 * k}" y="275" text-anchor="middle">{batch}</text>')
        for n, (key, points) in enumerate(sorted(lines.items(), reverse=True)):
            resident, width, units = key
            colour = colours[n // 2]
            where = " ".join(f"{left + 90 * k},{y(p[index]):.1f}" for k, p in enumerate(points))
            out.append(f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="2" '
                       f'stroke-dasharray="{"none" if units == 1 else "5 3"}"/>')
            if panel == 0:
                name = "resident" if resident else f"streamed, {width} B/cycle"
                out.append(f'<text x="{60 + 230 * (n // 2)}" y="{298 + 16 * (n % 2)}" fill="{colour}">{name}, '
                           f'{units} unit{"s, dashed" if units > 1 else ""}</text>')
        if index == 2:
            out.append(f'<path d="M{left} {y(14.5):.0f}h280" stroke="#888" stroke-dasharray="2 2"/>'
                       f'<text x="{left + 150}" y="{y(14.5) - 4:.0f}" fill="#666">original, its layers: 14.5</text>')
        else:
            out.append(f'<path d="M{left} {y(1000):.0f}h280" stroke="#888" stroke-dasharray="2 2"/>'
                       f'<text x="{left + 150}" y="{y(1000) - 4:.0f}" fill="#666">original: 986</text>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n</svg>\n")


def main(arguments):
    if not arguments:
        return table()
    if len(arguments) == 2 and arguments[0] == "--svg":
        return svg(arguments[1])
    if len(arguments) == 2 and arguments[0] == "--validate":
        return validate(arguments[1])
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
