#!/usr/bin/env python3
"""Makes the pictures of this folder and, for each, the tensor that server/image.c must give.

NAME.png and NAME.jpg are the pictures, NAME@crop.u8 and NAME@squash.u8 the expected planar 3 x 32 x 32 bytes.
PNG files are written here, byte by byte, so that every colour type and interlacing occurs; JPEG files are
written and decoded by Pillow. Everything after decoding (alpha, orientation, crop, filter) is computed
here with Python's whole numbers and shares no code with the daemon.

usage: make.py (in this folder; needs Pillow and NumPy)
"""
import io
import struct
import zlib

import numpy as np
from PIL import Image

TARGET = 32
rng = np.random.default_rng(7)


def chunk(kind, data):
    return (struct.pack(">I", len(data)) + kind + data +
            struct.pack(">I", zlib.crc32(kind + data)))


def pack_rows(samples, depth):
    """Rows of samples [height][width * channels] as PNG bytes, with filter 0 or 2 in turn."""
    out = b""
    before = None
    for y, row in enumerate(samples):
        if depth == 16:
            raw = row.astype(">u2").tobytes()
        elif depth == 8:
            raw = row.astype("u1").tobytes()
        else:
            bits = "".join(format(int(v), f"0{depth}b") for v in row)
            bits += "0" * (-len(bits) % 8)
            raw = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
        if before is not None and y % 2:
            out += b"\2" + bytes((a - b) & 255 for a, b in zip(raw, before))
        else:
            out += b"\0" + raw
        before = raw
    return out


def png(samples, color, depth, interlaced=False, extra=b""):
    """samples: [height][width][channels]."""
    height, width, channels = samples.shape
    if interlaced:
        data = b""
        for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
                               (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
            part = samples[y0::dy, x0::dx]
            if part.size:
                data += pack_rows(part.reshape(part.shape[0], -1), depth)
    else:
        data = pack_rows(samples.reshape(height, -1), depth)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra +
            chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))


