// Messages with Anthropic's client, on the demo model.
import assert from "node:assert/strict";
import test from "node:test";

import Anthropic, { BadRequestError, NotFoundError } from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { jsonSchemaOutputFormat } from "@anthropic-ai/sdk/helpers/json-schema";
import { MessageStream } from "@anthropic-ai/sdk/lib/MessageStream";

import {
  CITY,
  PARIS,
  PARIS_ANSWER,
  PLACE,
  WEATHER,
  WEATHER_ANSWER,
  WEATHER_TOLD,
  collect,
  isPlace,
  rejection,
  requests,
  slow,
  url,
  user,
} from "./common.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });
const GREEDY = { model: "demo", max_tokens: 100, temperature: 0 };
const ASK_PARIS = { ...GREEDY, messages: PARIS };
const GET_WEATHER = { name: "get_weather", description: "Does get_weather.", input_schema: CITY };
const ASK_WEATHER = { ...GREEDY, messages: WEATHER, tools: [GET_WEATHER] };

test("whole", async () => {
  const message = await client.messages.create(ASK_PARIS);
  assert.match(message.id, /^msg_/);
  assert.equal(message.type, "message");
  assert.equal(message.role, "assistant");
  assert.equal(message.model, "demo");
  assert.equal(message.content.length, 1);
  assert.equal(message.content[0].type, "text");
  assert.equal(message.content[0].text, PARIS_ANSWER);
  assert.equal(message.stop_reason, "end_turn");
  assert.equal(message.stop_sequence, null);
  assert.equal(message.usage.input_tokens, 17);
  assert.equal(message.usage.output_tokens, 8);
  assert.match(message._request_id, /^\S+$/);
});

test("streamed, event by event", async () => {
  const events = await collect(await client.messages.create({ ...ASK_PARIS, stream: true }));
  const types = events.map((event) => event.type);
  assert.deepEqual(types.slice(0, 2), ["message_start", "content_block_start"]);
  assert.deepEqual(types.slice(-3), ["content_block_stop", "message_delta", "message_stop"]);
  const deltas = events.slice(2, -3);
  assert.ok(deltas.length > 2);
  for (const { type, index, delta } of deltas)
    assert.deepEqual([type, index, delta.type], ["content_block_delta", 0, "text_delta"]);
  assert.equal(deltas.map(({ delta }) => delta.text).join(""), PARIS_ANSWER);
  const { message } = events[0];
  assert.deepEqual([message.content, message.stop_reason, message.usage.input_tokens], [[], null, 17]);
  const { delta, usage } = events.at(-2);
  assert.deepEqual([delta.stop_reason, delta.stop_sequence, usage.output_tokens], ["end_turn", null, 8]);
});

test("stream() puts together what create() gives at once", async () => {
  const whole = await client.messages.create(ASK_PARIS);
  const snapshots = [];
  const stream = client.messages.stream(ASK_PARIS).on("text", (_, snapshot) => snapshots.push(snapshot));
  const final = await stream.finalMessage();
  assert.equal(await stream.finalText(), PARIS_ANSWER);
  assert.deepEqual(final.content, whole.content);
  assert.deepEqual([final.role, final.model], [whole.role, whole.model]);
  assert.deepEqual([final.stop_reason, final.stop_sequence], [whole.stop_reason, whole.stop_sequence]);
  assert.deepEqual([final.usage.input_tokens, final.usage.output_tokens], [17, 8]);
  assert.equal(snapshots.at(-1), PARIS_ANSWER);
  assert.ok(snapshots.length > 2 && snapshots.every((snapshot) => PARIS_ANSWER.startsWith(snapshot)));
  assert.match(stream.request_id, /^\S+$/);
});

slow("a stream through a ReadableStream", async () => {
  const stream = client.messages.stream(ASK_PARIS);
  const other = MessageStream.fromReadableStream(stream.toReadableStream());
  assert.equal(await other.finalText(), PARIS_ANSWER);
});

slow("stop reasons", async () => {
  const cut = await client.messages.create({ ...ASK_PARIS, max_tokens: 3 });
  assert.deepEqual([cut.stop_reason, cut.content[0].text], ["max_tokens", "The capital of"]);
  assert.equal(cut.usage.output_tokens, 3);
  const body = { ...ASK_PARIS, stop_sequences: ["zzz", " is"] };
  for (const message of [await client.messages.create(body), await client.messages.stream(body).finalMessage()]) {
    assert.deepEqual([message.stop_reason, message.stop_sequence], ["stop_sequence", " is"]);
    assert.equal(message.content[0].text, "The capital of France");
  }
});

slow("system, content blocks, sampling", async () => {
  const message = await client.messages.create({
    ...GREEDY,
    system: [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }],
    messages: [
      { role: "user", content: [{ type: "text", text: "What is the capital" }, { type: "text", text: " of France?" }] },
    ],
    top_k: 1,
    top_p: 0.9,
    metadata: { user_id: "somebody" },
    max_tokens: 5,
  });
  assert.equal(message.usage.output_tokens, 5);
  const { input_tokens } = await client.messages.countTokens({ model: "demo", messages: PARIS });
  assert.ok(message.usage.input_tokens > input_tokens);
});

