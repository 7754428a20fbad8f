#!/usr/bin/python3
"""Makes tests/invalid/RULE/{input,error}: for each rule of models/FORMAT.md a model file that breaks it and
nothing else, and the exact error that it must give. check_format.c replays them.

    make_invalid.py [FOLDER]

An error is written here by hand, word for word; @NAME@ becomes the offset of tensor NAME in the file, and @NAME+N@
that of its byte N.
"""
import copy
import hashlib
import json
import os
import re
import shutil
import struct
import sys

import numpy as np

TYPES = {"i1": "I8", "u1": "U8", "i4": "I32", "f4": "F32", "u2": "U16", "u4": "U32"}
CASES = []


class Model:
    """A safetensors file before it is laid out; every stage can be spoiled."""

    def __init__(self, metadata, tensors):
        self.metadata, self.tensors = metadata, tensors
        self.spoil_header = self.spoil_text = self.spoil_file = None
        self.align = 64

    def node(self, name):
        graph = json.loads(self.metadata["halut.graph"])
        return graph, next(node for node in graph if node["name"] == name)

    def bytes(self):
        """Returns the file and the offset of each tensor in it."""
        header, data = {}, bytearray()

        def put(name, dtype, shape, content):
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data.extend(content)

        for name, array in self.tensors.items():
            put(name, TYPES[array.dtype.str[1:]], list(array.shape), array.tobytes())
            if len(data) % self.align:
                fill = self.align - len(data) % self.align
                put("_pad." + name, "U8", [fill], bytes(fill))
        metadata = {"halut.sha256": hashlib.sha256(data).hexdigest(), **self.metadata}
        header = {"__metadata__": {k: v for k, v in metadata.items() if v is not None}, **header}
        if self.spoil_header:
            self.spoil_header(header)
        text = json.dumps(header, separators=(",", ":"))
        if self.spoil_text:
            text = self.spoil_text(text)
        text = text.encode()
        text += b" " * (-(8 + len(text)) % self.align)
        content = struct.pack("<Q", len(text)) + text + bytes(data)
        size = len(content)
        if self.spoil_file:
            content = self.spoil_file(bytearray(content))
        places = {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()
                  if isinstance(entry, dict) and "data_offsets" in entry and entry["data_offsets"][:1] != []
                  and isinstance(entry["data_offsets"][0], int)}
        places.update(data=8 + len(text), size=size)
        return bytes(content), places


def network():
    random = np.random.default_rng(11)
    lut = random.integers(1, 255, (2, 16)).astype(np.uint8)
    lut[:, 0] = 0
    window = {"kernel": [3, 3], "stride": [1, 1], "pad": [1, 1]}
    graph = [
        {"op": "conv", "name": "stem", "in": ["input"], **window},
        {"op": "halut", "name": "look", "in": ["stem"], **window},
        {"op": "add", "name": "sum", "in": ["look", "stem"], "zero": 3},
        {"op": "maxpool", "name": "pool", "in": ["sum"], "kernel": [2, 2], "stride": [2, 2]},
        {"op": "linear", "name": "out", "in": ["pool"]},
    ]
    tensors = {
        "stem.weight": random.integers(-99, 99, (3, 2, 3, 3)).astype(np.int8),
        "stem.bias": np.array([1, 2, 3], np.int32), "stem.scale": np.array([99, 999, 9999], np.uint16),
        "look.split": random.integers(0, 27, (2, 4)).astype(np.uint16), "look.threshold": lut,
        "look.table": random.integers(-99, 99, (3, 2, 16)).astype(np.int8),
        "look.bias": np.array([200, 100, 0], np.int32), "look.scale": np.array([9999, 99, 999], np.uint16),
        "out.weight": random.integers(-99, 99, (2, 12)).astype(np.int8), "out.bias": np.array([5, -5], np.int32),
    }
    metadata = {
        "halut.format": "1", "halut.kind": "network", "halut.name": "net", "halut.version": "1",
        "halut.input": json.dumps({"channels": 2, "height": 4, "width": 4, "zero": [7, 9]}),
        "halut.labels": '["yes","no"]', "halut.logit_scale": "0.5", "halut.graph": json.dumps(graph),
    }
    return Model(metadata, tensors)


