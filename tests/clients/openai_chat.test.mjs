// Chat with OpenAI's client, on the demo model.
import assert from "node:assert/strict";
import test from "node:test";

import { LengthFinishReasonError } from "openai/error";
import { standardFunction, standardResponseFormat } from "openai/helpers/standard-schema";
import { ChatCompletionStream } from "openai/lib/ChatCompletionStream";

import {
  CITY,
  GET_WEATHER,
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

const chat = openai().chat.completions;
const GREEDY = { model: "demo", temperature: 0 };
const ASK_PARIS = { ...GREEDY, messages: PARIS };
const PLACE_FORMAT = { type: "json_schema", json_schema: { name: "place", strict: true, schema: PLACE } };

const textOf = (chunks, index = 0) =>
  chunks
    .flatMap((chunk) => chunk.choices)
    .filter((choice) => choice.index === index)
    .map((choice) => choice.delta.content ?? "")
    .join("");

// What two answers to the same request have in common.
const lasting = ({ id, created, usage, timings, ...rest }) => rest;

test("whole", async () => {
  const answer = await chat.create(ASK_PARIS);
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.model, "demo");
  assert.equal(answer.choices.length, 1);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(answer.choices[0].message.content, PARIS_ANSWER);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.prompt_tokens, 17);
  assert.equal(answer.usage.completion_tokens, 8);
  assert.equal(answer.usage.total_tokens, 25);
  assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 0);
  assert.match(answer._request_id, /^\S+$/);
});

test("streamed, with usage", async () => {
  const body = { ...ASK_PARIS, stream: true, stream_options: { include_usage: true } };
  const chunks = await collect(await chat.create(body));
  const last = chunks.pop();
  assert.equal(textOf(chunks), PARIS_ANSWER);
  assert.ok(chunks.length > 3);
  assert.ok(chunks.every((chunk) => chunk.object === "chat.completion.chunk" && chunk.usage === null));
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.prompt_tokens, 17);
  assert.equal(last.usage.completion_tokens, 8);
});

test("stream() puts together what create() gives at once", async () => {
  const whole = await chat.create(ASK_PARIS);
  const events = [];
  const stream = chat
    .stream({ ...ASK_PARIS, stream_options: { include_usage: true } })
    .on("content.delta", ({ snapshot }) => events.push(snapshot))
    .on("content.done", ({ content }) => events.push(["done", content]));
  const final = await stream.finalChatCompletion();
  const { parsed, ...message } = final.choices[0].message;
  assert.equal(parsed, null);
  assert.deepEqual(lasting({ ...final, choices: [{ ...final.choices[0], message }] }), lasting(whole));
  assert.deepEqual(events.pop(), ["done", PARIS_ANSWER]);
  assert.equal(events.at(-1), PARIS_ANSWER);
  assert.ok(events.length > 2 && events.every((snapshot) => PARIS_ANSWER.startsWith(snapshot)));
  assert.equal(await stream.finalContent(), PARIS_ANSWER);
  assert.equal((await stream.totalUsage()).completion_tokens, 8);
});

slow("several choices, whole and streamed", async () => {
  const body = { ...GREEDY, messages: user("Tell me a story."), n: 2, temperature: 1.2, seed: 4, max_tokens: 12 };
  const whole = await chat.create(body);
  const texts = whole.choices.map((choice) => choice.message.content);
  assert.equal(texts.length, 2);
  assert.notEqual(texts[0], texts[1]);
  const chunks = await collect(await chat.create({ ...body, stream: true }));
  assert.deepEqual([textOf(chunks, 0), textOf(chunks, 1)], texts);
});

slow("log-probabilities, whole and streamed", async () => {
  const body = { ...ASK_PARIS, logprobs: true, top_logprobs: 2 };
  const { content } = (await chat.create(body)).choices[0].logprobs;
  assert.equal(content.map((token) => token.token).join(""), PARIS_ANSWER);
  assert.ok(content.every((token) => token.top_logprobs.length === 2 && token.logprob <= 0));
  let done;
  const stream = chat.stream(body).on("logprobs.content.done", (event) => (done = event.content));
  await stream.done();
  assert.deepEqual(done, content);
});

test("a stream through a ReadableStream", async () => {
  const stream = await chat.create({ ...ASK_PARIS, stream: true });
  const other = ChatCompletionStream.fromReadableStream(stream.toReadableStream());
  assert.equal(await other.finalContent(), PARIS_ANSWER);
  const helped = ChatCompletionStream.fromReadableStream(chat.stream(ASK_PARIS).toReadableStream());
  assert.equal((await helped.finalMessage()).content, PARIS_ANSWER);
});

slow("a stream for two readers", async () => {
  const [left, right] = (await chat.create({ ...ASK_PARIS, stream: true })).tee();
  const [a, b] = await Promise.all([collect(left), collect(right)]);
  assert.equal(textOf(a), PARIS_ANSWER);
  assert.deepEqual(a, b);
});

slow("roles, content parts, stop", async () => {
  const answer = await chat.create({
    ...GREEDY,
    messages: [
      { role: "developer", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "What is the capital" }, { type: "text", text: " of France?" }] },
    ],
    stop: ["zzz"],
    max_completion_tokens: 5,
    user: "somebody",
    metadata: { topic: "geography" },
    store: false,
  });
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 5);
});

