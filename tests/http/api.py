"""What tests of the generating endpoints share: streams read to their end, and the reference outputs."""

import json
import os

from conftest import ROOT

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
EMBEDDINGS = "/v1/embeddings"

with open(os.path.join(ROOT, "tests/fixtures/demo.golden.json"), encoding="utf-8") as f:
    GOLDEN = json.load(f)


def user(text):
    return [{"role": "user", "content": text}]


def whole(daemon, path, **body):
    """The answer to a request that must succeed."""
    response = daemon.post(path, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def frames(daemon, path, **body):
    """The chunks of a stream as JSON, [DONE] left out; asserts the framing."""
    response = daemon.post(path, dict(body, stream=True))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [part for part in response.content.decode("utf-8").split("\n\n") if not part.startswith(":")]
    assert lines.pop() == ""
    assert lines.pop() == "data: [DONE]"
    assert all(line.startswith("data: {") and "\n" not in line for line in lines), lines
    return [json.loads(line[len("data: "):]) for line in lines]


def refused(daemon, path, body, param, status=400, raw=False):
    """The error object of a request that must be refused."""
    if raw:
        response = daemon.post(path, None, data=body, headers={"content-type": "application/json"})
    else:
        response = daemon.post(path, body)
    assert response.status_code == status, (body, response.status_code, response.text[:500])
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, (body, error)
    assert error["message"]
    return error
