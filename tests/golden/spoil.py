#!/usr/bin/env python3
"""Copies a reference file with one value of it made wrong, to show that `golden` notices.

Usage: spoil.py SRC.safetensors DST.safetensors TENSOR      (the largest element of TENSOR changes)
       spoil.py SRC.json DST.json KEY [KEY ...]             (what KEY [KEY ...] leads to changes)
"""
import json
import struct
import sys

source, target, *path = sys.argv[1:]
if source.endswith(".safetensors"):
    data = bytearray(open(source, "rb").read())
    (n,) = struct.unpack_from("<Q", data)
    begin, end = json.loads(data[8:8 + n])[path[0]]["data_offsets"]
    entry_type = "f" if json.loads(data[8:8 + n])[path[0]]["dtype"] == "F32" else "i"
    values = struct.unpack_from("<%d%s" % ((end - begin) // 4, entry_type), data, 8 + n + begin)
    at = values.index(max(values))
    struct.pack_into("<" + entry_type, data, 8 + n + begin + 4 * at, values[at] // 2)
    open(target, "wb").write(data)
else:
    tree = json.load(open(source))
    node = tree
    for key in path[:-1]:
        node = node[int(key) if isinstance(node, list) else key]
    last = int(path[-1]) if isinstance(node, list) else path[-1]
    node[last] = node[last] + 1 if isinstance(node[last], (int, float)) else node[last] + "x"
    json.dump(tree, open(target, "w"))