// ---- tools

function isWeatherCall(calls) {
  assert.equal(calls.length, 1);
  assert.match(calls[0].id, /^call_/);
  assert.equal(calls[0].type, "function");
  assert.equal(calls[0].function.name, "get_weather");
  assert.deepEqual(JSON.parse(calls[0].function.arguments), { city: "Havana" });
}

async function answerToWeather(message) {
  const told = { role: "tool", tool_call_id: message.tool_calls[0].id, content: WEATHER_TOLD };
  const answer = await chat.create({ ...GREEDY, messages: [...WEATHER, message, told], tools: [GET_WEATHER] });
  assert.equal(answer.choices[0].finish_reason, "stop");
  return answer.choices[0].message.content;
}

test("a tool round trip", async () => {
  const answer = await chat.create({ ...GREEDY, messages: WEATHER, tools: [GET_WEATHER] });
  const { message, finish_reason } = answer.choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.content, null);
  isWeatherCall(message.tool_calls);
  assert.equal(await answerToWeather(message), WEATHER_ANSWER);
});

test("a tool round trip, streamed", async () => {
  const seen = [];
  const stream = chat
    .stream({ ...GREEDY, messages: WEATHER, tools: [GET_WEATHER] })
    .on("tool_calls.function.arguments.delta", ({ name, arguments_delta }) => seen.push([name, arguments_delta]))
    .on("tool_calls.function.arguments.done", (event) => seen.push(event));
  const message = await stream.finalMessage();
  isWeatherCall(message.tool_calls);
  const done = seen.pop();
  assert.equal(done.name, "get_weather");
  assert.equal(done.arguments, message.tool_calls[0].function.arguments);
  assert.ok(seen.length > 2 && seen.every(([name]) => name === "get_weather"));
  assert.equal(seen.map(([, piece]) => piece).join(""), done.arguments);
  assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "tool_calls");
  assert.equal(await answerToWeather(message), WEATHER_ANSWER);
});

async function runsTools(stream) {
  const asked = [];
  const get_weather = ({ city }) => {
    asked.push(city);
    return WEATHER_TOLD;
  };
  const tool = { type: "function", function: { ...GET_WEATHER.function, parse: JSON.parse, function: get_weather } };
  const run = chat.runTools({ ...GREEDY, messages: WEATHER, tools: [tool], stream });
  assert.equal(await run.finalContent(), WEATHER_ANSWER);
  assert.deepEqual(asked, ["Havana"]);
  assert.deepEqual(run.messages.map((message) => message.role), ["user", "assistant", "tool", "assistant"]);
  assert.equal(run.allChatCompletions().length, 2);
}

slow("runTools, whole", async () => runsTools(false));
slow("runTools, streamed", async () => runsTools(true));

slow("tool_choice", async () => {
  const body = { ...ASK_PARIS, tools: [GET_WEATHER], parallel_tool_calls: false };
  for (const tool_choice of ["required", { type: "function", function: { name: "get_weather" } }]) {
    const { message } = (await chat.create({ ...body, tool_choice })).choices[0];
    assert.equal(message.tool_calls[0].function.name, "get_weather");
    assert.equal(typeof JSON.parse(message.tool_calls[0].function.arguments).city, "string");
  }
  const none = (await chat.create({ ...body, tool_choice: "none" })).choices[0];
  assert.equal(none.message.content, PARIS_ANSWER);
});

// ---- answers of a given form

test("a JSON schema", async () => {
  const answer = await chat.create({ ...ASK_PARIS, response_format: PLACE_FORMAT });
  assert.equal(answer.choices[0].finish_reason, "stop");
  isPlace(JSON.parse(answer.choices[0].message.content));
});

slow("parse()", async () => {
  const parsed = await chat.parse({ ...ASK_PARIS, response_format: PLACE_FORMAT });
  isPlace(parsed.choices[0].message.parsed);
  const cut = chat.parse({ ...ASK_PARIS, response_format: PLACE_FORMAT, max_tokens: 2 });
  await rejection(cut, LengthFinishReasonError);
});

slow("parse() and stream() with a validator", async () => {
  const validate = (value) => ({ value: { ...value, seen: true } });
  const response_format = standardResponseFormat(standard(PLACE, validate), "place");
  const { seen, ...place } = (await chat.parse({ ...ASK_PARIS, response_format })).choices[0].message.parsed;
  assert.ok(seen);
  isPlace(place);
  const final = await chat.stream({ ...ASK_PARIS, response_format }).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, { ...place, seen });
});

slow("strict tools are parsed", async () => {
  const parameters = standard({ ...CITY, additionalProperties: false }, (value) => ({ value: value.city }));
  const tools = [standardFunction({ name: "get_weather", description: "Does get_weather.", parameters })];
  const { message } = (await chat.parse({ ...GREEDY, messages: WEATHER, tools })).choices[0];
  assert.equal(message.tool_calls[0].function.parsed_arguments, "Havana");
});

slow("json_object", async () => {
  const answer = await chat.create({
    ...GREEDY,
    messages: user("Extract the name and age as JSON: Jack is 68 years old."),
    response_format: { type: "json_object" },
  });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: "Jack", age: 68 });
});
