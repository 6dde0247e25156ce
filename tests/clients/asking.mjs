// What every case of the suite asks with: targets, clients, results, errors.
//
// Invariant: nothing random; what an application can see of an answer or an error, and no more.

import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import path from 'node:path';

const here = path.dirname(fileURLToPath(import.meta.url));
const tools = process.env.KEYHAVEN_TEST_TOOLS ?? path.join(here, '..', '.tools');
export const require = createRequire(path.join(tools, 'package.json'));
const { OpenAI, AzureOpenAI } = require('openai');
const { Anthropic } = require('@anthropic-ai/sdk');

export const TARGETS = JSON.parse(process.env.KEYHAVEN_SUITE);
export const LANGUAGE = 'js';
export const TIMEOUT_MS = 30_000;
export const CANCEL_AFTER_MS = 300;
export const QUESTION = 'What is the weather in Zürich, 東京 and 🙂?';
export const QUESTIONS = [{ role: 'user', content: QUESTION }];
export const PARAMETERS = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
export const TOOL = {
  type: 'function',
  function: { name: 'weather', description: 'Weather of a city', parameters: PARAMETERS },
};
export const ANTHROPIC_TOOL = {
  name: 'weather',
  description: 'Weather of a city',
  input_schema: PARAMETERS,
};
export const MODELS = {
  openai: 'gpt-4o-mini',
  azure: 'gpt-4o-mini',
  azure_v1: 'gpt-4o-mini',
  anthropic: 'claude-haiku-4-5-20251001',
  deepseek: 'deepseek-chat',
  deepseek_beta: 'deepseek-chat',
  deepseek_anthropic: 'deepseek-chat',
};

export const digest = (value) => createHash('sha256').update(JSON.stringify(value)).digest('hex');
export const short = (text) =>
  (text?.length ?? 0) < 1000 ? text : `${text.length} characters, sha256 ${digest(text)}`;
export const keys = (value) => (value && typeof value === 'object' ? Object.keys(value).sort() : []);

export function headers(name, play) {
  const named = { 'x-kit-case': `${LANGUAGE}.${name}` };
  return play ? { ...named, 'x-kit-play': play } : named;
}

function options(name, { case: row, play, key }) {
  return {
    apiKey: key ?? TARGETS[name].api_key,
    maxRetries: 0,
    timeout: TIMEOUT_MS,
    defaultHeaders: headers(row, play),
  };
}

export function openaiClient(name, call) {
  const base = TARGETS[name].base_url;
  if (name === 'azure') {
    return new AzureOpenAI({ ...options(name, call), endpoint: base, apiVersion: '2024-10-21' });
  }
  return new OpenAI({ ...options(name, call), baseURL: base });
}

export function anthropicClient(name, call) {
  return new Anthropic({ ...options(name, call), baseURL: TARGETS[name].base_url });
}

/** What an application can see of an error; a mistake of the suite's own is thrown again. */
export function failure(error, withMessage) {
  const ours = [TypeError, ReferenceError, SyntaxError, RangeError];
  if (error.cause === undefined && ours.includes(error.constructor)) throw error;
  const result = { raised: error.constructor.name };
  const cause = error.cause?.code ?? error.cause?.constructor?.name;
  if (error.status === undefined) return cause ? { ...result, cause } : result;
  const body = error.error ?? {};
  const inner = body.error ?? body;
  result.status = error.status;
  result.shape = keys(body);
  result.inner_shape = keys(inner);
  result.retry_after = error.headers?.has('retry-after') ?? false;
  if (![402, 403, 429].includes(error.status)) {
    result.type = inner.type ?? null;
    result.code = inner.code ?? null;
  }
  if (withMessage) result.message = inner.message ?? null;
  return result;
}

export async function attempt(call, withMessage = false) {
  try {
    return await call();
  } catch (error) {
    return failure(error, withMessage);
  }
}

export async function cancelledBeforeTheFirstByte(create) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), CANCEL_AFTER_MS);
  try {
    await create(abort.signal);
    return { cancelled: false };
  } catch (error) {
    return { cancelled: true, raised: error.constructor.name };
  } finally {
    clearTimeout(timer);
  }
}

/** Reads a stream to its end, its failure or its cancellation. */
export async function collect(stream, stopAfter) {
  const events = [];
  let raised = null;
  try {
    for await (const event of stream) {
      events.push(event);
      if (events.length === stopAfter) {
        stream.controller.abort();
        return { cancelled: true, events };
      }
    }
  } catch (error) {
    raised = failure(error, true);
  }
  return { cancelled: false, events, raised };
}

export function cases(name, rows, make, withMessage) {
  return Object.entries(rows).map(([word, call]) => {
    const row = `${name}.${word}`;
    return [row, () => attempt(() => make(name, { case: row, ...call }), withMessage)];
  });
}
