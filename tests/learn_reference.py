#!/usr/bin/env python3
"""Maddness learning, slow and plain, to check a learned product against.

usage: learn_reference.py A.npy B.npy MODEL.safetensors --codebooks N [--learn-rows N] [--ridge X]
                          [--by-output] [--candidates N] [--target T.npy] [--prototypes N]

Learns the product again and compares: splits, quantisation, thresholds and codes must be equal, table entries
may differ by one unit, scales and biases by rounding. Prints what differs and exits with 1, or prints nothing.

It shares no code with the learner and takes other ways: the error of a split is computed from the definition
(squared distances to the two means, in the space of A or of the output), the regression from the one-hot matrix.
What both state on their own is the rule for ties (the lowest boundary, then the lowest column) and the
quantisation of thresholds.
"""
import argparse
import json
import struct
import sys

import numpy as np

LEVELS, LEAVES = 4, 16
SAME = 1e-9  # relative: errors that differ by less are a tie


def read_model(path):
    types = {"U8": "u1", "I8": "i1", "F32": "<f4", "U32": "<u4"}
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + x for x in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors, header["__metadata__"]


def spread(z):
    """Sum of squared distances to the mean."""
    return float(((z - z.mean(axis=0)) ** 2).sum()) if len(z) else 0.0


def best_cut(x, z):
    """The error of the best cut of a node by a column, and the values beside it (None: nothing to cut)."""
    whole, best, cut = spread(z), spread(z), None
    size = whole
    values = np.unique(x)
    for below, above in zip(values[:-1], values[1:]):
        error = spread(z[x <= below]) + spread(z[x > below])
        if error < best - SAME * size:
            best, cut = error, (float(below), float(above))
    return best, cut


