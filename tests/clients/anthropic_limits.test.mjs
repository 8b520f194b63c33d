// A full queue, aborts and timeouts, with Anthropic's client on the fake engine: one request runs, one waits, and an
// answer takes minutes.
import assert from "node:assert/strict";
import test from "node:test";

import Anthropic, { APIConnectionTimeoutError, APIUserAbortError, RateLimitError } from "@anthropic-ai/sdk";

import { PARIS, rejection, requests, running, until, url, waiting } from "./common.mjs";

const ROUTE = "/v1/messages";
const LONG = { model: "fake", messages: PARIS, max_tokens: 10000 };
const SHORT = { ...LONG, max_tokens: 2 };

const { messages } = new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });

async function isFreeAgain() {
  await running(0);
  const answer = await messages.create(SHORT);
  assert.equal(answer.usage.output_tokens, 2);
  assert.equal(answer.stop_reason, "max_tokens");
}

test("abort of a stream", async () => {
  const stream = messages.stream(LONG);
  const final = stream.finalMessage();
  stream.once("text", () => stream.abort());
  await rejection(final, APIUserAbortError);
  await isFreeAgain();
});

test("leaving the loop", async () => {
  for await (const event of await messages.create({ ...LONG, stream: true }))
    if (event.type === "content_block_delta") break;
  await isFreeAgain();
});

test("abort in the queue", async () => {
  const first = await messages.create({ ...LONG, stream: true });
  await running(1);
  const controller = new AbortController();
  const answer = rejection(messages.create(LONG, { signal: controller.signal }), APIUserAbortError);
  await waiting(1);
  controller.abort();
  await answer;
  await waiting(0);
  first.controller.abort();
  await isFreeAgain();
});

test("timeout", async () => {
  const before = await requests(ROUTE, 499);
  await rejection(messages.create(LONG, { timeout: 300, maxRetries: 1 }), APIConnectionTimeoutError);
  await until(async () => (await requests(ROUTE, 499)) === before + 2, "every try, cancelled");
  await isFreeAgain();
});

test("a full queue, and retries", async () => {
  const first = await messages.create({ ...LONG, stream: true });
  await running(1);
  const second = await messages.create({ ...LONG, stream: true });
  await waiting(1);
  for (const stream of [false, true]) {
    const error = await rejection(messages.create({ ...SHORT, stream }), RateLimitError);
    assert.equal(error.status, 429);
    assert.equal(error.type, "rate_limit_error");
    assert.ok(Number(error.headers.get("retry-after")) >= 1);
  }
  assert.equal(await requests(ROUTE, 429), 2);
  const answer = messages.create(SHORT, { maxRetries: 100 });
  await until(async () => (await requests(ROUTE, 429)) > 2, "a refusal");
  for (const stream of [first, second]) stream.controller.abort();
  assert.equal((await answer).usage.output_tokens, 2);
  await isFreeAgain();
});
