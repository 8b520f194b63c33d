// What the tests of clients share.  The daemon to talk to is in the environment: tests/http/test_clients.py starts it.
import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";

export const url = process.env.LLAMA4D_URL;

// A test that takes too long under a sanitizer: test_clients.py does not expect it there.
export const slow = process.env.LLAMA4D_SANITIZED ? () => {} : test;

export const openai = (options) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0, ...options });

export const user = (content) => [{ role: "user", content }];

export const PARIS = user("What is the capital of France?");
export const PARIS_ANSWER = "The capital of France is Paris.";

// A question that the demo model answers with a call, and what it says once it was told.
export const WEATHER = user("How is the weather in Havana today?");
export const WEATHER_TOLD = '{"sky": "snowy", "temperature": 2}';
export const WEATHER_ANSWER = "It is snowy in Havana, and the temperature is 2 degrees.";
export const CITY = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const GET_WEATHER = {
  type: "function",
  function: { name: "get_weather", description: "Does get_weather.", parameters: CITY },
};

// A schema that the demo model is held to, and what is true of every answer.
export const PLACE = {
  type: "object",
  properties: { city: { enum: ["Paris", "Rome"] }, km: { type: "integer", minimum: 0, maximum: 900 } },
  required: ["city", "km"],
  additionalProperties: false,
};

export function isPlace(value) {
  assert.deepEqual(Object.keys(value), ["city", "km"]);
  assert.ok(["Paris", "Rome"].includes(value.city));
  assert.ok(Number.isInteger(value.km) && value.km >= 0 && value.km <= 900);
}

// A schema as validation libraries wrap theirs.
export const standard = (schema, validate) => ({
  "~standard": { version: 1, vendor: "test", validate, jsonSchema: { input: () => schema } },
});

export async function collect(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

// The error that a promise ends with; of that class, and no class derived from it.
export async function rejection(promise, errorClass) {
  const error = await promise.then(
    () => assert.fail(`no ${errorClass.name}`),
    (e) => e,
  );
  assert.equal(error.constructor, errorClass, error.stack);
  return error;
}

// What /metrics says now: metric("sequences_running"), or the sum over the labels that are not given.
export async function metric(name, labels = {}) {
  const text = await (await fetch(`${url}/metrics`)).text();
  let sum = 0;
  for (const [, labelText, value] of text.matchAll(new RegExp(`^llama4d_${name}(\\{.*\\})? (\\S+)$`, "gm")))
    if (Object.entries(labels).every(([key, want]) => (labelText ?? "").includes(`${key}="${want}"`)))
      sum += Number(value);
  return sum;
}

// The number of requests that have ended with a status; 499 is a client that went away without an answer.
export const requests = (route, status) => metric("http_requests_total", { route, status });

// So many sequences run, or wait.
export const running = (n) => until(async () => (await metric("sequences_running")) === n, `${n} running`);
export const waiting = (n) => until(async () => (await metric("sequences_waiting")) === n, `${n} waiting`);

// Polls for what must happen; how soon it does is not tested.
export async function until(condition, what) {
  for (const end = Date.now() + 60_000; Date.now() < end; await new Promise((r) => setTimeout(r, 10)))
    if (await condition()) return;
  assert.fail(`waited for ${what}`);
}
