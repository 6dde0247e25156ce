"""The official Python SDKs, every case of them, against any set of base URLs.

Invariant: prints one JSON object {case: result} and nothing random in it, so that two runs can be
compared. Base URLs and keys come in the environment variable KEYHAVEN_SUITE.
"""

import asyncio
import json
import os
import sys
import time

import realtime
import surface
from asking import ANTHROPIC_TOOL, MODELS, QUESTION, TARGETS, TOOL
from asking import attempt, cancelled, client_of, digest, dump, failure, short


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
    rows += surface.cases()
    rows += realtime.cases()
    for name in ("anthropic", "deepseek_anthropic"):
        if name in TARGETS:
            rows += anthropic_cases(name)
    for name in ("openai", "deepseek"):
        if name in TARGETS:
            rows += openai_models(name)
    if "anthropic" in TARGETS:
        rows += anthropic_models("anthropic")
    only = os.environ.get("KEYHAVEN_SUITE_ONLY", "")
    results = {}
    for case, run in rows:
        if only in case:
            began = time.monotonic()
            results[case] = run()
            if os.environ.get("KEYHAVEN_SUITE_TIMES"):
                print(f"{time.monotonic() - began:8.3f} s {case}", file=sys.stderr)
    json.dump(results, sys.stdout, ensure_ascii=False, indent=1, sort_keys=True)
    print()


main()