def picture(width, height, channels, high):
    """Smooth waves, so that files are small, with an edge, so that filters matter."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.zeros((height, width, channels), dtype=np.int64)
    for c in range(channels):
        wave = np.sin(x * (c + 1) / 9.0 + y / (7.0 + c)) * 0.5 + 0.5
        wave[(x * 3 + y * (c + 1)) // 40 % 3 == 0] *= 0.4
        out[:, :, c] = np.rint(wave * high)
    return out


def over_white(rgb, alpha):
    rgb, alpha = rgb.astype(int), alpha.astype(int)[:, :, None]
    return (rgb * alpha + 255 * (255 - alpha) + 127) // 255


def crop(rgb, swap):
    height, width = rgb.shape[:2]
    side_w = min(width, height * TARGET // TARGET)
    side_h = min(height, width * TARGET // TARGET)
    x, y = (width - side_w) // 2, (height - side_h) // 2
    return rgb[y:y + side_h, x:x + side_w]


def reduce_axis(values, fraction_in, fraction_out):
    """The triangle filter along axis 0, in whole numbers; values carry 1/fraction_in."""
    source = len(values)
    out = []
    for i in range(TARGET):
        reach = 2 * max(source, TARGET)
        total, weighted = 0, 0
        for j in range(source):
            weight = max(0, reach - abs((2 * j + 1) * TARGET - (2 * i + 1) * source))
            total += weight
            if weight:
                weighted = weighted + weight * values[j].astype(object)
        out.append((weighted * fraction_out + total * fraction_in // 2) // (total * fraction_in))
    return np.array(out)


def expected(rgb, orientation, fit):
    rgb = rgb.astype(int)
    if fit == "crop":
        rgb = crop(rgb, orientation >= 5)
    narrow = reduce_axis(rgb.transpose(1, 0, 2), 1, 256).transpose(1, 0, 2)
    small = reduce_axis(narrow, 256, 1).astype(np.uint8)
    turn = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
            5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
            7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, 1)}
    return np.ascontiguousarray(turn[orientation](small).transpose(2, 0, 1))


def write(name, data, rgb, orientation=1, fits=("crop",)):
    with open(name, "wb") as f:
        f.write(data)
    for fit in fits:
        with open(f"{name}@{fit}.u8", "wb") as f:
            f.write(expected(rgb, orientation, fit).tobytes())


def exif(orientation, order):
    """A TIFF block with one entry; order is ">" or "<"."""
    return ((b"MM" if order == ">" else b"II") + struct.pack(order + "HIH", 42, 8, 1) +
            struct.pack(order + "HHIHHI", 0x0112, 3, 1, orientation, 0, 0))


def make_png():
    rgb = picture(32, 32, 3, 255)
    write("same.png", png(rgb, 2, 8), rgb, fits=("crop", "squash"))
    rgb = picture(75, 41, 3, 255)
    write("wide.png", png(rgb, 2, 8), rgb, fits=("crop", "squash"))
    rgb = picture(9, 13, 3, 255)
    write("enlarged.png", png(rgb, 2, 8), rgb, fits=("crop", "squash"))
    rgb = picture(1, 1, 3, 255)
    write("pixel.png", png(rgb, 2, 8), rgb)
    rgb = picture(50, 37, 3, 255)
    write("interlaced.png", png(rgb, 2, 8, interlaced=True), rgb)
    deep = picture(40, 40, 4, 65535)
    write("rgba16.png", png(deep, 6, 16), over_white(deep[:, :, :3] >> 8, deep[:, :, 3] >> 8))
    deep = picture(33, 35, 1, 65535)
    write("grey16.png", png(deep, 0, 16), np.repeat(deep >> 8, 3, 2))
    grey = picture(45, 45, 2, 255)
    write("grey-alpha.png", png(grey, 4, 8),
          over_white(np.repeat(grey[:, :, :1], 3, 2), grey[:, :, 1]))
    for depth in (1, 2, 4, 8):
        grey = picture(43, 39, 1, 2**depth - 1)
        write(f"grey{depth}.png", png(grey, 0, depth),
              np.repeat(grey * (255 // (2**depth - 1)), 3, 2))
    index = picture(47, 47, 1, 15)
    table = rng.integers(0, 256, (16, 3))
    alpha = rng.integers(0, 256, 16)
    extra = (chunk(b"PLTE", table.astype("u1").tobytes()) +
             chunk(b"tRNS", alpha.astype("u1").tobytes()))
    write("palette.png", png(index, 3, 4, extra=extra),
          over_white(table[index[:, :, 0]], alpha[index[:, :, 0]]))
    keyed = picture(38, 38, 3, 7) * 36
    key = keyed[5, 5]
    alpha = np.where((keyed == key).all(2), 0, 255)
    write("keyed.png", png(keyed, 2, 8, extra=chunk(b"tRNS", struct.pack(">3H", *key))),
          over_white(keyed, alpha))
    rgb = picture(40, 60, 3, 255)
    write("exif6.png", png(rgb, 2, 8, extra=chunk(b"eXIf", exif(6, "<"))), rgb, 6)


def decode_jpeg(data, shrink=1):
    image = Image.open(io.BytesIO(data))
    if shrink > 1:
        image.draft(image.mode, (image.width // shrink, image.height // shrink))
    image.load()
    return np.asarray(image)


def save_jpeg(array, mode, **options):
    out = io.BytesIO()
    Image.fromarray(array.astype(np.uint8), mode).save(out, "JPEG", **options)
    return out.getvalue()


def make_jpeg():
    rgb = picture(60, 44, 3, 255)
    data = save_jpeg(rgb, "RGB", quality=90)
    write("plain.jpg", data, decode_jpeg(data), fits=("crop", "squash"))
    data = save_jpeg(rgb, "RGB", quality=80, progressive=True)
    write("progressive.jpg", data, decode_jpeg(data))
    data = save_jpeg(rgb[:, :, 0], "L", quality=90)
    write("grey.jpg", data, np.repeat(decode_jpeg(data)[:, :, None], 3, 2))
    big = picture(300, 280, 3, 255)
    data = save_jpeg(big, "RGB", quality=60)
    write("shrunk.jpg", data, decode_jpeg(data, 4))
    inks = picture(48, 40, 4, 255)
    data = save_jpeg(inks, "CMYK", quality=90)
    # Pillow gives 255 - ink for Adobe's inverted files: turn it back.
    light = 255 - decode_jpeg(data).astype(int)
    write("cmyk.jpg", data, (light[:, :, :3] * light[:, :, 3:] + 127) // 255)
    for orientation in range(1, 9):
        rgb = picture(50, 34, 3, 255)
        block = b"Exif\0\0" + exif(orientation, "<>"[orientation % 2])
        data = save_jpeg(rgb, "RGB", quality=70, exif=block)
        write(f"exif{orientation}.jpg", data, decode_jpeg(data), orientation)


make_png()
make_jpeg()
