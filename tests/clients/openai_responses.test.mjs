// Responses with OpenAI's client, on the demo model.
import assert from "node:assert/strict";
import test from "node:test";

import { BadRequestError, NotFoundError } from "openai";
import { standardTextFormat } from "openai/helpers/standard-schema";

import {
  GET_WEATHER as CHAT_TOOL,
  PARIS,
  PARIS_ANSWER,
  PLACE,
  WEATHER,
  WEATHER_ANSWER,
  WEATHER_TOLD,
  collect,
  isPlace,
  openai,
  rejection,
  slow,
  standard,
  user,
} from "./common.mjs";

const { responses } = openai();
const GREEDY = { model: "demo", temperature: 0 };
const ASK_PARIS = { ...GREEDY, input: PARIS[0].content };
const GET_WEATHER = { type: "function", ...CHAT_TOOL.function, strict: false };
const ASK_WEATHER = { ...GREEDY, input: WEATHER, tools: [GET_WEATHER] };
const PLACE_FORMAT = { format: { type: "json_schema", name: "place", strict: true, schema: PLACE } };

// What two answers to the same request have in common, the client's own additions left out.
const PASSING = ["id", "created_at", "completed_at", "usage", "parsed", "output_parsed"];
const lasting = (response) =>
  JSON.parse(JSON.stringify(response, (key, value) => (PASSING.includes(key) ? undefined : value)));

test("whole", async () => {
  const response = await responses.create(ASK_PARIS);
  assert.match(response.id, /^resp_/);
  assert.equal(response.object, "response");
  assert.equal(response.status, "completed");
  assert.equal(response.model, "demo");
  assert.equal(response.output_text, PARIS_ANSWER);
  assert.equal(response.error, null);
  assert.equal(response.incomplete_details, null);
  assert.equal(response.output.length, 1);
  const [message] = response.output;
  assert.match(message.id, /^msg_/);
  assert.deepEqual([message.type, message.role, message.status], ["message", "assistant", "completed"]);
  assert.deepEqual(message.content.map(({ type, text }) => [type, text]), [["output_text", PARIS_ANSWER]]);
  assert.equal(response.usage.input_tokens, 17);
  assert.equal(response.usage.output_tokens, 8);
  assert.equal(response.usage.total_tokens, 25);
  assert.equal(response.usage.input_tokens_details.cached_tokens, 0);
  assert.match(response._request_id, /^\S+$/);
});

test("streamed, event by event", async () => {
  const events = await collect(await responses.create({ ...ASK_PARIS, stream: true }));
  const types = events.map((event) => event.type);
  const begin = ["created", "in_progress", "output_item.added", "content_part.added"];
  const end = ["output_text.done", "content_part.done", "output_item.done", "completed"];
  assert.deepEqual(types.slice(0, 4), begin.map((type) => `response.${type}`));
  assert.deepEqual(types.slice(-4), end.map((type) => `response.${type}`));
  const deltas = events.slice(4, -4);
  assert.ok(deltas.length > 2 && deltas.every(({ type }) => type === "response.output_text.delta"));
  assert.equal(deltas.map(({ delta }) => delta).join(""), PARIS_ANSWER);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => i));
  const item = events[2].item;
  assert.ok(events.slice(3, -2).every((event) => event.item_id === item.id && event.output_index === 0));
  const { response } = events.at(-1);
  assert.equal(response.id, events[0].response.id);
  assert.deepEqual(response.output, [events.at(-2).item]);
  assert.equal(response.usage.output_tokens, 8);
});

test("stream() puts together what create() gives at once", async () => {
  const whole = await responses.create(ASK_PARIS);
  const snapshots = [];
  const stream = responses
    .stream(ASK_PARIS)
    .on("response.output_text.delta", ({ snapshot }) => snapshots.push(snapshot));
  const final = await stream.finalResponse();
  assert.equal(final.output_text, PARIS_ANSWER);
  assert.deepEqual(lasting(final), lasting(whole));
  assert.equal(snapshots.at(-1), PARIS_ANSWER);
  assert.ok(snapshots.length > 2 && snapshots.every((snapshot) => PARIS_ANSWER.startsWith(snapshot)));
});