def product():
    random = np.random.default_rng(12)
    lut = random.integers(1, 255, (2, 16)).astype(np.uint8)
    lut[:, 0] = 0
    tensors = {
        "split": random.integers(0, 5, (2, 4)).astype(np.uint32),
        "low": np.zeros((2, 4), np.float32), "inverse": np.full((2, 4), 30, np.float32),
        "threshold": lut, "table": random.integers(-99, 99, (3, 2, 16)).astype(np.int8),
        "scale": np.array([1, 0.5, 2], np.float32), "bias": np.array([0, 1, -1], np.float32),
    }
    metadata = {"halut.format": "1", "halut.kind": "product", "halut.name": "prod", "halut.version": "1",
                "halut.columns": "5", "halut.nmse": "0.25"}
    return Model(metadata, tensors)


def case(rule, error, change, make=network):
    """change(model) spoils it, and may return the text of the error's parts it alone knows."""
    model = make()
    change(model)
    content, places = model.bytes()
    error = re.sub(r"@([^@+]+)(\+\d+)?@", lambda match: str(places[match[1]] + int(match[2] or 0)), error)
    CASES.append((rule, content, error))


def raw(rule, error, content):
    CASES.append((rule, content, error))


def metadata(**changes):
    def change(model):
        for key, value in changes.items():
            model.metadata["halut." + key] = value
    return change


def attribute(node_name, **changes):
    """Changes members of a node; None takes one away."""
    def change(model):
        graph, node = model.node(node_name)
        for key, value in changes.items():
            if value is None:
                del node[key]
            else:
                node[key] = value
        model.metadata["halut.graph"] = json.dumps(graph)
    return change


def graph(edit):
    def change(model):
        nodes = json.loads(model.metadata["halut.graph"])
        result = edit(nodes)
        model.metadata["halut.graph"] = json.dumps(nodes if result is None else result)
    return change


def tensor(name, edit):
    """edit(array) returns the new array, or None to take it away."""
    def change(model):
        array = edit(copy.deepcopy(model.tensors[name]))
        if array is None:
            del model.tensors[name]
        else:
            model.tensors[name] = np.ascontiguousarray(array)
    return change


def put(name, index, value):
    def edit(array):
        array[index] = value
        return array
    return tensor(name, edit)


def header(edit):
    def change(model):
        model.spoil_header = edit
    return change


def entry(name, **changes):
    def edit(head):
        head[name].update(changes)
    return header(edit)


def text(edit):
    def change(model):
        model.spoil_text = edit
    return change


def file(edit):
    def change(model):
        model.spoil_file = edit
    return change


def with_metadata(value):
    def edit(head):
        head["__metadata__"] = value
    return header(edit)


def rename(old, new):
    def edit(head):
        head[new] = head.pop(old)
    return header(edit)


