// Realtime sessions by the SDK's own clients: with `ws`, and as a browser opens them.
//
// Invariant: as of the suite; what is compared is every event, and how the connection ended. The
// SDK knows wss only, so a target with sessions names a base URL with TLS.

import { QUESTION, TARGETS, digest, headers, openaiClient, require, short } from './asking.mjs';

const WebSocket = require('ws');
const { OpenAIRealtimeWS } = require('openai/realtime/ws');
const { OpenAIRealtimeWebSocket } = require('openai/realtime/websocket');

const MODEL = 'gpt-realtime';
const SESSION_MAX_MS = 30_000;
const MIB = 1 << 20;
const UPDATE = { type: 'realtime', output_modalities: ['text'], instructions: 'Be brief: é' };
const ITEM = { type: 'message', role: 'user', content: [{ type: 'input_text', text: QUESTION }] };

// What a browser has as a global: no headers of the page's, but an origin.
globalThis.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin: 'https://app.example' });
  }
};

/** What is sent, and which event to wait for after it. */
function turns(talk) {
  if (talk === 'audio' || talk === 'large') {
    const bytes = Buffer.from(Array.from({ length: 251 }, (_, byte) => byte));
    const size = talk === 'large' ? 12 * MIB : 32 << 10;
    const audio = Buffer.alloc(size, bytes).toString('base64');
    const appends = Array(talk === 'large' ? 1 : 40).fill([{ type: 'input_audio_buffer.append', audio }, null]);
    const commit = 'conversation.item.input_audio_transcription.completed';
    const response = { output_modalities: ['audio'] };
    return [
      ...appends,
      [{ type: 'input_audio_buffer.commit' }, commit],
      [{ type: 'response.create', response }, 'response.done'],
    ];
  }
  if (talk === 'wrong') return [[{ type: 'kit.nonsense' }, 'error']];
  const round = [
    [{ type: 'conversation.item.create', item: ITEM }, 'conversation.item.done'],
    [{ type: 'response.create' }, talk === 'error' ? 'error' : 'rate_limits.updated'],
  ];
  return [
    [{ type: 'session.update', session: UPDATE }, 'session.updated'],
    ...round,
    ...(talk === 'twice' ? round : []),
  ];
}

async function speak(open, { talk = 'text' }) {
  const realtime = await open();
  const got = [];
  const todo = [[null, 'session.created'], ...turns(talk)];
  let waiting = todo.shift()[1];
  const goOn = () => {
    for (waiting = null; waiting === null && todo.length > 0; ) {
      const [event, awaited] = todo.shift();
      realtime.send(event);
      waiting = awaited;
    }
    if (waiting === null && talk !== 'until-closed') realtime.close();
  };
  const ended = new Promise((resolve) => {
    const timer = setTimeout(() => resolve({ timeout: true }), SESSION_MAX_MS);
    realtime.on('error', () => {});
    realtime.on('event', (event) => {
      got.push(event);
      if (event.type === waiting) goOn();
    });
    realtime.socket.on('unexpected-response', (request, response) => {
      clearTimeout(timer);
      request.destroy();
      resolve({ refused: response.statusCode, retry_after: 'retry-after' in response.headers });
    });
    realtime.socket.on('close', (code, reason) => {
      clearTimeout(timer);
      resolve({ code, reason: reason.toString(), protocol: realtime.socket.protocol });
    });
  });
  const end = await ended;
  return { kinds: got.map((event) => event.type), last: short(JSON.stringify(got.at(-1))), sha256: digest(got), ended: end };
}

const secured = (name, call) => {
  const client = openaiClient(name, call);
  const base = TARGETS[name].secure_base_url;
  client.baseURL = name === 'azure' ? `${base}/openai` : base;
  return client;
};

function withHeaders(name, call) {
  const client = secured(name, call);
  const options = { headers: headers(call.case, call.play) };
  const model = call.model ?? MODEL;
  if (name === 'azure') return OpenAIRealtimeWS.azure(client, { deploymentName: model, options });
  return new OpenAIRealtimeWS({ model, options }, client);
}

const inBrowser = (name, call) =>
  new OpenAIRealtimeWebSocket({ model: call.model ?? MODEL, dangerouslyAllowBrowser: true }, secured(name, call));

const ROWS = {
  text: {},
  twice: { talk: 'twice' },
  audio: { talk: 'audio' },
  large: { talk: 'large' },
  pings: { play: 'pings' },
  fragments: { play: 'fragments' },
  slow: { play: 'chunks-12-15' },
  big: { play: 'big-3000000' },
  'wrong-event': { talk: 'wrong' },
  'error-in-stream': { play: 'error-in-stream', talk: 'error' },
  'close-4001': { play: 'close-4001', talk: 'until-closed' },
  'error-key': { key: 'wrong-key-of-nobody' },
  'error-model': { model: 'gpt-unknown' },
  'error-429': { play: 'status-429' },
  'error-503': { play: 'status-503' },
  cut: { play: 'cut-body' },
  'half-close': { play: 'half-close-body' },
};
const BROWSER_ROWS = ['text', 'audio', 'wrong-event', 'error-key', 'error-model'];

export function realtimeCases() {
  const has = (name) => TARGETS[name]?.secure_base_url !== undefined;
  const rows = [];
  for (const name of ['openai', 'azure', 'azure_v1'].filter(has)) {
    for (const [word, call] of Object.entries(ROWS)) {
      if (word === 'large' && name !== 'openai') continue;
      const named = { case: `${name}.realtime.${word}`, ...call };
      rows.push([named.case, () => speak(() => withHeaders(name, named), call)]);
    }
  }
  for (const word of has('openai') ? BROWSER_ROWS : []) {
    const named = { case: `openai.realtime-browser.${word}`, ...ROWS[word] };
    rows.push([named.case, () => speak(() => inBrowser('openai', named), ROWS[word])]);
  }
  return rows;
}