slow("instructions, content parts, a limit", async () => {
  const response = await responses.create({
    ...GREEDY,
    instructions: "Be brief.",
    input: user([{ type: "input_text", text: "What is the capital" }, { type: "input_text", text: " of France?" }]),
    max_output_tokens: 5,
    metadata: { topic: "geography" },
    store: false,
  });
  assert.equal(response.status, "incomplete");
  assert.deepEqual(response.incomplete_details, { reason: "max_output_tokens" });
  assert.equal(response.usage.output_tokens, 5);
  const events = await collect(await responses.create({ ...ASK_PARIS, max_output_tokens: 3, stream: true }));
  assert.equal(events.at(-1).type, "response.incomplete");
  assert.equal(events.at(-1).response.output[0].content[0].text, "The capital of");
});

slow("the answer goes back into the next input", async () => {
  const first = await responses.create(ASK_PARIS);
  const input = [...PARIS, ...first.output, ...user("Thank you!")];
  const second = await responses.create({ ...GREEDY, input });
  assert.equal(second.status, "completed");
  assert.ok(second.usage.input_tokens > first.usage.total_tokens);
});

// ---- tools

async function answerToWeather(response) {
  const [call] = response.output;
  assert.equal(response.output.length, 1);
  assert.deepEqual([call.type, call.name, call.status], ["function_call", "get_weather", "completed"]);
  assert.match(call.call_id, /^call_/);
  assert.deepEqual(JSON.parse(call.arguments), { city: "Havana" });
  assert.equal(response.output_text, "");
  const told = { type: "function_call_output", call_id: call.call_id, output: WEATHER_TOLD };
  const answer = await responses.create({ ...ASK_WEATHER, input: [...WEATHER, ...response.output, told] });
  assert.equal(answer.output_text, WEATHER_ANSWER);
}

test("a tool round trip", async () => {
  await answerToWeather(await responses.create(ASK_WEATHER));
});

test("a tool round trip, streamed", async () => {
  const snapshots = [];
  const stream = responses
    .stream(ASK_WEATHER)
    .on("response.function_call_arguments.delta", ({ snapshot }) => snapshots.push(snapshot));
  const final = await stream.finalResponse();
  assert.equal(snapshots.at(-1), final.output[0].arguments);
  assert.ok(snapshots.length > 1);
  await answerToWeather(final);
});

slow("tool_choice", async () => {
  for (const tool_choice of ["required", { type: "function", name: "get_weather" }]) {
    const body = { ...ASK_PARIS, tools: [GET_WEATHER], tool_choice, parallel_tool_calls: false };
    const response = await responses.create(body);
    assert.deepEqual(response.output.map(({ type, name }) => [type, name]), [["function_call", "get_weather"]]);
  }
  const none = await responses.create({ ...ASK_PARIS, tools: [GET_WEATHER], tool_choice: "none" });
  assert.equal(none.output_text, PARIS_ANSWER);
});

// ---- answers of a given form

test("a JSON schema", async () => {
  const parsed = await responses.parse({ ...ASK_PARIS, text: PLACE_FORMAT });
  isPlace(JSON.parse(parsed.output_text));
});

slow("parse() and stream() with a validator", async () => {
  const format = standardTextFormat(standard(PLACE, (value) => ({ value: { ...value, seen: true } })), "place");
  const { seen, ...place } = (await responses.parse({ ...ASK_PARIS, text: { format } })).output_parsed;
  assert.ok(seen);
  isPlace(place);
  const final = await responses.stream({ ...ASK_PARIS, text: { format } }).finalResponse();
  assert.deepEqual(final.output_parsed, { ...place, seen });
});

// ---- what is refused

const refusals = [
  ["a field of a wrong type", { temperature: "hot" }, "temperature"],
  ["a field out of range", { top_p: 2 }, "top_p"],
  ["no input", { input: undefined }, "input"],
  ["a tool that is not served", { tools: [{ type: "web_search" }] }, "tools[0].type"],
  ["a response that was not kept", { previous_response_id: "resp_1" }, "previous_response_id"],
];

test("bad requests", async () => {
  for (const stream of [false, true])
    for (const [what, body, param] of refusals) {
      const error = await rejection(responses.create({ ...ASK_PARIS, ...body, stream }), BadRequestError);
      assert.equal(error.type, "invalid_request_error", what);
      assert.equal(error.param, param, what);
      assert.match(error.requestID, /^\S+$/);
    }
});

test("another model", async () => {
  const error = await rejection(responses.create({ ...ASK_PARIS, model: "another" }), NotFoundError);
  assert.equal(error.code, "model_not_found");
});
