// A full queue, aborts and timeouts, with OpenAI's client on the fake engine: one request runs, one waits, and an
// answer takes minutes.
import assert from "node:assert/strict";
import { createServer } from "node:net";
import test from "node:test";

import { APIConnectionError, APIConnectionTimeoutError, APIUserAbortError, RateLimitError } from "openai";

import { PARIS, metric, openai, rejection, requests, running, until, waiting } from "./common.mjs";

const ROUTE = "/v1/chat/completions";
const LONG = { model: "fake", messages: PARIS };
const SHORT = { ...LONG, max_tokens: 2 };

const create = (body, options) => openai().chat.completions.create(body, options);

// An answer that has begun, and how to stop it.
async function begun() {
  const stream = await create({ ...LONG, stream: true });
  const chunks = stream[Symbol.asyncIterator]();
  await chunks.next();
  await running(1);
  return { stream, chunks };
}

async function isFreeAgain() {
  await running(0);
  const answer = await create(SHORT);
  assert.equal(answer.usage.completion_tokens, 2);
}

test("abort of a stream", async () => {
  const { stream, chunks } = await begun();
  stream.controller.abort();
  while (!(await chunks.next()).done); // an end, no error
  await isFreeAgain();
});

test("abort of a stream by a signal", async () => {
  const controller = new AbortController();
  const stream = await create({ ...LONG, stream: true }, { signal: controller.signal });
  let n = 0;
  for await (const _ of stream) if (++n === 3) controller.abort();
  assert.ok(n >= 3);
  await isFreeAgain();
});

test("leaving the loop", async () => {
  for await (const chunk of await create({ ...LONG, stream: true })) {
    assert.equal(chunk.choices[0].delta.role, "assistant");
    break;
  }
  await isFreeAgain();
});

test("abort of stream()", async () => {
  const stream = openai().chat.completions.stream(LONG);
  const final = stream.finalChatCompletion();
  stream.once("content", () => stream.abort());
  await rejection(final, APIUserAbortError);
  assert.ok(stream.aborted);
  await isFreeAgain();
});

test("abort before the answer", async () => {
  const before = await requests(ROUTE, 499);
  const controller = new AbortController();
  const answer = rejection(create(LONG, { signal: controller.signal }), APIUserAbortError);
  await running(1);
  controller.abort();
  await answer;
  await until(async () => (await requests(ROUTE, 499)) === before + 1, "the cancelled request");
  await isFreeAgain();
});

test("abort in the queue", async () => {
  const { stream } = await begun();
  const controller = new AbortController();
  const answer = rejection(create(LONG, { signal: controller.signal }), APIUserAbortError);
  await waiting(1);
  controller.abort();
  await answer;
  await waiting(0);
  assert.equal(await metric("sequences_running"), 1); // the other one goes on
  stream.controller.abort();
  await isFreeAgain();
});

test("timeout", async () => {
  for (const maxRetries of [0, 1]) {
    const before = await requests(ROUTE, 499);
    const error = await rejection(create(LONG, { timeout: 300, maxRetries }), APIConnectionTimeoutError);
    assert.ok(error instanceof APIConnectionError);
    assert.equal(error.status, undefined);
    const want = before + 1 + maxRetries;
    await until(async () => (await requests(ROUTE, 499)) === want, "every try, cancelled");
    await isFreeAgain();
  }
});

// One runs, one waits: what comes now is refused.
async function full() {
  const { stream: first } = await begun();
  const second = await create({ ...LONG, stream: true });
  await waiting(1);
  return () => [first, second].forEach((stream) => stream.controller.abort());
}

test("a full queue", async () => {
  const drop = await full();
  const before = await requests(ROUTE, 429);
  for (const stream of [false, true]) {
    const error = await rejection(create({ ...SHORT, stream }), RateLimitError);
    assert.equal(error.status, 429);
    assert.equal(error.code, "rate_limit_exceeded");
    assert.equal(error.type, "rate_limit_exceeded");
    assert.ok(Number(error.headers.get("retry-after")) >= 1);
  }
  assert.equal(await requests(ROUTE, 429), before + 2);
  drop();
  await isFreeAgain();
});

test("retries while the queue is full", async () => {
  const drop = await full();
  const before = await requests(ROUTE, 429);
  await rejection(create(SHORT, { maxRetries: 1 }), RateLimitError);
  assert.equal(await requests(ROUTE, 429), before + 2);
  const answer = create(SHORT, { maxRetries: 100 });
  await until(async () => (await requests(ROUTE, 429)) > before + 2, "a refusal");
  drop();
  assert.equal((await answer).usage.completion_tokens, 2);
  await isFreeAgain();
});

test("nobody listens", async () => {
  const server = createServer();
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const baseURL = `http://127.0.0.1:${server.address().port}/v1`;
  await new Promise((closed) => server.close(closed));
  const error = await rejection(openai({ baseURL }).chat.completions.create(SHORT), APIConnectionError);
  assert.equal(error.cause.cause.code, "ECONNREFUSED");
});
