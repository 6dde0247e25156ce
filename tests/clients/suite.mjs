// The official Node SDKs, every case of them, against any set of base URLs.
//
// Invariant: prints one JSON object {case: result} and nothing random in it, so that two runs can
// be compared. Base URLs and keys come in the environment variable KEYHAVEN_SUITE; the SDKs are
// those in the directory KEYHAVEN_TEST_TOOLS.

import {
  TARGETS,
  QUESTIONS,
  TOOL,
  ANTHROPIC_TOOL,
  MODELS,
  digest,
  short,
  openaiClient,
  anthropicClient,
  cancelledBeforeTheFirstByte,
  collect,
  cases,
} from './asking.mjs';
import { realtimeCases } from './realtime.mjs';
import { surfaceCases } from './surface.mjs';

// OpenAI, Azure and DeepSeek

async function chat(name, call) {
  const { case: row, play, key, messages = QUESTIONS, model = MODELS[name], ...extra } = call;
  const client = openaiClient(name, call);
  const answer = await client.chat.completions.create({ model, messages, ...extra });
  if (extra.stream) return chatChunks(answer, row.endsWith('cancel-stream') ? 3 : undefined);
  const [choice] = answer.choices;
  return {
    id: answer.id,
    model: answer.model,
    content: short(choice.message.content),
    finish: choice.finish_reason,
    tool_calls: (choice.message.tool_calls ?? []).map((made) => [
      made.id,
      made.function.name,
      made.function.arguments,
    ]),
    usage: answer.usage,
    request_id: answer._request_id ?? null,
    sha256: digest(answer),
  };
}

async function chatChunks(stream, stopAfter) {
  const { cancelled, events, raised } = await collect(stream, stopAfter);
  if (cancelled) return { cancelled, read: events.length };
  const choices = events.flatMap((chunk) => chunk.choices);
  const calls = choices.flatMap((choice) => choice.delta.tool_calls ?? []);
  return {
    ids: [...new Set(events.map((chunk) => chunk.id))],
    chunks: events.length,
    content: short(choices.map((choice) => choice.delta.content ?? '').join('')),
    arguments: calls.map((made) => made.function.arguments ?? '').join(''),
    finish: choices.map((choice) => choice.finish_reason).findLast(Boolean) ?? null,
    usage: events.map((chunk) => chunk.usage).findLast(Boolean) ?? null,
    raised,
    sha256: digest(events),
  };
}

const TOOL_RESULT = [
  ...QUESTIONS,
  {
    role: 'assistant',
    content: null,
    tool_calls: [
      {
        id: 'call_1',
        type: 'function',
        function: { name: 'weather', arguments: '{"city":"Zürich"}' },
      },
    ],
  },
  { role: 'tool', tool_call_id: 'call_1', content: '7 °C, snow' },
];

function openaiCases(name) {
  const tools = [TOOL];
  const rows = {
    chat: {},
    'chat-gzip': { play: 'gzip' },
    'chat-deflate': { play: 'deflate' },
    'chat-big': { play: 'big-300000' },
    'chat-many-options': { temperature: 0.25, max_tokens: 99, seed: 7, stop: ['\n', 'é'] },
    stream: { stream: true },
    'stream-slow': { stream: true, play: 'chunks-12-15' },
    'stream-gzip': { stream: true, play: 'gzip' },
    'stream-usage': { stream: true, stream_options: { include_usage: true } },
    'stream-big': { stream: true, play: 'big-300000' },
    tools: { tools },
    'tools-stream': { stream: true, tools },
    'tool-result': { messages: TOOL_RESULT, tools },
    'tool-result-stream': { messages: TOOL_RESULT, stream: true, tools },
    'error-model': { model: `${MODELS[name]}-unknown` },
    'error-key': { key: 'wrong-key-of-nobody' },
    'error-429': { play: 'status-429' },
    'error-503': { play: 'status-503' },
    'error-in-stream': { stream: true, play: 'error-in-stream' },
    'cut-body': { play: 'cut-body' },
    'cut-stream': { stream: true, play: 'cut-chunk' },
    'cancel-stream': { stream: true, play: 'chunks-400-10' },
  };
  const shown = { 'error-invalid': { messages: [] }, 'error-500': { play: 'status-500' } };
  const before = `${name}.cancel-before`;
  const cancel = (signal) =>
    openaiClient(name, { case: before, play: 'stall-head' }).chat.completions.create(
      { model: MODELS[name], messages: QUESTIONS },
      { signal },
    );
  return [
    ...cases(name, rows, chat, false),
    ...cases(name, shown, chat, true),
    [before, () => cancelledBeforeTheFirstByte(cancel)],
  ];
}

// Anthropic and DeepSeek's Anthropic form

async function message(name, call) {
  const {
    case: row,
    play,
    key,
    messages = QUESTIONS,
    model = MODELS[name],
    helper,
    ...extra
  } = call;
  const client = anthropicClient(name, call);
  const request = { model, max_tokens: 256, messages, ...extra };
  if (helper) {
    const stream = client.messages.stream(request);
    const final = await stream.finalMessage();
    return messageResult(final);
  }
  const answer = await client.messages.create(request);
  if (extra.stream) return messageEvents(answer, row.endsWith('cancel-stream') ? 5 : undefined);
  return messageResult(answer);
}

