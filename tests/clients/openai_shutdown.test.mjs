// A daemon that stops, with OpenAI's client on the fake engine, whose answers take minutes.
import assert from "node:assert/strict";
import test from "node:test";

import { APIError, InternalServerError } from "openai";

import { PARIS, openai, rejection, until } from "./common.mjs";

test("a daemon that drains, and is then cut short", async () => {
  const body = { model: "fake", messages: PARIS };
  const client = openai();
  const stream = await client.chat.completions.create({ ...body, stream: true });
  const chunks = stream[Symbol.asyncIterator]();
  await chunks.next();

  process.kill(Number(process.env.LLAMA4D_PID), "SIGTERM");
  let refused;
  await until(async () => (refused = await client.models.list().then(() => null, (e) => e)), "the first refusal");
  assert.equal(refused.constructor, InternalServerError);
  assert.equal(refused.status, 503);
  assert.equal(refused.code, "shutting_down");
  assert.equal(refused.type, "service_unavailable");
  const answer = await rejection(client.chat.completions.create(body), InternalServerError);
  assert.equal(answer.code, "shutting_down");
  assert.ok(Number(answer.headers.get("retry-after")) >= 1);
  assert.equal((await chunks.next()).done, false); // what runs goes on

  process.kill(Number(process.env.LLAMA4D_PID), "SIGTERM");
  const rest = (async () => {
    while (!(await chunks.next()).done);
  })();
  const error = await rejection(rest, APIError);
  assert.equal(error.status, undefined);
  assert.equal(error.code, "shutting_down");
  assert.match(error.message, /shutting down/);
});
