// A daemon that stops, with Anthropic's client on the fake engine, whose answers take minutes.
import assert from "node:assert/strict";
import test from "node:test";

import Anthropic, { APIError, InternalServerError } from "@anthropic-ai/sdk";

import { PARIS, rejection, until, url } from "./common.mjs";

test("a daemon that drains, and is then cut short", async () => {
  const body = { model: "fake", messages: PARIS, max_tokens: 10000 };
  const { messages } = new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });
  const stream = await messages.create({ ...body, stream: true });
  const events = stream[Symbol.asyncIterator]();
  await events.next();

  process.kill(Number(process.env.LLAMA4D_PID), "SIGTERM");
  await until(async () => (await fetch(`${url}/ready`)).status === 503, "the daemon to drain");
  const refused = await messages.create(body).catch((e) => e);
  assert.ok(refused instanceof InternalServerError);
  assert.equal(refused.status, 503);
  assert.equal(refused.error.type, "error");
  assert.match(refused.error.error.message, /shutting down/);
  assert.equal((await events.next()).done, false); // what runs goes on

  process.kill(Number(process.env.LLAMA4D_PID), "SIGTERM");
  const rest = (async () => {
    while (!(await events.next()).done);
  })();
  const error = await rejection(rest, APIError);
  assert.equal(error.status, undefined);
  assert.match(error.error.error.message, /shutting down/);
});