def quantise(cuts, column, whole):
    """low, inverse, and the whole-number threshold of each node, for the cuts of a level."""
    if whole:
        return np.float32(0), np.float32(1), [255 if c is None else int((c[0] + c[1]) // 2) for c in cuts]
    middles = [None if c is None else (c[0] + c[1]) / 2 for c in cuts]
    known = [m for m in middles if m is not None]
    low, inverse, base = 0.0, 1.0, 0
    if known and max(known) > min(known):
        inverse = 254 / (max(known) - min(known))
        low = np.float32(min(known) - 0.5 / inverse)
    elif known:
        base = 127
        low = np.float32(known[0] - 0.5 * (float(column.max()) - float(column.min())))
        inverse = 127.5 / (known[0] - float(low))
    steps = [255 if m is None else base + int(np.rint((m - min(known)) * inverse)) for m in middles]
    return np.float32(low), np.float32(inverse), steps


def values_of(x, low, inverse):
    scaled = np.rint((x.astype(np.float32) - low) * inverse)
    return np.clip(scaled, 0, 255).astype(int)


def learn_tree(x, z, first, whole, candidates, weight, levels):
    """x: the codebook's columns as floats, z: what errors are measured on."""
    node = np.ones(len(x), int)
    split, low, inverse, threshold = [], [], [], np.zeros(LEAVES, int)
    for level in range(levels):
        nodes = range(1 << level, 2 << level)
        columns = range(x.shape[1])
        if candidates and candidates < x.shape[1]:
            loss = [weight[j] * sum(spread(x[node == n, j]) for n in nodes) for j in columns]
            columns = sorted(sorted(columns, key=lambda j: (-loss[j], j))[:candidates])
        size, best = sum(spread(z[node == n]) for n in nodes), None
        for j in columns:
            found = [best_cut(x[node == n, j], z[node == n]) for n in nodes]
            error = sum(f[0] for f in found)
            if best is None or error < best[0] - SAME * size:
                best = error, j, [f[1] for f in found]
        _, j, cuts = best
        a, b, steps = quantise(cuts, x[:, j], whole)
        split.append(first + j)
        low.append(a)
        inverse.append(b)
        threshold[1 << level : 2 << level] = steps
        node = 2 * node + (values_of(x[:, j], a, b) > threshold[node])
    threshold[1 << levels:] = 255  # deeper levels send everything left
    rest = LEVELS - levels
    return split + rest * [first], low + rest * [0], inverse + rest * [1], threshold


def encode(a, split, low, inverse, threshold):
    codes = np.empty((len(a), len(split)), int)
    for c in range(len(split)):
        node = np.ones(len(a), int)
        for level in range(LEVELS):
            value = values_of(a[:, split[c][level]], low[c][level], inverse[c][level])
            node = 2 * node + (value > threshold[c][node])
        codes[:, c] = node - LEAVES
    return codes


def bucket_means(codes, x):
    """The mean row of each leaf; of a leaf without rows, of the nearest ancestor that has some."""
    means = []
    for leaf in range(LEAVES):
        for above in range(LEVELS + 1):
            rows = codes >> above == leaf >> above
            if rows.any():
                means.append(x[rows].mean(axis=0))
                break
    return np.array(means) - x.mean(axis=0)


def learn_tables(a, b, target, codes, bounds, ridge):
    """[codebooks * 16][outputs], from the one-hot matrix itself."""
    count = codes.shape[1]
    start = np.concatenate([bucket_means(codes[:, c], a[:, bounds[c] : bounds[c + 1]])
                            @ b[bounds[c] : bounds[c + 1]] for c in range(count)])
    hot = np.zeros((len(a), count * LEAVES))
    for c in range(count):
        hot[np.arange(len(a)), c * LEAVES + codes[:, c]] = 1
    rest = target - target.mean(axis=0) - hot @ start
    ridge = max(ridge, 1e-9 * len(a))
    return start + np.linalg.solve(hot.T @ hot + ridge * np.eye(hot.shape[1]), hot.T @ rest), hot


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("model")
    parser.add_argument("--codebooks", type=int, required=True)
    parser.add_argument("--learn-rows", type=int)
    parser.add_argument("--ridge", type=float, default=1)
    parser.add_argument("--by-output", action="store_true")
    parser.add_argument("--candidates", type=int, default=0)
    parser.add_argument("--target")
    parser.add_argument("--prototypes", type=int, default=LEAVES)
    args = parser.parse_args()
    a_all, b = np.load(args.a), np.load(args.b).astype(float)
    model, metadata = read_model(args.model)
    learn = args.learn_rows or len(a_all)
    whole = a_all.dtype == np.uint8
    exact = np.load(args.target).astype(float) if args.target else a_all.astype(float) @ b
    a, target = a_all[:learn].astype(float), exact[:learn]
    width, wider = divmod(a.shape[1], args.codebooks)
    bounds = np.cumsum([0] + [width + (c < wider) for c in range(args.codebooks)])

    trees = []
    for c in range(args.codebooks):
        x, part = a[:, bounds[c] : bounds[c + 1]], b[bounds[c] : bounds[c + 1]]
        weight = (part**2).sum(axis=1) if args.by_output else np.ones(len(part))
        z = (x - x.mean(axis=0)) @ part if args.by_output else x - x.mean(axis=0)
        trees.append(learn_tree(x, z, int(bounds[c]), whole, args.candidates, weight,
                                args.prototypes.bit_length() - 1))
    split, low, inverse, threshold = (list(t) for t in zip(*trees))

    wrong = []
    for name, mine in (("split", split), ("low", low), ("inverse", inverse), ("threshold", threshold)):
        if not np.array_equal(np.array(mine), model[name]):
            where = np.argwhere(np.array(mine) != model[name])[0]
            wrong.append(f"{name}{where.tolist()}: {np.array(mine)[tuple(where)]} is due, "
                         f"{model[name][tuple(where)]} was learned")
    codes = encode(a_all, split, low, inverse, threshold)
    table, hot = learn_tables(a, b, target, codes[:learn], bounds, args.ridge)
    outputs = table.shape[1]
    each = LEAVES // args.prototypes
    table = table.T.reshape(outputs, args.codebooks, LEAVES)[:, :, ::each].repeat(each, axis=2)
    table = table - (table.max(axis=2, keepdims=True) + table.min(axis=2, keepdims=True)) / 2
    scale = np.abs(table).reshape(outputs, -1).max(axis=1) / 127
    scale[scale < 1e-37] = 1
    if not np.allclose(scale, model["scale"], rtol=1e-4, atol=0):
        wrong.append(f"scale: {scale} is due, {model['scale']} was learned")
    off = np.abs(np.rint(table / scale[:, None, None]) - model["table"])
    if off.max() > 1:
        wrong.append(f"table: {np.count_nonzero(off > 1)} of {off.size} entries are off by more than 1")
    served = np.empty_like(exact)
    for m in range(outputs):
        picked = sum(model["table"][m, c, codes[:, c]].astype(int) for c in range(args.codebooks))
        served[:, m] = picked * model["scale"][m].astype(float) + model["bias"][m]
    drift = np.abs(served[:learn].mean(axis=0) - target.mean(axis=0))
    if (drift > 1e-5 * (np.abs(target).max(axis=0) + 1)).any():
        wrong.append(f"bias: the mean over the learning rows is off by {drift.max()}")
    told = slice(learn, None) if learn < len(a_all) else slice(None)
    variance = exact[told].var(axis=0).mean()
    nmse = ((served[told] - exact[told]) ** 2).mean() / variance if variance > 0 else None
    if nmse is not None and not np.isclose(nmse, float(metadata["halut.nmse"]), rtol=1e-4, atol=1e-9):
        wrong.append(f"nmse: {nmse} is due, {metadata['halut.nmse']} was told")
    print("\n".join(wrong), end="\n" if wrong else "")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
