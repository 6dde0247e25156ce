// Everything but chat and messages: completions, responses, embeddings, images, audio, tokens, betas.
//
// Invariant: as of the suite; large bodies are of a fixed content, so that their hashes can be
// compared.

import { createHash } from 'node:crypto';
import {
  ANTHROPIC_TOOL,
  MODELS,
  QUESTION,
  QUESTIONS,
  TARGETS,
  TOOL,
  anthropicClient,
  cancelledBeforeTheFirstByte,
  cases,
  collect,
  digest,
  openaiClient,
  require,
  short,
} from './asking.mjs';

const { toFile } = require('openai');
const MIB = 1 << 20;
const PICTURE = Buffer.concat([
  Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
  ...Array(4).fill(Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))),
]);
const LINES = Buffer.from('--boundary\r\n\r\n--\r\nnot one\r\n'.repeat(40));
const RESPONSE_TOOL = { type: 'function', strict: false, ...TOOL.function };

const noises = new Map();
/** Bytes of every value, without a pattern that compresses. */
function noise(size) {
  if (!noises.has(size)) {
    const blocks = Array.from({ length: Math.floor(size / 64) + 1 }, (_, place) =>
      createHash('sha512').update(String(place)).digest(),
    );
    noises.set(size, Buffer.concat(blocks).subarray(0, size));
  }
  return noises.get(size);
}

const dataUrl = (kind, content) => `data:${kind};base64,${content.toString('base64')}`;
const shown = (value) => short(JSON.stringify(value ?? null));
const result = (answer) => ({
  answer: shown(answer),
  request_id: answer._request_id ?? null,
  sha256: digest(answer),
});

async function events(stream, row) {
  const { cancelled, events, raised } = await collect(stream, row.endsWith('cancel-stream') ? 3 : undefined);
  if (cancelled) return { cancelled, read: events.length };
  return {
    kinds: events.map((event) => event.type ?? event.object),
    last: shown(events.at(-1)),
    raised,
    sha256: digest(events),
  };
}

/** A maker of one kind of call: `make(client, request)` with these arguments unless told otherwise. */
const asking = (client, usual, make) => async (name, call) => {
  const { case: row, play, key, ...extra } = call;
  const defaults = await (typeof usual === 'function' ? usual(name) : usual);
  const answer = await make(client(name, call), { ...defaults, ...extra }, row);
  return extra.stream ? events(answer, row) : answer;
};

const plain = async (promise, request) => {
  const answer = await promise;
  if (request.stream) return answer;
  return typeof answer === 'string' ? { text: answer } : result(answer);
};

const completion = asking(
  openaiClient,
  (name) => ({ model: MODELS[name], prompt: QUESTION }),
  (client, request) => plain(client.completions.create(request), request),
);
const response = asking(
  openaiClient,
  (name) => ({ model: MODELS[name], input: QUESTION, store: false }),
  async (client, { helper, ...request }) => {
    if (!helper) return plain(client.responses.create(request), request);
    return result(await client.responses.stream(request).finalResponse());
  },
);
const embedding = asking(openaiClient, { model: 'text-embedding-3-small', input: QUESTION }, (client, request) =>
  plain(client.embeddings.create(request), request),
);
const image = asking(openaiClient, { model: 'gpt-image-1', prompt: QUESTION }, (client, request) =>
  plain(client.images.generate(request), request),
);
const edit = asking(
  openaiClient,
  async () => ({
    model: 'gpt-image-1',
    prompt: QUESTION,
    image: await toFile(PICTURE, 'ü pic.png', { type: 'image/png' }),
  }),
  (client, request) => plain(client.images.edit(request), request),
);
const speech = asking(
  openaiClient,
  { model: 'gpt-4o-mini-tts', voice: 'marin', input: QUESTION },
  async (client, request) => {
    const answer = await client.audio.speech.create(request);
    const sound = Buffer.from(await answer.arrayBuffer());
    const sha256 = createHash('sha256').update(sound).digest('hex');
    return { bytes: sound.length, sha256, kind: answer.headers.get('content-type') };
  },
);
const transcription = asking(
  openaiClient,
  async () => ({
    model: 'gpt-4o-transcribe',
    file: await toFile(noise(50_000), 'a b.mp3', { type: 'audio/mpeg' }),
  }),
  (client, request) => plain(client.audio.transcriptions.create(request), request),
);
const translation = asking(
  openaiClient,
  async () => ({ model: 'whisper-1', file: await toFile(noise(40_000), 'b.wav') }),
  (client, request) => plain(client.audio.translations.create(request), request),
);
const seeing = asking(
  openaiClient,
  (name) => ({ model: MODELS[name], size: 64 }),
  (client, { size, ...request }) => {
    const part = { type: 'image_url', image_url: { url: dataUrl('image/png', noise(size)) } };
    const messages = [{ role: 'user', content: [{ type: 'text', text: QUESTION }, part] }];
    return plain(client.chat.completions.create({ ...request, messages }), request);
  },
);

