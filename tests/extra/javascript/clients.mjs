// The official JavaScript clients, with nothing changed but base URL and key. Says what it did, one line a check; ends with a code
// other than 0 at the first that does not hold.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const { OPENAI_BASE_URL, OPENAI_API_KEY, POSTERN_GATEWAY_HTTP, DEMO_MODEL_NAME: model } = process.env;
const settings = { apiKey: OPENAI_API_KEY, maxRetries: 0, timeout: 60_000 };
const openai = new OpenAI({ ...settings, baseURL: OPENAI_BASE_URL });
const anthropic = new Anthropic({ ...settings, baseURL: POSTERN_GATEWAY_HTTP });
const messages = [{ role: "user", content: "Say hello." }];

async function check(what, act) {
  await act();
  console.log(`ok  ${what}`);
}

async function gathered(stream, piece) {
  let text = "";
  for await (const event of stream) text += piece(event) ?? "";
  return text;
}

await check("openai: a chat, whole and streamed", async () => {
  const asked = { model, messages, max_tokens: 8, temperature: 0 };
  const whole = await openai.chat.completions.create(asked);
  assert.ok(whole.choices[0].message.content);
  const stream = await openai.chat.completions.create({ ...asked, stream: true });
  assert.equal(await gathered(stream, (chunk) => chunk.choices[0]?.delta?.content), whole.choices[0].message.content);
});

await check("openai: a response, whole and streamed", async () => {
  const asked = { model, input: "Say hello.", max_output_tokens: 8, temperature: 0 };
  const whole = await openai.responses.create(asked);
  assert.ok(whole.output_text);
  const stream = await openai.responses.create({ ...asked, stream: true });
  const text = await gathered(stream, (event) => (event.type === "response.output_text.delta" ? event.delta : ""));
  assert.equal(text, whole.output_text);
});

await check("openai: embeddings, and models", async () => {
  const answer = await openai.embeddings.create({ model, input: ["a", "b"] });
  assert.equal(answer.data.length, 2);
  assert.ok(answer.data[0].embedding.length > 100);
  const names = [];
  for await (const found of openai.models.list()) names.push(found.id);
  assert.deepEqual(names, [model]);
});

await check("openai: error classes", async () => {
  await assert.rejects(openai.chat.completions.create({ model: "nobody", messages }), OpenAI.NotFoundError);
  await assert.rejects(openai.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError);
  const stranger = new OpenAI({ ...settings, apiKey: "sk-x", baseURL: OPENAI_BASE_URL });
  await assert.rejects(stranger.chat.completions.create({ model, messages }), OpenAI.AuthenticationError);
});

await check("openai: a stream that is left", async () => {
  const asked = { model, messages: [{ role: "user", content: "Count to 1000." }], max_tokens: 2000, stream: true };
  const stream = await openai.chat.completions.create(asked);
  for await (const _ of stream) break;
  assert.ok(stream.controller.signal.aborted);
});

await check("anthropic: a message, whole and streamed", async () => {
  const asked = { model, messages, max_tokens: 8, system: "Be brief." };
  const whole = await anthropic.messages.create(asked);
  assert.equal(whole.content[0].type, "text");
  assert.ok(whole.usage.output_tokens > 0);
  const stream = anthropic.messages.stream(asked);
  const final = await stream.finalMessage();
  assert.ok(final.content[0].text);
  assert.ok(["end_turn", "max_tokens"].includes(final.stop_reason));
});

await check("anthropic: counting, and error classes", async () => {
  assert.ok((await anthropic.messages.countTokens({ model, messages })).input_tokens > 0);
  const asked = { model: "nobody", messages, max_tokens: 2 };
  await assert.rejects(anthropic.messages.create(asked), Anthropic.NotFoundError);
  const stranger = new Anthropic({ ...settings, apiKey: "sk-x", baseURL: POSTERN_GATEWAY_HTTP });
  await assert.rejects(stranger.messages.create({ ...asked, model }), Anthropic.AuthenticationError);
});

console.log("all hold");
