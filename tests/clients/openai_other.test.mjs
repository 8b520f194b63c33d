// Models, text completions and what is refused, with OpenAI's client on the demo model.
import assert from "node:assert/strict";
import test from "node:test";

import { BadRequestError, NotFoundError } from "openai";

import { PARIS, PARIS_ANSWER, collect, openai, rejection, requests, slow, url, user } from "./common.mjs";

const client = openai();
const PROMPT = "In a meadow, there lived a quiet mouse. The mouse was called";
const TALE = { model: "demo", prompt: PROMPT, temperature: 0, max_tokens: 8 };

test("models", async () => {
  const models = await collect(client.models.list());
  assert.deepEqual(models.map(({ id, object }) => [id, object]), [["demo", "model"]]);
  const model = await client.models.retrieve("demo");
  assert.deepEqual(model, models[0]);
  assert.ok(model.created > 0 && model.owned_by);
  const error = await rejection(client.models.retrieve("another"), NotFoundError);
  assert.equal(error.status, 404);
  assert.equal(error.type, "not_found_error");
});

test("a text completion, whole and streamed", async () => {
  const whole = await client.completions.create(TALE);
  assert.match(whole.id, /^cmpl-/);
  assert.equal(whole.object, "text_completion");
  assert.equal(whole.choices[0].finish_reason, "length");
  assert.ok(whole.choices[0].text.startsWith(" Leo."));
  assert.equal(whole.usage.completion_tokens, 8);
  const body = { ...TALE, stream: true, stream_options: { include_usage: true } };
  const chunks = await collect(await client.completions.create(body));
  assert.equal(chunks.at(-1).usage.completion_tokens, 8);
  assert.equal(chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.text)).join(""), whole.choices[0].text);
});

slow("text completions of several prompts, with log-probabilities", async () => {
  const { choices } = await client.completions.create({ ...TALE, prompt: [PROMPT, "Tom was"], n: 2, logprobs: 1 });
  assert.deepEqual(choices.map((choice) => choice.index), [0, 1, 2, 3]);
  assert.equal(choices[0].text, choices[1].text);
  for (const { text, logprobs } of choices) {
    assert.equal(logprobs.tokens.join(""), text);
    assert.equal(logprobs.token_logprobs.length, logprobs.tokens.length);
    assert.ok(logprobs.top_logprobs.every((top) => Object.keys(top).length === 1));
  }
});

test("the id of a request", async () => {
  const headers = { "X-Request-ID": "my-own-id-7" };
  const { data, response, request_id } = await client.chat.completions
    .create({ model: "demo", messages: PARIS, temperature: 0 }, { headers })
    .withResponse();
  assert.equal(data.choices[0].message.content, PARIS_ANSWER);
  assert.equal(response.status, 200);
  assert.deepEqual([request_id, data._request_id], ["my-own-id-7", "my-own-id-7"]);
});

// ---- what is refused

const chat = (body) => client.chat.completions.create({ model: "demo", messages: PARIS, max_tokens: 1, ...body });

const IMAGE = { type: "image_url", image_url: { url: "http://127.0.0.1/a.png" } };
const NOT = { type: "json_schema", json_schema: { name: "a", schema: { not: {} } } };
const refusals = [
  ["a field of a wrong type", { temperature: "hot" }, "temperature", null],
  ["a field out of range", { top_logprobs: 21, logprobs: true }, "top_logprobs", null],
  ["no messages", { messages: undefined }, "messages", null],
  ["a message without a role", { messages: [{ content: "Hi" }] }, "messages[0].role", null],
  ["an image", { messages: user([IMAGE]) }, "messages[0].content[0].type", null],
  ["a prompt that is too long", { messages: user("word ".repeat(20000)) }, "messages", "context_length_exceeded"],
  ["a schema that cannot be held to", { response_format: NOT }, "response_format.json_schema.schema", null],
];

test("bad requests", async () => {
  for (const stream of [false, true])
    for (const [what, body, param, code] of refusals) {
      const error = await rejection(chat({ ...body, stream }), BadRequestError);
      assert.equal(error.status, 400);
      assert.equal(error.type, "invalid_request_error", what);
      assert.equal(error.param, param, what);
      assert.equal(error.code, code, what);
      assert.ok(error.message.startsWith("400 ") && error.message.includes(error.error.message), what);
      assert.match(error.requestID, /^\S+$/);
    }
});

test("a bad request is not tried again", async () => {
  const before = await requests("/v1/chat/completions", 400);
  const eager = openai({ maxRetries: 3 });
  await rejection(eager.chat.completions.create({ model: "demo", messages: PARIS, n: 0 }), BadRequestError);
  assert.equal(await requests("/v1/chat/completions", 400), before + 1);
});

test("what is not there", async () => {
  const model = await rejection(chat({ model: "another" }), NotFoundError);
  assert.equal(model.param, "model");
  assert.equal(model.code, "model_not_found");
  const path = await rejection(client.moderations.create({ input: "x" }), NotFoundError);
  assert.equal(path.type, "not_found_error");
  assert.ok(path.message.includes("/v1/moderations"));
  const outside = openai({ baseURL: url }); // without /v1
  await rejection(outside.chat.completions.create({ model: "demo", messages: PARIS }), NotFoundError);
});