def container_cases():
    raw("file-too-short", "malformed file: file of 7 bytes is too short for a header length", b"\x10" + bytes(6))
    raw("header-too-long", "limit exceeded: header length 1048577 exceeds 1048576",
        struct.pack("<Q", 1048577) + b"{}")
    raw("header-past-end", "malformed file: header length 9 is past the end of the file (10 bytes)",
        struct.pack("<Q", 9) + b"{}")
    raw("header-not-json", "malformed file: header is not JSON: '}' expected near end of file (byte 14)",
        struct.pack("<Q", 6) + b'{"a":1')
    raw("header-not-object", "malformed file: header is not a JSON object", struct.pack("<Q", 2) + b"[]")
    raw("header-duplicate", 'malformed file: header is not JSON: duplicate object key near \'"a"\' (byte 20)',
        struct.pack("<Q", 16) + b'{"a":{}, "a":{}}')
    case("metadata-not-object", "malformed file: __metadata__ is not an object", with_metadata([]))
    case("metadata-not-string", 'malformed file: metadata "halut.version" is not a string',
         header(lambda head: head["__metadata__"].update({"halut.version": 1})))
    case("entry-not-object", 'malformed file: tensor "out.bias" is not an object',
         header(lambda head: head.update({"out.bias": 5})))
    case("entry-members", 'malformed file: tensor "out.bias" must have dtype, shape and data_offsets only',
         entry("out.bias", extra=1))
    case("entry-dtype", 'malformed file: tensor "out.bias": dtype is not a string', entry("out.bias", dtype=4))
    case("dtype-unknown", 'malformed file: tensor "out.bias": dtype "F16" is not known',
         entry("out.bias", dtype="F16"))
    case("shape-not-array", 'malformed file: tensor "out.bias": shape is not an array', entry("out.bias", shape=2))
    case("shape-rank", 'limit exceeded: tensor "out.bias": 5 dimensions exceed 4',
         entry("out.bias", shape=[2, 1, 1, 1, 1]))
    case("shape-number", 'malformed file: tensor "out.bias": dimension 0 is not a whole number up to 4294967295',
         entry("out.bias", shape=[-2]))
    case("offsets-numbers", 'malformed file: tensor "out.bias": data_offsets are not two whole numbers',
         entry("out.bias", data_offsets=[0.5, 8]))
    case("offsets-order", 'malformed file: tensor "out.bias" ends (8) before it begins (16)',
         entry("out.bias", data_offsets=[16, 8]))
    case("offsets-past-end", 'malformed file: tensor "out.bias" ends at byte 712 of a data section of 704',
         entry("out.bias", data_offsets=[704, 712]))
    case("size-mismatch", 'malformed file: tensor "out.bias" has 8 bytes, which is not what its shape and dtype '
         "take (byte @out.bias@)", entry("out.bias", shape=[3]))
    case("size-overflow", 'malformed file: tensor "out.bias" has 8 bytes, which is not what its shape and dtype '
         "take (byte @out.bias@)", entry("out.bias", shape=[2**31, 2**31, 2, 2]))
    case("tensors-overlap", 'malformed file: tensor "out.bias" overlaps the one before it (byte @out.bias@)',
         entry("out.bias", data_offsets=[512, 520]))
    case("tensors-gap", 'malformed file: 56 bytes before tensor "late" belong to no tensor (byte @_pad.out.bias@)',
         spoil_gap)
    case("bytes-at-end", "malformed file: 4 bytes at the end of the file belong to no tensor (byte @size@)",
         file(lambda content: content + b"tail"))


def spoil_gap(model):
    model.tensors["late"] = np.zeros(64, np.uint8)

    def edit(head):
        gone = head.pop("_pad.out.bias")
        head["_pad.out.bias"] = gone  # for its offset only: taken out of the text again below
    model.spoil_header = edit
    model.spoil_text = lambda content: re.sub(r'"_pad\.out\.bias":\{[^}]*\},?', "", content).replace(",}", "}")