function messageResult(answer) {
  return {
    id: answer.id,
    model: answer.model,
    content: answer.content.map((block) => ({ ...block, text: short(block.text) })),
    stop: answer.stop_reason,
    usage: answer.usage,
    request_id: answer._request_id ?? null,
    sha256: digest(answer),
  };
}

async function messageEvents(stream, stopAfter) {
  const { cancelled, events, raised } = await collect(stream, stopAfter);
  if (cancelled) return { cancelled, read: events.length };
  const of = (type) => events.filter((event) => event.type === type);
  const deltas = of('content_block_delta').map((event) => event.delta);
  return {
    events: events.map((event) => event.type),
    text: deltas.map((delta) => delta.text ?? '').join(''),
    json: deltas.map((delta) => delta.partial_json ?? '').join(''),
    final: of('message_delta').at(-1) ?? null,
    raised,
    sha256: digest(events),
  };
}

const ANTHROPIC_TOOL_RESULT = [
  ...QUESTIONS,
  {
    role: 'assistant',
    content: [{ type: 'tool_use', id: 'toolu_1', name: 'weather', input: { city: 'Zürich' } }],
  },
  {
    role: 'user',
    content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: '7 °C, snow' }],
  },
];

function anthropicCases(name) {
  const tools = [ANTHROPIC_TOOL];
  const rows = {
    messages: {},
    'messages-gzip': { play: 'gzip' },
    'messages-big': { play: 'big-300000' },
    'messages-system': { system: 'Be brief: é', metadata: { user_id: 'u-1' }, stop_sequences: ['\n\n'] },
    stream: { stream: true },
    'stream-slow': { stream: true, play: 'chunks-12-15' },
    'stream-gzip': { stream: true, play: 'gzip' },
    'stream-helper': { helper: true },
    tools: { tools },
    'tools-stream': { stream: true, tools },
    'tools-helper': { helper: true, tools },
    'tool-result': { messages: ANTHROPIC_TOOL_RESULT, tools },
    'error-model': { model: name === 'anthropic' ? 'claude-unknown-9' : 'unknown-9' },
    'error-key': { key: 'wrong-key-of-nobody' },
    'error-429': { play: 'status-429' },
    'error-529': { play: 'status-529' },
    'error-in-stream': { stream: true, play: 'error-in-stream' },
    'cut-body': { play: 'cut-body' },
    'cut-stream': { stream: true, play: 'cut-chunk' },
    'cancel-stream': { stream: true, play: 'chunks-400-10' },
  };
  if (name === 'deepseek_anthropic') rows['mapped-model'] = { model: 'claude-opus-4-5' };
  const shown = { 'error-invalid': { messages: [] }, 'error-500': { play: 'status-500' } };
  const before = `${name}.cancel-before`;
  const cancel = (signal) =>
    anthropicClient(name, { case: before, play: 'stall-head' }).messages.create(
      { model: MODELS[name], max_tokens: 256, messages: QUESTIONS },
      { signal },
    );
  return [
    ...cases(name, rows, message, false),
    ...cases(name, shown, message, true),
    [before, () => cancelledBeforeTheFirstByte(cancel)],
  ];
}

// Models

function modelsCases(name, client) {
  const listed = async (_, call) => {
    // A hub lists what its agents offer, so only what both have is looked at.
    const models = [];
    for await (const model of client(name, call).models.list()) models.push(model);
    const kinds = [...new Set(models.map((model) => model.object ?? model.type))].sort();
    return { kinds, ours: models.some((model) => model.id === MODELS[name]) };
  };
  const retrieved = async (_, call) => (await client(name, call).models.retrieve(MODELS[name])).id;
  return [
    ...cases(name, { 'models-list': {} }, listed, false),
    ...cases(name, { 'models-retrieve': {} }, retrieved, false),
  ];
}

const has = (name) => name in TARGETS;
const rows = [
  ...['openai', 'azure', 'azure_v1', 'deepseek'].filter(has).flatMap(openaiCases),
  ...['anthropic', 'deepseek_anthropic'].filter(has).flatMap(anthropicCases),
  ...surfaceCases(),
  ...realtimeCases(),
  ...['openai', 'deepseek'].filter(has).flatMap((name) => modelsCases(name, openaiClient)),
  ...['anthropic'].filter(has).flatMap((name) => modelsCases(name, anthropicClient)),
];
const only = process.env.KEYHAVEN_SUITE_ONLY ?? '';
const results = {};
for (const [row, run] of rows) {
  if (!row.includes(only)) continue;
  const began = performance.now();
  results[row] = await run();
  if (process.env.KEYHAVEN_SUITE_TIMES) {
    process.stderr.write(`${((performance.now() - began) / 1000).toFixed(3)} s ${row}\n`);
  }
}
// The connection pool would keep the process for some seconds more.
process.stdout.write(`${JSON.stringify(results, null, 1)}\n`, () => process.exit(0));
