#!/usr/bin/env python3
"""Makes a Markdown report and an SVG plot of what `llama4d bench --format json` has measured.

Usage: report.py BENCH.json OUT.md OUT.svg"""
import json
import math
import os
import sys
from xml.sax.saxutils import escape

COLOURS = ["#1b6ca8", "#d1495b", "#3c8d5a", "#a06cb0", "#c98a1b", "#5a5a5a"]
LIMITS = [("read_bytes_per_s", "memory read", "GB/s"), ("int8_ops_per_s", "int8 dot products", "GOP/s"),
          ("bf16_flops_per_s", "bf16 dot products", "GFLOP/s"), ("f32_flops_per_s", "f32 multiply-add", "GFLOP/s")]


def label(row):
    return "%s %d, batch %d" % (row["test"], row["n_prompt"] + row["n_gen"], row["batch"])


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def markdown(bench, plot):
    run = bench["run"]
    yield "# llama4d bench: %s" % run["model"]
    yield ""
    yield "%s weights, activations %s, gemm %s, kernels %s, %d threads; medians of up to %d runs (least to most)." % (
        run["quantization"], run["activations"], run["gemm"], run["kernels"], run["threads"], run["repeats"])
    yield ""
    yield "![results](%s)" % plot
    yield ""
    yield from table(["limit", "measured", "least to most"], (
        [name, "%.1f %s" % (bench["limits"][key] * 1e-9, unit), "%.1f to %.1f" % tuple(v * 1e-9 for v in bench["limits_range"][key])]
        for key, name, unit in LIMITS))
    yield ""
    rows = zip(bench["results"], bench["tokens_per_s_range"])
    yield from table(["test", "experts", "tokens/s", "least to most", "of the limit", "Gop/s", "GB/s", "experts hit"], (
        [label(r), r["experts"], "%.1f" % r["tokens_per_s"], "%.1f to %.1f" % tuple(span), "%.1f%%" % (100 * r["share_of_limit"]),
         "%.1f" % (r["ops"] / r["seconds"] * 1e-9), "%.1f" % (r["bytes"] / r["seconds"] * 1e-9), "%.1f" % r["distinct_experts"]]
        for r, span in rows))
    yield ""
    yield "The limit of a prefill is its operations at the arithmetic's rate; of a decode that, or its bytes at the memory's,"
    yield "whichever is slower."
    experts = bench.get("experts_by_tokens")
    if experts:
        names = list(experts[0]["seconds"])
        yield ""
        yield "Experts of one layer, routed and shared, milliseconds, tokens routed at random:"
        yield ""
        yield from table(["tokens", *names, "auto / best other (quartiles)"], (
            [str(r["tokens"]), *("%.3f" % (1e3 * r["seconds"][n]) for n in names),
             "%.2f (%.2f to %.2f)" % (r["auto_to_best"], *r["auto_to_best_quartiles"])] for r in experts))


def text(x, y, words, anchor="start", size=12, extra=""):
    return '<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s"%s>%s</text>' % (x, y, size, anchor, extra, escape(words))


def bars(bench, width, colour_of):
    """Share of the limit, one bar a result; returns the drawing and its height."""
    left, right, line = 290, 60, 20
    most = max(1.0, max(r["share_of_limit"] for r in bench["results"]))
    scale = (width - left - right) / most
    out = [text(10, 20, "share of the limit measured in the same run", size=14)]
    y = 34
    for r in bench["results"]:
        length = r["share_of_limit"] * scale
        out.append(text(left - 8, y + 13, "%s, %s" % (label(r), r["experts"]), "end"))
        out.append('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>' % (left, y + 2, length, line - 6, colour_of(r["experts"])))
        out.append(text(left + length + 5, y + 13, "%.0f%%  %.1f tokens/s" % (100 * r["share_of_limit"], r["tokens_per_s"]), size=11)
                   if length < (width - left - right) * 0.7 else
                   text(left + length - 5, y + 13, "%.0f%%  %.1f tokens/s" % (100 * r["share_of_limit"], r["tokens_per_s"]), "end", 11,
                        ' fill="white"'))
        y += line
    out.append('<line x1="%.1f" y1="34" x2="%.1f" y2="%d" stroke="black" stroke-dasharray="4 3"/>' % (left + scale, left + scale, y))
    return out, y + 12


def curves(experts, top, width, colour_of):
    """Time of the experts by number of tokens, both axes logarithmic."""
    left, right, height = 70, 120, 300
    names = list(experts[0]["seconds"])
    values = [1e3 * s for row in experts for s in row["seconds"].values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = math.log2(experts[-1]["tokens"]) or 1
    at_x = lambda tokens: left + math.log2(tokens) / last * (width - left - right)
    at_y = lambda ms: top + 30 + (high - math.log10(ms)) / max(high - low, 1) * height
    out = [text(10, top + 16, "experts of one layer, routed and shared: milliseconds by number of tokens", size=14)]
    for power in range(low, high + 1):
        y = at_y(10 ** power)
        out.append('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/>' % (left, y, width - right, y))
        out.append(text(left - 6, y + 4, "%g" % 10 ** power, "end", 11))
    for row in experts:
        out.append(text(at_x(row["tokens"]), top + 48 + height, str(row["tokens"]), "middle", 11))
    for i, name in enumerate(names):
        points = " ".join("%.1f,%.1f" % (at_x(r["tokens"]), at_y(1e3 * r["seconds"][name])) for r in experts)
        dash = ' stroke-dasharray="6 4"' if name == "auto" else ""
        out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>' % (points, colour_of(name), dash))
        out.append(text(width - right + 10, top + 45 + 18 * i, name, extra=' fill="%s"' % colour_of(name)))
    return out, top + height + 62


def svg(bench):
    width = 900
    names = list(dict.fromkeys([r["experts"] for r in bench["results"]] + [n for r in bench.get("experts_by_tokens", []) for n in r["seconds"]]))
    colour_of = lambda name: COLOURS[names.index(name) % len(COLOURS)]
    body, height = bars(bench, width, colour_of)
    if bench.get("experts_by_tokens"):
        more, height = curves(bench["experts_by_tokens"], height, width, colour_of)
        body += more
    yield '<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif">' % (width, height)
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield from body
    yield "</svg>"


def main():
    source, report, plot = sys.argv[1:]
    with open(source, encoding="utf-8") as f:
        bench = json.load(f)
    for path, lines in (report, markdown(bench, os.path.relpath(plot, os.path.dirname(report) or "."))), (plot, svg(bench)):
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")


main()