def metadata_cases():
    case("format-missing", 'malformed file: not a model: metadata "halut.format" is missing', metadata(format=None))
    case("format-unknown", 'unsupported version: metadata "halut.format" is "2", not "1"', metadata(format="2"))
    case("kind-unknown", 'malformed file: metadata "halut.kind" is "graph", not "network" or "product"',
         metadata(kind="graph"))
    case("key-unknown", 'malformed file: metadata "halut.nam" is not known', metadata(nam="x"))
    case("key-other-kind", 'malformed file: metadata "halut.columns" does not belong to a network',
         metadata(columns="5"))
    case("key-missing", 'malformed file: metadata "halut.labels" is missing', metadata(labels=None))
    case("name-letters", 'malformed file: metadata "halut.name" is not 1 to 63 of [A-Za-z0-9_.-] not starting '
         "with a dot", metadata(name="../net"))
    case("version-number", 'malformed file: metadata "halut.version" is "01", not a whole number from 1 to '
         "4294967295", metadata(version="01"))
    case("sha256-digits", 'malformed file: metadata "halut.sha256" is not 64 lower-case hex digits',
         metadata(sha256="A" * 64))
    digest = hashlib.sha256(network().bytes()[0][network().bytes()[1]["data"]:]).hexdigest()
    case("sha256-mismatch", f"checksum mismatch: tensors have SHA-256 {digest}, not {'0' * 64} (byte @data@)",
         metadata(sha256="0" * 64))
    case("input-json", "malformed file: metadata \"halut.input\" is not JSON: character 3: string or '}' expected "
         "near '1'", metadata(input="{ 1}"))
    case("input-object", 'malformed file: metadata "halut.input" is not an object', metadata(input="[1]"))
    case("input-member", 'malformed file: metadata "halut.input": unknown member "depth"',
         metadata(input='{"channels":2,"height":4,"width":4,"zero":[7,9],"depth":8}'))
    case("input-missing", 'malformed file: metadata "halut.input": "height" is missing',
         metadata(input='{"channels":2,"width":4,"zero":[7,9]}'))
    case("input-number", 'malformed file: metadata "halut.input": "width" is not a whole number from 1 to 4096',
         metadata(input='{"channels":2,"height":4,"width":4097,"zero":[7,9]}'))
    case("input-values", 'limit exceeded: metadata "halut.input": its map of 2x4096x4096 values exceeds 16777216',
         metadata(input='{"channels":2,"height":4096,"width":4096,"zero":[7,9]}'))
    case("input-zero", 'malformed file: metadata "halut.input": "zero" is not an array of 2 whole numbers from 0 '
         "to 255", metadata(input='{"channels":2,"height":4,"width":4,"zero":[7,256]}'))
    case("labels-array", 'malformed file: metadata "halut.labels" is not an array of 1 to 4096 strings',
         metadata(labels="{}"))
    case("labels-count", 'shape or type mismatch: metadata "halut.labels" has 3 strings for 2 classes',
         metadata(labels='["yes","no","perhaps"]'))
    case("labels-string", 'malformed file: metadata "halut.labels": label 1 is not a string',
         metadata(labels='["yes",0]'))
    case("scale-number", 'malformed file: metadata "halut.logit_scale" is "inf", not a decimal number above 0',
         metadata(logit_scale="inf"))
    case("scale-underflow", 'malformed file: metadata "halut.logit_scale" is "1e-60", not a decimal number above 0',
         metadata(logit_scale="1e-60"))
    case("columns-number", 'malformed file: metadata "halut.columns" is "65537", not a whole number from 1 to '
         "65536", metadata(columns="65537"), product)
    case("nmse-number", 'malformed file: metadata "halut.nmse" is "-1", not a decimal number from 0',
         metadata(nmse="-1"), product)