// What every endpoint is put through: a vendor's errors, breaks, and the consumer's leaving.
const TROUBLES = {
  'error-key': { key: 'wrong-key-of-nobody' },
  'error-429': { play: 'status-429' },
  'error-503': { play: 'status-503' },
  'cut-body': { play: 'cut-body' },
};
const STREAM_TROUBLES = {
  'cut-stream': { stream: true, play: 'cut-chunk' },
  'cancel-stream': { stream: true, play: 'chunks-300-10' },
};

const both = (name, word, make, rows, shownRows = {}) => [
  ...cases(`${name}.${word}`, rows, (_, call) => make(name, call), false),
  ...cases(`${name}.${word}`, shownRows, (_, call) => make(name, call), true),
];

function openaiRows(name) {
  const unknown = { 'error-model': { model: 'gpt-unknown' }, 'error-500': { play: 'status-500' } };
  const stream = { stream: true };
  const tools = { tools: [RESPONSE_TOOL] };
  const seen = [
    { type: 'input_text', text: QUESTION },
    { type: 'input_image', image_url: dataUrl('image/png', PICTURE), detail: 'low' },
  ];
  const output = { type: 'function_call_output', call_id: 'call_1', output: '7 °C, snow' };
  const made = { type: 'function_call', call_id: 'call_1', name: 'weather', arguments: '{}' };
  const file = (content, label) => ({ file: new File([content], label, { type: 'audio/mpeg' }) });
  const large = name === 'openai';
  const cancel = (word, make) => {
    const row = `${name}.${word}.cancel-before`;
    const call = { case: row, play: 'stall-head' };
    return [row, () => cancelledBeforeTheFirstByte((signal) => make(openaiClient(name, call), { signal }))];
  };
  return [
    ...both(
      name,
      'completions',
      completion,
      {
        plain: {},
        stream,
        gzip: { play: 'gzip' },
        big: { play: 'big-300000' },
        'stream-usage': { ...stream, stream_options: { include_usage: true } },
        'error-in-stream': { ...stream, play: 'error-in-stream' },
        ...TROUBLES,
        ...STREAM_TROUBLES,
      },
      unknown,
    ),
    ...both(
      name,
      'responses',
      response,
      {
        plain: {},
        stream,
        helper: { helper: true },
        gzip: { play: 'gzip' },
        'stream-gzip': { ...stream, play: 'gzip' },
        'stream-slow': { ...stream, play: 'chunks-12-15' },
        tools,
        'tools-stream': { ...stream, ...tools },
        big: { play: 'big-300000' },
        'tool-result': { input: [...QUESTIONS, made, output], ...tools },
        picture: { input: [{ role: 'user', content: seen }] },
        instructions: { instructions: 'Be brief: é', max_output_tokens: 99, temperature: 0.5 },
        'failing-stream': { ...stream, play: 'error-in-stream' },
        ...TROUBLES,
        ...STREAM_TROUBLES,
      },
      { ...unknown, 'error-invalid': { input: [] } },
    ),
    ...both(
      name,
      'embeddings',
      embedding,
      {
        plain: {},
        float: { encoding_format: 'float' },
        many: { input: Array(40).fill([QUESTION, 'é', '🙂']).flat() },
        tokens: { input: [[1, 2, 3], [4]] },
        dimensions: { dimensions: 700 },
        gzip: { play: 'gzip' },
        ...TROUBLES,
      },
      { ...unknown, 'error-invalid': { input: [] } },
    ),
    ...both(
      name,
      'images',
      image,
      {
        plain: {},
        two: { n: 2, size: '1024x1024', quality: 'low' },
        stream: { ...stream, partial_images: 2 },
        big: { play: 'big-3000000' },
        ...TROUBLES,
        ...STREAM_TROUBLES,
      },
      unknown,
    ),
    // This SDK asks for edits beside Azure's deployments, where Azure has none.
    ...(name === 'azure'
      ? []
      : both(
          name,
          'edits',
          edit,
          {
            plain: {},
            several: {
              image: [new File([PICTURE], '1.png'), new File([LINES], '2.png')],
              mask: new File([PICTURE.subarray(0, 99)], 'mask.png'),
              n: 2,
            },
            stream: { ...stream, partial_images: 1 },
            boundaries: { image: new File([LINES], 'b.png') },
            empty: { image: new File([], 'e.png') },
            ...TROUBLES,
            ...STREAM_TROUBLES,
          },
          unknown,
        )),
    ...both(
      name,
      'speech',
      speech,
      {
        plain: {},
        sse: { stream_format: 'sse' },
        pcm: { response_format: 'pcm', speed: 1.5 },
        big: { play: 'big-5000000' },
        ...TROUBLES,
      },
      unknown,
    ),
    ...both(
      name,
      'transcriptions',
      transcription,
      {
        plain: {},
        text: { response_format: 'text' },
        srt: { response_format: 'srt', model: 'whisper-1' },
        verbose: {
          response_format: 'verbose_json',
          model: 'whisper-1',
          timestamp_granularities: ['segment', 'word'],
        },
        options: { language: 'de', prompt: QUESTION, temperature: 0.2 },
        stream,
        boundaries: file(LINES, 'b.mp3'),
        ...(large ? { large: file(noise(25 * MIB), 'l.wav') } : {}),
        ...TROUBLES,
        ...STREAM_TROUBLES,
      },
      unknown,
    ),
    ...both(
      name,
      'translations',
      translation,
      { plain: {}, text: { response_format: 'text' }, ...TROUBLES },
      unknown,
    ),
    ...both(name, 'seeing', seeing, { small: {}, ...(large ? { large: { size: 15 * MIB } } : {}) }),
    cancel('responses', (client, options) =>
      client.responses.create({ model: MODELS[name], input: QUESTION }, options),
    ),
    cancel('transcriptions', (client, options) =>
      client.audio.transcriptions.create({ model: 'whisper-1', ...file(noise(3 * MIB), 'a.mp3') }, options),
    ),
  ];
}

