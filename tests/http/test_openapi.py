"""GET /openapi.json is true to the code: the routes are those of server/route.h, the fields those that the codecs read, each
type and bound is what the daemon holds a request to, and answers have the shape that it says.

Whoever adds a route or a field learns here what is missing in server/openapi.json; whoever adds a codec says in READERS which
endpoints read their requests with it."""

import copy
import glob
import json
import os
import re

import jsonschema
import pytest

from conftest import ROOT

HTTP_METHODS = {"get", "post", "put", "delete", "patch", "head", "options"}
PARAMS = ["codec_params.c", "codec_grammar.c"]
CHAT = PARAMS + ["codec_chat.c", "codec_content.c"]
SHARED = ["codec_params.c:" + name for name in (
    "params_check_model", "decode_sampling", "decode_seed", "decode_stop_ids", "decode_logit_bias", "decode_prefix_cache",
    "params_decode_shared")] + ["codec_grammar.c"]
MESSAGES = SHARED + ["codec_messages.c", "codec_tools.c:tools_read"]
READERS = {  # whose codec_get calls read an endpoint's request
    "/v1/completions": PARAMS + ["codec_completions.c", "codec_prompts.c"],
    "/v1/chat/completions": CHAT,
    "/v1/responses": ["codec_params.c", "codec_grammar.c:grammar_decode", "codec_grammar.c:decode_schema", "codec_content.c",
                      "codec_responses.c", "codec_tools.c:tools_read"],
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/embeddings": ["codec_params.c:params_check_model", "codec_embeddings.c", "codec_prompts.c"],
    "/tokenize": CHAT + ["codec_tokens.c:decode_text", "codec_tokens.c:tokenize_decode"],
    "/detokenize": ["codec_params.c:params_check_model", "codec_tokens.c:detokenize_decode"],
    "/apply-template": CHAT,
}
VARIABLES = {  # names that a codec does not write where it reads the field
    "codec_params.c:decode_logit_bias": ["logit_bias"],
    "codec_params.c:decode_rest": ["functions", "function_call"],
    "codec_tokens.c:decode_text": ["content", "prompt", "text"],
    "codec_prompts.c:prompts_decode": [],  # its callers write it
    "codec_content.c:content_decode": [],  # likewise
    "codec_content.c:decode_part": ["text", "refusal"],
    "codec_responses.c:decode_content": ["content", "output"],
    "codec_responses.c:refuse_fields": ["previous_response_id", "conversation", "prompt", "response_format", "max_tokens",
                                        "max_completion_tokens"],
    "codec_responses.c:put_tool_echo": [], "codec_responses.c:put_string_field": [],  # read elsewhere, repeated here
    "codec_responses.c:put_int_field": [], "codec_responses.c:put_format": [],
}
NEEDS = {  # fields that are allowed only with others
    "top_logprobs": {"logprobs": True}, "stream_options": {"stream": True},
}
WRONG = {  # a value of each type
    "string": "x y", "number": 1.5, "integer": 7, "boolean": True, "array": [], "object": {},
}


@pytest.fixture(scope="module")
def doc(fake):
    response = fake.get("/openapi.json")
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    with open(os.path.join(ROOT, "server/openapi.json"), "rb") as f:
        assert response.content == f.read(), "the daemon was built with another server/openapi.json"
    return response.json()