def graph_cases():
    case("graph-array", 'malformed file: metadata "halut.graph" is not an array of 1 to 256 nodes',
         metadata(graph="[]"))
    case("graph-nodes", 'limit exceeded: metadata "halut.graph" is not an array of 1 to 256 nodes',
         graph(lambda nodes: nodes * 52))
    case("node-object", "malformed file: node 1 is not an object", graph(lambda nodes: nodes[:1] + ["look"]))
    case("node-name", 'malformed file: node 0: "name" is not 1 to 63 of [A-Za-z0-9_.-] (and neither .x nor input)',
         attribute("stem", name="input"))
    case("node-name-twice", 'malformed file: node 1: "stem" is also the name of node 0',
         attribute("look", name="stem"))
    case("node-op", 'malformed file: node "pool": "op" is "minpool", which is none of the operations',
         attribute("pool", op="minpool"))
    case("node-member", 'malformed file: node "pool": unknown member "pad"', attribute("pool", pad=[0, 0]))
    case("node-in", 'malformed file: node "sum": "in" is not an array of 2 names', attribute("sum", **{"in": ["look"]}))
    case("node-in-later", 'malformed file: node "look": "in" names "sum", which is no earlier node',
         attribute("look", **{"in": ["sum"]}))
    case("window-missing", 'malformed file: node "look": "pad" is missing', attribute("look", pad=None))
    case("window-number", 'malformed file: node "pool": "stride" is not two whole numbers from 1 to 31',
         attribute("pool", stride=[0, 2]))
    case("window-pad", 'malformed file: node "look": pad is not smaller than kernel', attribute("look", pad=[3, 1]))
    case("window-size", 'shape or type mismatch: node "pool": kernel 5x2 is larger than its padded input 4x4',
         attribute("pool", kernel=[5, 2]))
    case("add-shapes", 'shape or type mismatch: node "sum": adds [3,4,4] and [2,4,4]',
         attribute("sum", **{"in": ["look", "input"]}))
    case("add-zero", 'malformed file: node "sum": "zero" is not a whole number from 0 to 255',
         attribute("sum", zero=256))
    case("last-linear", 'malformed file: node "pool": the last node is not a linear',
         graph(lambda nodes: nodes[:4]))
    case("only-last-linear", 'malformed file: node "out": a linear is not the last node',
         graph(lambda nodes: nodes + [dict(nodes[3], name="more", **{"in": ["out"]})]))
    case("node-unused", 'malformed file: node "pool" feeds no other node', unused_pool)
    case("conv-taps", 'limit exceeded: node "stem": 67712 values in a sum exceed 65536', many_taps)
    case("linear-values", 'limit exceeded: node "out": 67600 values in a sum exceed 65536', many_inputs)
    case("map-values", 'limit exceeded: node "stem": its map of 3x2402x2402 values exceeds 16777216', large_map)
    case("map-overflow", 'limit exceeded: node "stem": its map of 256x4096x4096 values exceeds 16777216', huge_map)
    case("map-side", 'limit exceeded: node "stem": its map of 4098x6 exceeds 4096 a side', long_map)
    case("maps-values", 'limit exceeded: node "p64": the maps up to it have over 1073741824 values', many_maps)
    case("conv-padded", 'limit exceeded: node "stem": 520093696 padded values exceed 268435456', padded_map)
    case("linear-overflow", 'malformed file: node "out": logit 1 can overflow 32 bits', put("out.bias", 1, -2**31))
    case("linear-overflow-up", 'malformed file: node "out": logit 0 can overflow 32 bits',
         put("out.bias", 0, 2**31 - 1))


def unused_pool(model):
    graph(lambda nodes: nodes[:4] + [dict(nodes[4], **{"in": ["sum"]})])(model)
    model.tensors["out.weight"] = np.zeros((2, 48), np.int8)


def many_taps(model):
    model.metadata["halut.input"] = json.dumps({"channels": 128, "height": 23, "width": 23, "zero": [0] * 128})
    attribute("stem", kernel=[23, 23], pad=[0, 0])(model)


def many_inputs(model):
    model.metadata["halut.input"] = json.dumps({"channels": 100, "height": 26, "width": 26, "zero": [0] * 100})
    model.metadata["halut.graph"] = json.dumps([{"op": "linear", "name": "out", "in": ["input"]}])


def large_map(model):
    model.metadata["halut.input"] = json.dumps({"channels": 2, "height": 2400, "width": 2400, "zero": [0, 0]})
    attribute("stem", pad=[2, 2])(model)


def huge_map(model):
    """2**32 values, which 32 bits count as none."""
    model.metadata["halut.input"] = json.dumps({"channels": 1, "height": 4096, "width": 4096, "zero": [0]})
    model.tensors["stem.weight"] = np.zeros((256, 1, 1, 1), np.int8)
    model.tensors["stem.bias"], model.tensors["stem.scale"] = np.zeros(256, np.int32), np.zeros(256, np.uint16)
    attribute("stem", kernel=[1, 1], pad=[0, 0])(model)


def long_map(model):
    model.metadata["halut.input"] = json.dumps({"channels": 2, "height": 4096, "width": 4, "zero": [0, 0]})
    attribute("stem", pad=[2, 2])(model)


def many_maps(model):
    model.metadata["halut.input"] = json.dumps({"channels": 1, "height": 4096, "width": 4096, "zero": [0]})
    model.metadata["halut.graph"] = json.dumps([
        {"op": "maxpool", "name": f"p{n}", "in": [f"p{n - 1}" if n else "input"], "kernel": [1, 1], "stride": [1, 1]}
        for n in range(65)])