function deepseekRows(name) {
  const asked = [
    { role: 'user', content: QUESTION },
    { role: 'assistant', content: '```python\n', prefix: true },
  ];
  const prefix = asking(openaiClient, { model: MODELS[name], messages: asked }, (client, request) =>
    plain(client.chat.completions.create(request), request),
  );
  return [
    ...both(
      name,
      'completions',
      completion,
      {
        plain: {},
        suffix: { suffix: 'fin, naïve' },
        stream: { stream: true, suffix: 'fin' },
        big: { play: 'big-300000' },
        ...TROUBLES,
        ...STREAM_TROUBLES,
      },
      { 'error-model': { model: 'deepseek-unknown' } },
    ),
    ...both(name, 'prefix', prefix, { plain: {}, stream: { stream: true } }),
  ];
}

// Anthropic's count_tokens and betas

function anthropicRows(name) {
  const unknown = { 'error-model': { model: 'claude-unknown-9' } };
  const tools = { tools: [ANTHROPIC_TOOL] };
  const usual = { model: MODELS[name], messages: QUESTIONS };
  const count = asking(anthropicClient, usual, (client, { beta, ...request }) =>
    plain((beta ? client.beta.messages : client.messages).countTokens(request), request),
  );
  const beta = asking(anthropicClient, { ...usual, max_tokens: 256 }, (client, { content, ...request }) => {
    const messages = content ? [{ role: 'user', content }] : request.messages;
    return plain(client.beta.messages.create({ ...request, messages }), request);
  });
  const cached = { betas: ['context-1m-2025-08-07', 'fine-grained-tool-streaming-2025-05-14'] };
  const picture = (bytes) => [
    { type: 'image', source: { type: 'base64', media_type: 'image/png', data: bytes.toString('base64') } },
  ];
  return [
    ...both(
      name,
      'count',
      count,
      {
        plain: {},
        system: { system: 'Be brief: é', ...tools },
        beta: { beta: true },
        gzip: { play: 'gzip' },
        ...TROUBLES,
      },
      unknown,
    ),
    ...both(
      name,
      'beta',
      beta,
      {
        plain: {},
        betas: cached,
        stream: { stream: true, ...cached },
        tools: { ...tools, ...cached },
        picture: { content: picture(PICTURE) },
        large: { content: picture(noise(15 * MIB)) },
        ...TROUBLES,
        ...STREAM_TROUBLES,
      },
      unknown,
    ),
  ];
}

export function surfaceCases() {
  const has = (name) => name in TARGETS;
  return [
    ...['openai', 'azure', 'azure_v1'].filter(has).flatMap(openaiRows),
    ...['deepseek_beta'].filter(has).flatMap(deepseekRows),
    ...['anthropic'].filter(has).flatMap(anthropicRows),
  ];
}