def source(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


# ---- routes ----------------------------------------------------------------------------------------------------------


def test_routes_are_those_of_the_table(doc):
    rows = re.findall(r'X\("([A-Z]+)", "([^"]+)",', source("server/route.h"))
    assert rows
    table = {(method.lower(), re.sub(r"\*", "{}", path)) for method, path in rows}
    described = {(method, re.sub(r"\{\w+\}", "{}", path)) for path, item in doc["paths"].items() for method in item
                 if method in HTTP_METHODS}
    assert not table - described, "in server/route.h, but not in server/openapi.json: %s" % sorted(table - described)
    assert not described - table, "in server/openapi.json, but not in server/route.h: %s" % sorted(described - table)
    for path, item in doc["paths"].items():
        for operation in item.values():
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
            assert operation["operationId"] and operation["summary"] and operation["responses"], path


def test_document_is_sound(doc):
    assert doc["openapi"].startswith("3.1.")
    assert doc["info"]["version"] == re.search(r'LLAMA4D_VERSION "([^"]+)"', source("server/version.h")).group(1)
    for name, schema in doc["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(doc)
    refs = set(re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', text))
    assert text.count("$ref") == len(re.findall(r'"\$ref": "#/components/\w+/\w+"', text))
    have = {(kind, name) for kind, items in doc["components"].items() for name in items}
    assert refs == have, "missing %s, unused %s" % (sorted(refs - have), sorted(have - refs))
    ids = [operation["operationId"] for item in doc["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


# ---- fields ----------------------------------------------------------------------------------------------------------


def functions(name):
    """A source file's functions: name to text."""
    found = re.findall(r"^(?!\s|#|/|\}|struct \w+ \{|enum)[^\n;]*?\b(\w+)\([^;{]*?\) \{\n(.*?)^\}", source("server/" + name),
                       re.M | re.S)
    assert found, name
    return dict(found)


def arguments(text, at):
    """The arguments of the call whose parenthesis opens at text[at]."""
    depth, begin, found = 0, at + 1, []
    for i in range(at, len(text)):
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
        if depth == 1 and text[i] == "," or depth == 0:
            found.append(text[begin:i].strip())
            begin = i + 1
        if depth == 0:
            return found
    raise AssertionError("a call without an end: " + text[at:at + 40])


def names_read(reader):
    """The fields that the functions of a codec read ("file.c", or "file.c:function")."""
    name, _, only = reader.partition(":")
    bodies = functions(name)
    assert not only or only in bodies, "%s has no function %s" % (name, only)
    names = set()
    for function, body in bodies.items():
        if only and function != only:
            continue
        place = "%s:%s" % (name, function)
        names.update(VARIABLES.get(place, []))
        for call in re.finditer(r"\b(?:codec_get\w*|prompts_decode|content_decode)(\()", body):
            field = arguments(body, call.start(1))[1]
            literals = re.findall(r'"(\w+)"', field)
            assert literals or place in VARIABLES, \
                "%s reads the field %s: list its names in VARIABLES of this test" % (place, field)
            names.update(literals)
    return names


def resolve(doc, schema):
    while "$ref" in schema:
        kind, name = schema["$ref"].split("/")[-2:]
        schema = dict(doc["components"][kind][name], **{k: v for k, v in schema.items() if k != "$ref"})
    return schema


def alternatives(doc, schema):
    """The schemas of which one holds, allOf merged into them."""
    schema = resolve(doc, schema)
    if "anyOf" in schema:
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "description", "default")}
        return [merge(one, rest) for part in schema["anyOf"] for one in alternatives(doc, part)]
    parts = [alternatives(doc, part) for part in schema.get("allOf", [])]
    assert all(len(part) == 1 for part in parts)
    merged = {k: v for k, v in schema.items() if k != "allOf"}
    for [part] in parts:
        merged = merge(part, merged)
    return [merged]


def merge(a, b):
    both = dict(a, **b)
    if "properties" in a or "properties" in b:
        both["properties"] = dict(a.get("properties", {}), **b.get("properties", {}))
    if "required" in a or "required" in b:
        both["required"] = sorted(set(a.get("required", [])) | set(b.get("required", [])))
    return both


def fields(doc, schema, inside=""):
    """Every property: (path, name, schema)."""
    for one in alternatives(doc, schema):
        for name, field in one.get("properties", {}).items():
            yield inside + name, name, field
            yield from fields(doc, field, inside + name + ".")
        if "items" in one:
            yield from fields(doc, one["items"], inside[:-1] + "[].")


def bodies(doc):
    for path, item in doc["paths"].items():
        for operation in item.values():
            if "requestBody" in operation:
                yield path, operation["requestBody"]["content"]["application/json"]


def test_fields_are_those_that_codecs_read(doc):
    have = {path for path, _ in bodies(doc)}
    assert set(READERS) == have, "endpoints with a body, but not in READERS, or the other way round: %s" % \
        sorted(set(READERS) ^ have)
    for path, body in bodies(doc):
        read = set().union(*(names_read(reader) for reader in READERS[path]))
        described = {name for _, name, _ in fields(doc, body["schema"])}
        assert not read - described, "%s: read, but not in server/openapi.json: %s" % (path, sorted(read - described))
        assert not described - read, "%s: in server/openapi.json, but not read: %s" % (path, sorted(described - read))


def test_every_codec_is_somebodys():
    used = {reader.partition(":")[0] for readers in READERS.values() for reader in readers}
    for name in glob.glob(os.path.join(ROOT, "server", "*.c")):
        name = os.path.basename(name)
        if re.search(r"\bcodec_get_?\w*\(", source("server/" + name)) and name not in ("codec_json.c",):
            assert name in used, "%s reads fields: list it in READERS of this test" % name


def test_every_field_has_a_type_and_a_description(doc):
    for path, body in bodies(doc):
        for place, _, field in fields(doc, body["schema"]):
            assert resolve(doc, field).get("description"), "%s: %s has no description" % (path, place)
            for one in alternatives(doc, field):
                assert "type" in one, "%s: %s has no type" % (path, place)


# ---- probes ----------------------------------------------------------------------------------------------------------


def is_valid(doc, schema, value):
    return jsonschema.Draft202012Validator(dict(schema, components=doc["components"])).is_valid(value)


def fitting(doc, schema, value):
    """The alternatives that an example may be meant by."""
    return [one for one in alternatives(doc, schema) if is_valid(doc, one, value)]


def places(doc, schema, value, at=()):
    """Every place inside an example where a field may stand: (place, schema)."""
    for one in fitting(doc, schema, value):
        for name, field in one.get("properties", {}).items():
            yield at + (name,), field
            if name in value:
                yield from places(doc, field, value[name], at + (name,))
        if "items" in one and isinstance(value, list):
            for i, item in enumerate(value):
                yield at + (i,), one["items"]
                yield from places(doc, one["items"], item, at + (i,))


def wrong_values(doc, schema):
    """Values that the schema does not allow, each at one of its bounds."""
    options = alternatives(doc, schema)
    types = {one["type"] for one in options}
    allowed = types | ({"integer"} if "number" in types else set())
    for kind, value in WRONG.items():
        if kind in allowed:
            continue
        if kind == "array" and any("minItems" not in one and one["type"] == "array" for one in options):
            continue
        yield value
    for one in options:
        if "enum" in one:
            yield "none of them"
        if "minimum" in one:
            yield one["minimum"] - 1
        if "maximum" in one:
            yield one["maximum"] + 1
        if one.get("minLength"):
            yield ""
        if "maxLength" in one:
            yield "x" * (one["maxLength"] + 1)
        if "pattern" in one:
            yield "no such name!"
        if one.get("minItems"):
            yield []
        if "maxItems" in one:
            yield [example_of(doc, one["items"]) for _ in range(one["maxItems"] + 1)]
        if "maxProperties" in one:
            yield {str(i): 1 for i in range(one["maxProperties"] + 1)}
        if isinstance(one.get("additionalProperties"), dict):
            yield from ({"1": value} for value in wrong_values(doc, one["additionalProperties"]))


def right_values(schema):
    """The bounds themselves."""
    if schema.get("type") in ("integer", "number"):
        return [schema[bound] for bound in ("minimum", "maximum") if bound in schema]
    return []


def example_of(doc, schema):
    one = alternatives(doc, schema)[0]
    if "enum" in one:
        return one["enum"][0]
    if one["type"] == "object":
        return {name: example_of(doc, one["properties"][name]) for name in one.get("required", [])}
    return {"string": "x", "integer": 1, "number": 1, "array": []}[one["type"]]


def put(body, place, value):
    body = copy.deepcopy(body)
    at = body
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return body


def name_of(place):
    """("a", 0, "b") is a[0].b."""
    return "".join("[%d]" % key if isinstance(key, int) else "." + key for key in place)[1:]


def blames(param, place):
    """The param is the place, or leads there or into it.  Of an array whose items must be alike, any may be to blame."""
    place = place[:-1] if isinstance(place[-1], int) else place
    name = name_of(place)
    at = [name_of(place[:i]) for i in range(1, len(place) + 1)]
    return param in at or (param or "").startswith((name + ".", name + "["))


def param_of(answer):
    """What an error blames: of its own field or, where the shape has none, before the message."""
    error = answer.json()["error"]
    return error["param"] if "param" in error else error["message"].partition(": ")[0]


def examples(doc):
    for path, body in bodies(doc):
        for example in body["examples"].values():
            yield path, body["schema"], example["value"]


def test_every_type_and_bound_is_held_to(doc, fake):
    n = 0
    seen = set()
    for path, schema, example in examples(doc):
        for place, field in places(doc, schema, example):
            key = (path, tuple("[]" if isinstance(k, int) else k for k in place), json.dumps(field))
            if key in seen:
                continue
            seen.add(key)
            body = dict(example, **NEEDS.get(place[0], {}))
            for value in wrong_values(doc, field):
                answer = fake.post(path, put(body, place, value))
                what = "%s: %s = %s" % (path, name_of(place), str(value)[:60])
                if place == ("model",) and isinstance(value, str):
                    assert answer.status_code == 404, what
                    continue
                assert answer.status_code == 400, "%s is taken: %s" % (what, answer.text[:200])
                assert blames(param_of(answer), place), "%s: %s" % (what, answer.text)
                n += 1
            for one in alternatives(doc, field):
                for value in right_values(one):
                    answer = fake.post(path, put(body, place, value))
                    if answer.status_code != 200:
                        assert not blames(param_of(answer), place), \
                            "%s: %s = %s is refused: %s" % (path, name_of(place), value, answer.text)
    assert n > 500
    probed = {key[1] for key in seen}
    for path, body in bodies(doc):  # and no field is without a probe at one of the endpoints that share it
        for place, _, _ in fields(doc, body["schema"]):
            keys = tuple(part for name in place.split(".") for part in re.findall(r"\w+|\[\]", name))
            assert keys in probed, "%s: no example in server/openapi.json leads to %s" % (path, place)


def test_required_fields_are_required(doc, fake):
    for path, schema, example in examples(doc):
        for one in fitting(doc, schema, example):
            for name in one.get("required", []):
                body = {k: v for k, v in example.items() if k != name}
                answer = fake.post(path, body)
                assert answer.status_code == 400, (path, name, answer.text)


# ---- answers ---------------------------------------------------------------------------------------------------------


def closed(doc, schema):
    """The schema without references, and without room for members that it does not name."""
    options = [dict(one) for one in alternatives(doc, schema)]
    for one in options:
        if "properties" in one:
            one["properties"] = {name: closed(doc, field) for name, field in one["properties"].items()}
            one["additionalProperties"] = False
        if "items" in one:
            one["items"] = closed(doc, one["items"])
    return options[0] if len(options) == 1 else {"anyOf": options}


def check_answer(doc, response, answers):
    status = str(response.status_code)
    assert status in answers, "%s is not among the responses of server/openapi.json" % status
    content = resolve(doc, answers[status])["content"]
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in content, (kind, content)
    schema = closed(doc, content[kind]["schema"])
    if kind == "text/event-stream":
        found = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
        assert found
    else:
        found = [response.json()] if kind == "application/json" else [response.text]
    for one in found:
        jsonschema.validate(one, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", ["demo", "fake"])
def test_answers_have_the_described_shape(doc, request, name):
    daemon = request.getfixturevalue(name)
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            answers = operation["responses"]
            if method == "get":
                check_answer(doc, daemon.get(path.replace("{id}", name)), answers)
                continue
            body = operation["requestBody"]["content"]["application/json"]
            for example in body["examples"].values():
                assert is_valid(doc, body["schema"], example["value"]), (path, example)
                response = daemon.post(path, example["value"])
                assert response.status_code == 200, (path, example, response.text)
                check_answer(doc, response, answers)
            check_answer(doc, daemon.post(path, {}), answers)
            if "404" in answers:
                check_answer(doc, daemon.post(path, dict(example["value"], model="gpt-9")), answers)
    check_answer(doc, daemon.get("/v1/models/other"), doc["paths"]["/v1/models/{id}"]["get"]["responses"])
