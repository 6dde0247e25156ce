"""The official Python SDKs, every case of them, against any set of base URLs.

Invariant: prints one JSON object {case: result} and nothing random in it, so that two runs can be
compared. Base URLs and keys come in the environment variable KEYHAVEN_SUITE.
"""

import asyncio
import functools
import hashlib
import json
import os
import sys

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
        return make(azure_endpoint=target["base_url"], api_version="2024-10-21", **options)
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


# OpenAI, Azure and DeepSeek ----------------------------------------------------------------------


def chat_result(answer):
    choice = answer.choices[0]
    calls = choice.message.tool_calls or []
    return {
        "id": answer.id,
        "model": answer.model,
        "content": short(choice.message.content),
        "finish": choice.finish_reason,
        "tool_calls": [[call.id, call.function.name, call.function.arguments] for call in calls],
        "usage": dump(answer.usage),
        "request_id": answer._request_id,
        "sha256": digest(dump(answer)),
    }


def chat_chunks(stream, stop_after=None):
    """Reads a stream to its end, its failure or its cancellation."""
    chunks, raised = [], None
    try:
        for chunk in stream:
            chunks.append(chunk)
            if len(chunks) == stop_after:
                stream.close()
                return {"read": len(chunks), "cancelled": True}
    except Exception as error:  # noqa: BLE001
        raised = failure(error, True)
    content, arguments, finish, usage = "", "", None, None
    for chunk in chunks:
        usage = dump(chunk.usage) if chunk.usage else usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                arguments += call.function.arguments or ""
    return {
        "ids": sorted({chunk.id for chunk in chunks}),
        "chunks": len(chunks),
        "content": short(content),
        "arguments": arguments,
        "finish": finish,
        "usage": usage,
        "raised": raised,
        "sha256": digest([dump(chunk) for chunk in chunks]),
    }


def chat(name, case, play=None, key=None, messages=None, model=None, **extra):
    client = client_of(name, case, play, key)
    create = client.chat.completions.create
    question = [{"role": "user", "content": QUESTION}]
    messages = question if messages is None else messages
    answer = create(model=model or MODELS[name], messages=messages, **extra)
    if extra.get("stream"):
        stop_after = 3 if case.endswith("cancel-stream") else None
        return chat_chunks(answer, stop_after)
    return chat_result(answer)


async def chat_cancelled_before_the_first_byte(name, case):
    client = client_of(name, case, "stall-head", asynchronous=True)
    question = [{"role": "user", "content": QUESTION}]
    call = client.chat.completions.create(model=MODELS[name], messages=question)
    return await cancelled(call)


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


def tool_result_messages():
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Zürich"}'},
    }
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "7 °C, snow"},
    ]


def openai_cases(name):
    options = {"include_usage": True}
    tools = {"tools": [TOOL]}
    rows = {
        "chat": {},
        "chat-gzip": {"play": "gzip"},
        "chat-deflate": {"play": "deflate"},
        "chat-big": {"play": "big-300000"},
        "chat-many-options": {"temperature": 0.25, "max_tokens": 99, "seed": 7, "stop": ["\n", "é"]},
        "stream": {"stream": True},
        "stream-slow": {"stream": True, "play": "chunks-12-15"},
        "stream-gzip": {"stream": True, "play": "gzip"},
        "stream-usage": {"stream": True, "stream_options": options},
        "stream-big": {"stream": True, "play": "big-300000"},
        "tools": tools,
        "tools-stream": {"stream": True, **tools},
        "tool-result": {"messages": tool_result_messages(), **tools},
        "tool-result-stream": {"messages": tool_result_messages(), "stream": True, **tools},
        "error-model": {"model": f"{MODELS[name]}-unknown"},
        "error-key": {"key": "wrong-key-of-nobody"},
        "error-429": {"play": "status-429"},
        "error-503": {"play": "status-503"},
        "error-in-stream": {"stream": True, "play": "error-in-stream"},
        "cut-body": {"play": "cut-body"},
        "cut-stream": {"stream": True, "play": "cut-chunk"},
        "cancel-stream": {"stream": True, "play": "chunks-400-10"},
    }
    for word, arguments in rows.items():
        case = f"{name}.{word}"
        yield case, lambda case=case, arguments=arguments: attempt(
            lambda: chat(name, case, **arguments)
        )
    shown = {"error-invalid": {"messages": []}, "error-500": {"play": "status-500"}}
    for word, arguments in shown.items():
        case = f"{name}.{word}"
        yield case, lambda case=case, arguments=arguments: attempt(
            lambda: chat(name, case, **arguments), with_message=True
        )
    before = f"{name}.cancel-before"
    yield before, lambda: asyncio.run(chat_cancelled_before_the_first_byte(name, before))


def openai_models(name):
    def listed(case):
        client = client_of(name, case)
        # A hub lists what its agents offer, so only what both have is looked at.
        models = list(client.models.list())
        kinds = {getattr(model, "object", None) or model.type for model in models}
        return {"kinds": sorted(kinds), "ours": MODELS[name] in {m.id for m in models}}

    def retrieved(case):
        client = client_of(name, case)
        return dump(client.models.retrieve(MODELS[name]))["id"]

    for word, call in (("models-list", listed), ("models-retrieve", retrieved)):
        case = f"{name}.{word}"
        yield case, lambda case=case, call=call: attempt(lambda: call(case))


# Anthropic and DeepSeek's Anthropic form ---------------------------------------------------------