test("countTokens", async () => {
  const { input_tokens } = await client.messages.countTokens({ model: "demo", messages: PARIS });
  assert.equal(input_tokens, 17);
  const body = { model: "demo", messages: PARIS, tools: [GET_WEATHER], system: "Hi" };
  const more = await client.messages.countTokens(body);
  assert.ok(more.input_tokens > 17);
});

// ---- tools

async function answerToWeather(message) {
  const [use] = message.content;
  assert.match(use.id, /^toolu_/);
  assert.deepEqual([use.type, use.name, use.input], ["tool_use", "get_weather", { city: "Havana" }]);
  assert.equal(message.content.length, 1);
  assert.equal(message.stop_reason, "tool_use");
  const told = user([{ type: "tool_result", tool_use_id: use.id, content: WEATHER_TOLD }]);
  const messages = [...WEATHER, { role: "assistant", content: message.content }, ...told];
  const answer = await client.messages.create({ ...ASK_WEATHER, messages });
  assert.equal(answer.stop_reason, "end_turn");
  assert.equal(answer.content[0].text, WEATHER_ANSWER);
}

test("a tool round trip", async () => {
  await answerToWeather(await client.messages.create(ASK_WEATHER));
});

test("a tool round trip, streamed", async () => {
  const pieces = [];
  const stream = client.messages.stream(ASK_WEATHER).on("inputJson", (piece) => pieces.push(piece));
  await answerToWeather(await stream.finalMessage());
  assert.ok(pieces.length > 1);
  assert.deepEqual(JSON.parse(pieces.join("")), { city: "Havana" });
});

async function runsTools(stream) {
  const asked = [];
  const run = async ({ city }) => {
    asked.push(city);
    return WEATHER_TOLD;
  };
  const tool = betaTool({ name: "get_weather", description: "Does get_weather.", inputSchema: CITY, run });
  const runner = client.beta.messages.toolRunner({ ...GREEDY, messages: WEATHER, tools: [tool], stream });
  const final = await runner.runUntilDone();
  assert.equal(final.content[0].text, WEATHER_ANSWER);
  assert.deepEqual(asked, ["Havana"]);
}

slow("toolRunner, whole", async () => runsTools(false));
slow("toolRunner, streamed", async () => runsTools(true));

slow("tool_choice", async () => {
  const body = { ...ASK_PARIS, tools: [GET_WEATHER] };
  for (const tool_choice of [{ type: "any", disable_parallel_tool_use: true }, { type: "tool", name: "get_weather" }]) {
    const { content } = await client.messages.create({ ...body, tool_choice });
    const [{ type, name, input }] = content;
    assert.deepEqual([type, name, typeof input.city], ["tool_use", "get_weather", "string"]);
  }
  const none = await client.messages.create({ ...body, tool_choice: { type: "none" } });
  assert.equal(none.content[0].text, PARIS_ANSWER);
});

test("a JSON schema", async () => {
  const output_config = { format: jsonSchemaOutputFormat(PLACE, { transform: false }) };
  const whole = await client.messages.parse({ ...ASK_PARIS, output_config });
  isPlace(whole.parsed_output);
  const streamed = await client.messages.stream({ ...ASK_PARIS, output_config }).finalMessage();
  assert.deepEqual(streamed.parsed_output, whole.parsed_output);
});

// ---- other

slow("models", async () => {
  const models = await collect(client.models.list());
  assert.deepEqual(models.map(({ id }) => id), ["demo"]);
  assert.equal((await client.models.retrieve("demo")).id, "demo");
});

const IMAGE = { type: "image", source: { type: "url", url: "http://127.0.0.1/a.png" } };
const refusals = [
  ["a field of a wrong type", { temperature: "hot" }, /temperature/],
  ["no max_tokens", { max_tokens: undefined }, /max_tokens/],
  ["no messages", { messages: undefined }, /messages/],
  ["an image", { messages: user([IMAGE]) }, /messages\[0\]/],
  ["a prompt that is too long", { messages: user("word ".repeat(20000)) }, /context/],
];

test("bad requests", async () => {
  const before = await requests("/v1/messages", 400);
  const eager = client.withOptions({ maxRetries: 3 });
  for (const stream of [false, true])
    for (const [what, body, message] of refusals) {
      const error = await rejection(eager.messages.create({ ...ASK_PARIS, ...body, stream }), BadRequestError);
      assert.equal(error.status, 400);
      assert.equal(error.type, "invalid_request_error", what);
      assert.equal(error.error.type, "error", what);
      assert.match(error.error.error.message, message, what);
      assert.match(error.requestID, /^\S+$/, what);
    }
  assert.equal(await requests("/v1/messages", 400), before + 2 * refusals.length); // none was tried again
});

test("a thread that the server would have to keep", async () => {
  const thread = client.beta.messages.thread({ ...GREEDY });
  const error = await rejection(thread.send(PARIS[0]), Anthropic.ThreadUnsupportedRequestError);
  assert.equal(error.errorCode, "thread_unsupported_request");
  const unthreaded = client.beta.messages.thread({ ...GREEDY, unsupportedRequestBehavior: "continue_unthreaded" });
  assert.equal((await unthreaded.send(PARIS[0])).content[0].text, PARIS_ANSWER);
});

test("another model", async () => {
  const error = await rejection(client.messages.create({ ...ASK_PARIS, model: "another" }), NotFoundError);
  assert.equal(error.type, "not_found_error");
  assert.match(error.error.error.message, /another/);
});