def padded_map(model):
    model.metadata["halut.input"] = json.dumps({"channels": 4096, "height": 1, "width": 4096, "zero": [0] * 4096})
    attribute("stem", kernel=[16, 1], pad=[15, 0])(model)


def tensor_cases():
    case("tensor-missing", 'malformed file: tensor "look.table" is missing', tensor("look.table", lambda array: None))
    case("tensor-dtype", 'shape or type mismatch: tensor "out.bias" is F32, not I32 (byte @out.bias@)',
         tensor("out.bias", lambda array: array.astype(np.float32)))
    case("tensor-rank", 'shape or type mismatch: tensor "look.table" has shape [3,32], not that many dimensions '
         "(byte @look.table@)", tensor("look.table", lambda array: array.reshape(3, 32)))
    case("tensor-shape", 'shape or type mismatch: tensor "look.table" has shape [3,3,16], not [3,2,16] (byte '
         "@look.table@)", tensor("look.table", lambda array: np.zeros((3, 3, 16), np.int8)))
    case("tensor-size", 'limit exceeded: tensor "look.table": dimension 0 is 0, not from 1 to 4096 (byte '
         "@look.table@)", tensor("look.table", lambda array: array[:0]))
    case("tensor-unused", 'malformed file: tensor "look.extra" belongs to nothing in the model (byte @look.extra@)',
         lambda model: model.tensors.update({"look.extra": np.zeros(1, np.int8)}))
    case("filling-type", 'malformed file: tensor "_pad.out.bias" belongs to nothing in the model (byte '
         "@_pad.out.bias@)", entry("_pad.out.bias", dtype="I8"))
    case("threshold-zero", 'malformed file: tensor "look.threshold": entry 0 of codebook 1 is 1, not 0 (byte '
         "@look.threshold@)", put("look.threshold", (1, 0), 1))
    case("split-column", 'malformed file: tensor "look.split": codebook 0 reads column 27 of 27 (byte '
         "@look.split@)", put("look.split", (0, 0), 27))
    case("product-split", 'malformed file: tensor "split": codebook 0 reads column 5 of 5 (byte @split@)',
         put("split", (0, 0), 5), product)
    case("product-finite", 'malformed file: tensor "inverse": value 0 is not finite (byte @inverse@)',
         put("inverse", (0, 0), np.nan), product)
    case("product-finite-last", 'malformed file: tensor "low": value 7 is not finite (byte @low+28@)',
         put("low", (1, 3), np.inf), product)
    case("golden-pair", 'malformed file: tensor "golden.output" is missing',
         lambda model: model.tensors.update({"golden.input": np.zeros((1, 2, 4, 4), np.uint8)}))
    case("golden-shape", 'shape or type mismatch: tensor "golden.output" has shape [2,2], not [1,2] (byte '
         "@golden.output@)",
         lambda model: model.tensors.update({"golden.input": np.zeros((1, 2, 4, 4), np.uint8),
                                             "golden.output": np.zeros((2, 2), np.int32)}))
    case("golden-size", 'limit exceeded: tensor "golden.input": dimension 0 is 17, not from 1 to 16 (byte '
         "@golden.input@)",
         lambda model: model.tensors.update({"golden.input": np.zeros((17, 2, 4, 4), np.uint8),
                                             "golden.output": np.zeros((17, 2), np.int32)}))


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "invalid")
    container_cases()
    metadata_cases()
    graph_cases()
    tensor_cases()
    shutil.rmtree(folder, ignore_errors=True)
    for rule, content, error in CASES:
        os.makedirs(os.path.join(folder, rule))
        with open(os.path.join(folder, rule, "input"), "wb") as out:
            out.write(content)
        with open(os.path.join(folder, rule, "error"), "w", encoding="utf-8") as out:
            out.write(error + "\n")
    print(f"{len(CASES)} rules")


if __name__ == "__main__":
    main()
