"""response_format and grammar: whatever the model would rather say, the answer keeps to them, at every temperature."""

import concurrent.futures
import json
import random
import re

import jsonschema
import pytest

from api import CHAT, COMPLETIONS, frames, refused, user, whole
from conftest import SANITIZED

TEMPERATURES = [0, 1, 2]
MANY = 3 if SANITIZED else 8
PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags", "address"], "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": 12},
    "age": {"type": "integer", "minimum": 0, "maximum": 130},
    "score": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 1},
    "tags": {"type": "array", "items": {"enum": ["a", "b", "c\"d", 7, None]}, "minItems": 1, "maxItems": 3},
    "address": {"$ref": "#/$defs/address"},
    "born": {"type": "string", "format": "date"}},
    "$defs": {"address": {"type": "object", "additionalProperties": False, "required": ["zip", "kind"], "properties": {
        "zip": {"type": "string", "pattern": r"^[A-Z]{1,2}-\d{4,5}$"},
        "kind": {"oneOf": [{"const": "home"}, {"type": "null"}, {"type": "integer", "exclusiveMinimum": 5, "maximum": 60}]}}}}}
TREE = {"$defs": {"node": {"type": "object", "additionalProperties": False, "required": ["v", "next"], "properties": {
    "v": {"type": "boolean"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}}, "$ref": "#/$defs/node"}


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def validate(text, schema):
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator,
                        format_checker=jsonschema.FormatChecker())


def check(choice, text, schema):
    """Valid, unless it was cut; then at least no more than the beginning of a value."""
    if choice["finish_reason"] == "stop":
        validate(text, schema)
    else:
        assert choice["finish_reason"] == "length"
    return choice["finish_reason"] == "stop"


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("schema", [PERSON, TREE], ids=["person", "tree"])
def test_schema(demo, schema, temperature):
    answer = whole(demo, CHAT, messages=user("Who?"), temperature=temperature, seed=5, n=1 if temperature == 0 else MANY,
                   max_tokens=400, response_format=schema_format(schema))
    ended = [check(c, c["message"]["content"], schema) for c in answer["choices"]]
    assert any(ended) or schema is TREE  # a tree may grow until it is cut


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_json_object(demo, temperature):
    answer = whole(demo, COMPLETIONS, prompt=["The cat", "{\"a\":"], temperature=temperature, seed=1, max_tokens=200,
                   n=1 if temperature == 0 else MANY, response_format={"type": "json_object"})
    for choice in answer["choices"]:
        check(choice, choice["text"], {"type": "object"})


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_grammar(demo, temperature):
    gbnf = 'root ::= ("yes" | "no") (" " [a-f\u00e9]{2,5} "\\n")+ "."'
    answer = whole(demo, COMPLETIONS, prompt="The cat", temperature=temperature, seed=2, max_tokens=60,
                   n=1 if temperature == 0 else MANY, grammar=gbnf)
    ended = 0
    for choice in answer["choices"]:
        if choice["finish_reason"] == "stop":
            ended += 1
            assert re.fullmatch("(yes|no)( [a-f\u00e9]{2,5}\n)+\\.", choice["text"])
        else:
            assert re.match("(yes|no)", choice["text"])
    assert ended or temperature == 0


def test_one_answer_only(demo):
    """A grammar that leaves nothing to choose: the same text whatever else is asked for."""
    gbnf = 'root ::= "{\\"x\\": [1, 2]}"'
    text = '{"x": [1, 2]}'
    for more in ({}, {"temperature": 2, "seed": 1}, {"temperature": 1, "top_k": 3}, {"temperature": 1, "top_p": 0.1},
                 {"temperature": 1, "min_p": 0.9}, {"ignore_eos": True}, {"logit_bias": {"17": 100}},
                 {"repetition_penalty": 100, "temperature": 1}, {"frequency_penalty": 2}):
        choice, = whole(demo, COMPLETIONS, prompt="The cat", max_tokens=40, grammar=gbnf, **more)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (text, "stop"), more
    chunks = frames(demo, CHAT, messages=user("?"), grammar=gbnf)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == text


def test_cut(demo):
    choice, = whole(demo, CHAT, messages=user("?"), max_tokens=3, temperature=0,
                    response_format=schema_format({"type": "string", "minLength": 500}))["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith('"')


def test_same_beside_others(start):
    """Seeds give the same answers alone and among others, with prompts cut and requests set back for want of pages."""
    daemon = start(model="tests/models/demo", real=True, port=0, max_running=12, kv_cache="1M", max_context=400)
    bodies = [{"prompt": "The cat sat " * (1 + 9 * (i % 3)), "temperature": 1, "seed": i, "max_tokens": 250,
               "response_format": schema_format([PERSON, TREE, {"type": "array", "minItems": 20}][i % 3])}
              for i in range(6 if SANITIZED else 12)]
    alone = [whole(daemon, COMPLETIONS, **body)["choices"][0]["text"] for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda b: whole(daemon, COMPLETIONS, **b)["choices"][0]["text"], bodies))
    assert together == alone
    set_back = re.search(r"^llama4d_preemptions_total (\d+)$", daemon.get("/metrics").text, re.M)
    assert int(set_back.group(1)) > 0


# ---- random schemas ---------------------------------------------------------------------------------------------------

def random_schema(rng, depth=0):
    kind = rng.choice(["string", "integer", "number", "enum", "boolean", "null", "pattern"] +
                      (["object", "array", "anyOf", "types"] * 2 if depth < 3 else []))
    if kind == "string":
        low = rng.randint(0, 3)
        return rng.choice([{"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 5)},
                           {"type": "string", "format": rng.choice(["date", "ipv4", "uuid", "email", "time", "date-time"])}])
    if kind in ("integer", "number"):
        low = rng.randint(-2000, 2000)
        schema = {"type": kind, rng.choice(["minimum", "exclusiveMinimum"]): low - rng.choice([0, 0, 0.125]),
                  rng.choice(["maximum", "exclusiveMaximum"]): low + rng.randint(2, 300)}
        return schema
    if kind == "enum":
        return {"enum": rng.sample([1, "x", None, True, [1, {"a": "\u00e9"}], "\"\\", -2.5, {}], rng.randint(1, 5))}
    if kind == "pattern":
        return {"type": "string", "pattern": rng.choice([r"^\w{2,3}[^\s]$", r"^(a|bc)+$", r"^[^a-z]{1,4}$", r"^\d+(\.\d+)?$",
                                                         r"x.y", r"^-?[0-9]{1,3}$"])}
    if kind == "object":
        names = rng.sample(["a", "ab", "b c", "\u00e9", "q\"", "type", "$ref"], rng.randint(0, 4))
        return {"type": "object", "properties": {n: random_schema(rng, depth + 1) for n in names},
                "required": [n for n in names if rng.random() < 0.6],
                "additionalProperties": rng.choice([False, False, {"type": "integer", "maximum": 9}])}
    if kind == "array":
        low = rng.randint(0, 2)
        schema = {"type": "array", "items": random_schema(rng, depth + 1), "minItems": low, "maxItems": low + rng.randint(0, 2)}
        if rng.random() < 0.3:
            schema["prefixItems"] = [random_schema(rng, depth + 1)]
            schema["maxItems"] += 1
        return schema
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, depth + 1) for _ in range(rng.randint(1, 3))]}
    if kind == "types":
        return {"type": rng.sample(["string", "integer", "null", "boolean"], 2), "maxLength": 4, "minimum": -3, "maximum": 3}
    return {"type": kind}


