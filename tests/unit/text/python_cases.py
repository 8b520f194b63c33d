"""What Python does, for test_python.c to compare with: python_cases.py json|utf8|strip.

Each line is a case: fields in hexadecimal, "-" for an error.
  json   text, json.dumps(json.loads(text), ensure_ascii=False), the same with indent=4
  utf8   bytes, bytes.decode("utf-8", errors="replace")
  strip  text, text.strip()
"""
import json
import math
import random
import struct
import sys

rng = random.Random(4)


def field(text):
    return text.encode().hex() or "."


def refuse(name):
    raise ValueError(name)


def finite(text):
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def whole(pairs):
    """Half surrogate pairs are refused even where a later equal key drops them."""
    json.dumps(pairs, ensure_ascii=False).encode()
    return dict(pairs)


def json_case(text):
    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite, object_pairs_hook=whole)
        return " ".join([field(text)] + [field(json.dumps(value, ensure_ascii=False, indent=i)) for i in (None, 4)])
    except (ValueError, UnicodeEncodeError):
        return field(text) + " - -"


def random_string():
    alphabet = ["a", "\\u00e9", "é", "\\ud83d\\ude00", "😀", "\\n", '\\"', "\\\\", "\\/", "\\b\\f\\r\\t", "\u007f", " ",
                "\\u001f", "\\u2028", "\u2028", "\\ud800", "\t", "\\x", "\\u12", "0", "\\uDBFF\\uDFFF", "\\udc00"]
    weights = [8] * 15 + [0.1] * 3 + [0.1] + [8] * 2 + [0.1]
    return '"' + "".join(rng.choices(alphabet, weights, k=rng.randrange(6))) + '"'


def random_number():
    kind = rng.randrange(6)
    if kind == 0:
        return str(rng.randrange(-10**rng.randrange(1, 40), 10**rng.randrange(1, 40)))
    if kind == 1:
        return repr(struct.unpack("<d", struct.pack("<Q", rng.getrandbits(64)))[0])
    if kind == 2:
        return "%s%d.%0*de%d" % (rng.choice(["-", ""]), rng.randrange(10), rng.randrange(1, 20),
                                 rng.randrange(10**9), rng.randrange(-330, 312))
    if kind == 3:
        return "%.*f" % (rng.randrange(1, 8), rng.uniform(-1e6, 1e6))
    if kind == 4:
        return rng.choice(["0", "-0", "-0.0", "0.0", "1e5", "1E+5", "1e-5", "1e16", "1e15", "123456789012345678.0",
                           "0.0001", "0.00001", "5e-324", "2.5e-324", "1.7976931348623157e308", "1e309", "01", "1.",
                           ".5", "+1", "-", "1e", "1e+", "0x1", "NaN", "Infinity", "-Infinity", "9" * 4300, "9" * 4301])
    return str(rng.randrange(100))


def random_value(depth):
    kind = rng.randrange(8 if depth else 5)
    space = lambda: rng.choice(["", "", "", " ", "\n\t", "\r "])
    if kind < 2:
        return random_number()
    if kind < 4:
        return random_string()
    if kind == 4:
        return rng.choice(["null", "true", "false", "nul", "True"]) if rng.random() < 0.2 else "true"
    items = []
    for _ in range(rng.randrange(5)):
        item = space() + random_value(depth - 1) + space()
        if kind >= 6:
            key = rng.choice(['"a"', '"b"', '"\\u0061"', random_string()])
            item = space() + key + space() + ":" + item
        items.append(item)
    text = ",".join(items)
    if rng.random() < 0.02:
        text += rng.choice([",", "]", "}", ":", "x"])
    return ("{%s}" if kind >= 6 else "[%s]") % (text or space())


def json_cases():
    for exponent in range(-1074, 1024):
        yield repr(math.ldexp(1.0, exponent))
        yield repr(math.nextafter(math.ldexp(1.0, exponent), 0.0))
    for depth in (1, 2, 511, 512):
        yield "[" * depth + "]" * depth
        yield '{"a":' * depth + "1" + "}" * depth
    for text in ("", " ", "[", "{", '"', '"a', "[1", '{"a"', '{"a":', '{"a":1', "[1,]", '{"a":1,}', "[,1]", "{,}", "1 2",
                 '{"a" 1}', '{1:2}', "\ufeff1", "nullx", "[1 2]", '"\x00"', "\x00", "1\x00", '{"":{}}', "[[],{}]"):
        yield text
    for _ in range(4000):
        yield random_value(4)


def utf8_cases():
    edges = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE,
             0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    for a in edges:
        for b in edges:
            yield bytes([a, b])
            for c in edges:
                yield bytes([a, b, c])
    for _ in range(3000):
        yield bytes(rng.choices(edges, k=rng.randrange(1, 9)))
    for _ in range(1000):
        yield bytes(rng.randrange(256) for _ in range(rng.randrange(40)))


def strip_cases():
    for code in list(range(0x3100)) + [0xFEFF, 0xFFFD, 0x1F600]:
        if not 0xD800 <= code < 0xE000:
            yield chr(code) + "a" + chr(code)
    for text in ("", " ", " \t\u3000\u00a0 ", "\u2003a b\u2003", "é", " é", "\u0085", "a\u200b"):
        yield text


if sys.argv[1] == "json":
    for case in json_cases():
        print(json_case(case))
elif sys.argv[1] == "utf8":
    for case in utf8_cases():
        print(case.hex() or ".", field(case.decode("utf-8", errors="replace")))
elif sys.argv[1] == "strip":
    for case in strip_cases():
        print(field(case), field(case.strip()))
