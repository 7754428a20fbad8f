#!/usr/bin/python3
"""picture.py DEF LEF PNG: draws a routed layout, cells grey, a colour for each layer of metal; prints its size."""
import re
import sys

from PIL import Image, ImageDraw

WIDTH = 1000
COLOURS = {"metal1": (60, 90, 200, 150), "metal2": (210, 60, 60, 150), "metal3": (40, 150, 70, 150),
           "metal4": (190, 140, 20, 150)}
UNITS = 100  # of a DEF micron
WIRE = 0.6 * UNITS


def cell_sizes(path):
    with open(path) as file:
        found = re.findall(r"^MACRO (\S+)\n(?:(?!^END \1).*\n)*?\s*SIZE\s+([\d.]+)\s+BY\s+([\d.]+)", file.read(), re.M)
    return {name: (float(width) * UNITS, float(height) * UNITS) for name, width, height in found}


def wires(text):
    """(layer, x0, y0, x1, y1) of every straight piece; * repeats a coordinate."""
    for layer, path in re.findall(r"(?:ROUTED|NEW) (metal\d)(?: \d+)? ((?:\( [^)]*\) ?)+)", text):
        at = None
        for x, y in re.findall(r"\( (\S+) (\S+)[^)]*\)", path):
            point = (at[0] if x == "*" else float(x), at[1] if y == "*" else float(y))
            if at:
                yield layer, *at, *point
            at = point


def main():
    with open(sys.argv[1]) as file:
        text = file.read()
    left, low, right, high = map(float, re.search(r"DIEAREA \( (\S+) (\S+) \) \( (\S+) (\S+) \)", text).groups())
    scale = WIDTH / (right - left)
    sizes = cell_sizes(sys.argv[2])
    image = Image.new("RGB", (WIDTH, int((high - low) * scale)), "white")
    draw = ImageDraw.Draw(image, "RGBA")

    def box(x0, y0, x1, y1, **how):
        draw.rectangle([(min(x0, x1) - left) * scale, (high - max(y0, y1)) * scale,
                        (max(x0, x1) - left) * scale, (high - min(y0, y1)) * scale], **how)

    cells = re.findall(r"^- \S+ (\S+) \+ PLACED \( (\S+) (\S+) \)", text, re.M)
    for kind, x, y in cells:
        width, height = sizes[kind]
        box(float(x), float(y), float(x) + width, float(y) + height, fill=(225, 225, 225), outline=(160, 160, 160))
    length = 0
    for layer, x0, y0, x1, y1 in wires(text):
        (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
        box(x0 - WIRE / 2, y0 - WIRE / 2, x1 + WIRE / 2, y1 + WIRE / 2, fill=COLOURS[layer])
        length += x1 - x0 + y1 - y0
    image.quantize(32).save(sys.argv[3], optimize=True)
    print(f"{len(cells)} cells, {(right - left) / UNITS:.0f} x {(high - low) / UNITS:.0f} um, "
          f"{length / UNITS / 1000:.1f} mm of wire")


main()