@pytest.mark.parametrize("part", range(1 if SANITIZED else 4))
def test_random_schemas(demo, part):
    rng = random.Random(part)
    ended = 0
    for i in range(12):
        schema = random_schema(rng)
        answer = whole(demo, COMPLETIONS, prompt="x", temperature=2, seed=i, n=3, max_tokens=300,
                       response_format=schema_format(schema))
        ended += sum(check(c, c["text"], schema) for c in answer["choices"])
    assert ended >= 18


# ---- refusals ---------------------------------------------------------------------------------------------------------

SCHEMA = "response_format.json_schema.schema"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_refused(fake, path):
    base = {"messages": user("a")} if path == CHAT else {"prompt": "a"}

    def no(format, param, part=""):
        assert part in refused(fake, path, dict(base, response_format=format), param)["message"]

    no({}, "response_format.type")
    no({"type": 3}, "response_format.type")
    no({"type": "xml"}, "response_format.type", "json_schema")
    no({"type": "json_schema"}, "response_format.json_schema")
    no({"type": "json_schema", "json_schema": []}, "response_format.json_schema")
    no({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name")
    no({"type": "json_schema", "json_schema": {"name": "a", "strict": "yes"}}, "response_format.json_schema.strict")
    no({"type": "json_schema", "json_schema": {"name": "a", "schema": []}}, SCHEMA)
    no(schema_format({"properties": {"a": {"not": {}}}}), SCHEMA, "#/properties/a/not: 'not' is not supported")
    no(schema_format({"$ref": "#"}), SCHEMA, "refers to itself")
    no(schema_format({"pattern": "(" * 60000}), SCHEMA, "nested deeper than 50")
    no(schema_format({"enum": list(range(5000))}), SCHEMA, "more than 1000 values")
    deep = {}
    for _ in range(110):
        deep = {"items": deep}
    no(schema_format(deep), SCHEMA, "nested deeper than 100")
    message = refused(fake, path, dict(base, grammar='root ::= "a"\n x'), "grammar")["message"]
    assert "line 2, column 2" in message
