"""What every case of the suite asks with: targets, clients, results, errors.

Invariant: nothing random; what an application can see of an answer or an error, and no more.
"""

import asyncio
import functools
import hashlib
import json
import os

import anthropic
import openai

TARGETS = json.loads(os.environ["KEYHAVEN_SUITE"])
LANGUAGE = "py"
TIMEOUT_SECONDS = 30
CANCEL_AFTER_SECONDS = 0.3
QUESTION = "What is the weather in Zürich, 東京 and 🙂?"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city", "parameters": PARAMETERS},
}
ANTHROPIC_TOOL = {
    "name": "weather",
    "description": "Weather of a city",
    "input_schema": PARAMETERS,
}
MODELS = {
    "openai": "gpt-4o-mini",
    "azure": "gpt-4o-mini",
    "azure_v1": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5-20251001",
    "deepseek": "deepseek-chat",
    "deepseek_beta": "deepseek-chat",
    "deepseek_anthropic": "deepseek-chat",
}


def digest(value):
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def dump(model):
    return model.model_dump(mode="json")


def short(text):
    """A long text by its hash."""
    if text is None or len(text) < 1000:
        return text
    return f"{len(text)} characters, sha256 {digest(text)}"


def headers(case, play):
    named = {"x-kit-case": f"{LANGUAGE}.{case}"}
    if play:
        named["x-kit-play"] = play
    return named


@functools.cache
def shared_client(name, asynchronous):
    """One client, and so one connection pool, for each target."""
    target = TARGETS[name]
    options = {"api_key": target["api_key"], "max_retries": 0, "timeout": TIMEOUT_SECONDS}
    if name in ("anthropic", "deepseek_anthropic"):
        make = anthropic.AsyncAnthropic if asynchronous else anthropic.Anthropic
        return make(base_url=target["base_url"], **options)
    if name == "azure":
        make = openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI
        base = target["base_url"]
        # The SDK's own choice is wss, whatever the endpoint's scheme.
        options["websocket_base_url"] = base.replace("http", "ws", 1) + "/openai"
        return make(azure_endpoint=base, api_version="2024-10-21", **options)
    make = openai.AsyncOpenAI if asynchronous else openai.OpenAI
    return make(base_url=target["base_url"], **options)


def client_of(name, case, play=None, key=None, asynchronous=False):
    key = key or TARGETS[name]["api_key"]
    client = shared_client(name, asynchronous)
    return client.with_options(api_key=key, default_headers=headers(case, play))


def failure(error, with_message):
    """What an application can see of an error; a mistake of the suite's own is raised again."""
    if isinstance(error, (TypeError, AttributeError, KeyError, NameError, AssertionError)):
        raise error
    result = {"raised": type(error).__name__}
    status = getattr(error, "status_code", None)
    if status is None:
        return result
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error", body)
    result["status"] = status
    result["shape"] = sorted(body)
    result["inner_shape"] = sorted(inner)
    result["retry_after"] = "retry-after" in error.response.headers
    if status not in (402, 403, 429):
        result["type"] = inner.get("type")
        result["code"] = inner.get("code")
    if with_message:
        result["message"] = inner.get("message")
    return result


def attempt(call, with_message=False):
    try:
        return call()
    except Exception as error:  # noqa: BLE001: transports raise classes of their own
        return failure(error, with_message)


async def cancelled(call):
    task = asyncio.ensure_future(call)
    await asyncio.sleep(CANCEL_AFTER_SECONDS)
    task.cancel()
    try:
        await task
        return {"cancelled": False}
    except asyncio.CancelledError:
        return {"cancelled": True}
    except Exception as error:  # noqa: BLE001
        return failure(error, True)