def message_result(message):
    return {
        "id": message.id,
        "model": message.model,
        "content": [
            {**dump(block), "text": short(getattr(block, "text", None))}
            for block in message.content
        ],
        "stop": message.stop_reason,
        "usage": dump(message.usage),
        "request_id": getattr(message, "_request_id", None),
        "sha256": digest(dump(message)),
    }


def message_events(stream, stop_after=None):
    events, raised = [], None
    try:
        for event in stream:
            events.append(event)
            if len(events) == stop_after:
                stream.close()
                return {"read": len(events), "cancelled": True}
    except Exception as error:  # noqa: BLE001
        raised = failure(error, True)
    dumped = [dump(event) for event in events]
    deltas = [event["delta"] for event in dumped if event["type"] == "content_block_delta"]
    finals = [event for event in dumped if event["type"] == "message_delta"]
    return {
        "events": [event["type"] for event in dumped],
        "text": "".join(delta.get("text") or "" for delta in deltas),
        "json": "".join(delta.get("partial_json") or "" for delta in deltas),
        "final": finals[-1] if finals else None,
        "raised": raised,
        "sha256": digest(dumped),
    }


def message(name, case, play=None, key=None, messages=None, model=None, helper=False, **extra):
    client = client_of(name, case, play, key)
    question = [{"role": "user", "content": QUESTION}]
    arguments = {
        "model": model or MODELS[name],
        "max_tokens": 256,
        "messages": question if messages is None else messages,
        **extra,
    }
    if helper:
        with client.messages.stream(**arguments) as stream:
            text = "".join(stream.text_stream)
            return {"text": text, "message": message_result(stream.get_final_message())}
    answer = client.messages.create(**arguments)
    if extra.get("stream"):
        stop_after = 5 if case.endswith("cancel-stream") else None
        return message_events(answer, stop_after)
    return message_result(answer)


async def message_cancelled_before_the_first_byte(name, case):
    client = client_of(name, case, "stall-head", asynchronous=True)
    question = [{"role": "user", "content": QUESTION}]
    call = client.messages.create(model=MODELS[name], max_tokens=256, messages=question)
    return await cancelled(call)


def anthropic_tool_result_messages():
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "7 °C, snow"}
    return [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]


def anthropic_cases(name):
    tools = {"tools": [ANTHROPIC_TOOL]}
    rows = {
        "messages": {},
        "messages-gzip": {"play": "gzip"},
        "messages-big": {"play": "big-300000"},
        "messages-system": {"system": "Be brief: é", "metadata": {"user_id": "u-1"}, "stop_sequences": ["\n\n"]},
        "stream": {"stream": True},
        "stream-slow": {"stream": True, "play": "chunks-12-15"},
        "stream-gzip": {"stream": True, "play": "gzip"},
        "stream-helper": {"helper": True},
        "tools": tools,
        "tools-stream": {"stream": True, **tools},
        "tools-helper": {"helper": True, **tools},
        "tool-result": {"messages": anthropic_tool_result_messages(), **tools},
        "error-model": {"model": "claude-unknown-9" if name == "anthropic" else "unknown-9"},
        "error-key": {"key": "wrong-key-of-nobody"},
        "error-429": {"play": "status-429"},
        "error-529": {"play": "status-529"},
        "error-in-stream": {"stream": True, "play": "error-in-stream"},
        "cut-body": {"play": "cut-body"},
        "cut-stream": {"stream": True, "play": "cut-chunk"},
        "cancel-stream": {"stream": True, "play": "chunks-400-10"},
    }
    if name == "deepseek_anthropic":
        rows["mapped-model"] = {"model": "claude-opus-4-5"}
    for word, arguments in rows.items():
        case = f"{name}.{word}"
        yield case, lambda case=case, arguments=arguments: attempt(
            lambda: message(name, case, **arguments)
        )
    shown = {"error-invalid": {"messages": []}, "error-500": {"play": "status-500"}}
    for word, arguments in shown.items():
        case = f"{name}.{word}"
        yield case, lambda case=case, arguments=arguments: attempt(
            lambda: message(name, case, **arguments), with_message=True
        )
    before = f"{name}.cancel-before"
    yield before, lambda: asyncio.run(message_cancelled_before_the_first_byte(name, before))


def anthropic_models(name):
    def listed(case):
        client = client_of(name, case)
        # A hub lists what its agents offer, so only what both have is looked at.
        models = list(client.models.list())
        kinds = {getattr(model, "object", None) or model.type for model in models}
        return {"kinds": sorted(kinds), "ours": MODELS[name] in {m.id for m in models}}

    def retrieved(case):
        client = client_of(name, case)
        return client.models.retrieve(MODELS[name]).id

    for word, call in (("models-list", listed), ("models-retrieve", retrieved)):
        case = f"{name}.{word}"
        yield case, lambda case=case, call=call: attempt(lambda: call(case))


def main():
    rows = []
    for name in ("openai", "azure", "azure_v1", "deepseek"):
        if name in TARGETS:
            rows += openai_cases(name)
    for name in ("anthropic", "deepseek_anthropic"):
        if name in TARGETS:
            rows += anthropic_cases(name)
    for name in ("openai", "deepseek"):
        if name in TARGETS:
            rows += openai_models(name)
    if "anthropic" in TARGETS:
        rows += anthropic_models("anthropic")
    only = os.environ.get("KEYHAVEN_SUITE_ONLY", "")
    results = {case: run() for case, run in rows if only in case}
    json.dump(results, sys.stdout, ensure_ascii=False, indent=1, sort_keys=True)
    print()


main()
