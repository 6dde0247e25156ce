"""Everything but chat and messages: completions, responses, embeddings, images, audio, tokens, betas.

Invariant: as of the suite; large bodies are of a fixed content, so that their hashes can be compared.
"""

import asyncio
import base64
import functools
import hashlib

from asking import ANTHROPIC_TOOL, MODELS, QUESTION, TARGETS, TOOL
from asking import attempt, cancelled, client_of, digest, dump, failure, short

MIB = 1 << 20
SPEECH = ("openai", "azure", "azure_v1")
RESPONSE_TOOL = {"type": "function", "strict": False, **TOOL["function"]}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
LINES = b"--boundary\r\n\r\n--\r\nnot one\r\n" * 40


@functools.cache
def noise(size):
    """Bytes of every value, without a pattern that compresses."""
    blocks = (hashlib.sha512(str(place).encode()).digest() for place in range(size // 64 + 1))
    return b"".join(blocks)[:size]


def data_url(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def events(stream, stop_after=None):
    """Reads a stream of typed events to its end, its failure or its cancellation."""
    got, raised = [], None
    try:
        for event in stream:
            got.append(event)
            if len(got) == stop_after:
                stream.close()
                return {"read": len(got), "cancelled": True}
    except Exception as error:  # noqa: BLE001
        raised = failure(error, True)
    dumped = [dump(event) for event in got]
    kinds = [event.get("type", event.get("object")) for event in dumped]
    return {"kinds": kinds, "last": shown(dumped), "raised": raised, "sha256": digest(dumped)}


def shown(dumped):
    text = str(dumped[-1]) if dumped else None
    return text if text is None or len(text) < 2000 else digest(text)


def stopping(case):
    return 3 if case.endswith("cancel-stream") else None


def result(answer):
    body = dump(answer)
    request_id = getattr(answer, "_request_id", None)
    return {"answer": shown([body]), "request_id": request_id, "sha256": digest(body)}


def completion(name, case, play=None, key=None, model=None, **extra):
    client = client_of(name, case, play, key)
    asked = {"prompt": QUESTION, **extra}
    answer = client.completions.create(model=model or MODELS[name], **asked)
    return events(answer, stopping(case)) if extra.get("stream") else result(answer)


def response(name, case, play=None, key=None, model=None, helper=False, **extra):
    client = client_of(name, case, play, key)
    asked = {"model": model or MODELS[name], "input": QUESTION, "store": False, **extra}
    if helper:
        with client.responses.stream(**asked) as stream:
            kinds = [event.type for event in stream]
            final = dump(stream.get_final_response())
            return {"kinds": kinds, "sha256": digest(final)}
    answer = client.responses.create(**asked)
    if extra.get("stream"):
        return events(answer, stopping(case))
    return {"text": short(answer.output_text), **result(answer)}


def embedding(name, case, play=None, key=None, model="text-embedding-3-small", **extra):
    client = client_of(name, case, play, key)
    return result(client.embeddings.create(model=model, **{"input": QUESTION, **extra}))


def image(name, case, play=None, key=None, model="gpt-image-1", **extra):
    client = client_of(name, case, play, key)
    answer = client.images.generate(model=model, **{"prompt": QUESTION, **extra})
    return events(answer, stopping(case)) if extra.get("stream") else result(answer)


def edit(name, case, play=None, key=None, model="gpt-image-1", **extra):
    client = client_of(name, case, play, key)
    asked = {"image": ("ü pic.png", PICTURE, "image/png"), "prompt": QUESTION, **extra}
    answer = client.images.edit(model=model, **asked)
    return events(answer, stopping(case)) if extra.get("stream") else result(answer)


def speech(name, case, play=None, key=None, model="gpt-4o-mini-tts", **extra):
    client = client_of(name, case, play, key)
    asked = {"model": model, "voice": "marin", "input": QUESTION, **extra}
    if extra.get("stream_format") == "sse":
        with client.audio.speech.with_streaming_response.create(**asked) as answer:
            lines = list(answer.iter_lines())
        return {"lines": len(lines), "sha256": digest(lines)}
    if case.endswith("streamed"):
        with client.audio.speech.with_streaming_response.create(**asked) as answer:
            sound = b"".join(answer.iter_bytes())
    else:
        answer = client.audio.speech.create(**asked)
        sound = answer.content
    kind = answer.headers["content-type"] if hasattr(answer, "headers") else answer.response.headers["content-type"]
    return {"bytes": len(sound), "sha256": hashlib.sha256(sound).hexdigest(), "kind": kind}


def transcription(name, case, play=None, key=None, model="gpt-4o-transcribe", **extra):
    client = client_of(name, case, play, key)
    asked = {"file": ("a b.mp3", noise(50_000), "audio/mpeg"), **extra}
    answer = client.audio.transcriptions.create(model=model, **asked)
    if extra.get("stream"):
        return events(answer, stopping(case))
    return {"text": answer} if isinstance(answer, str) else result(answer)


def translation(name, case, play=None, key=None, model="whisper-1", **extra):
    client = client_of(name, case, play, key)
    answer = client.audio.translations.create(model=model, **{"file": ("b.wav", noise(40_000)), **extra})
    return {"text": answer} if isinstance(answer, str) else result(answer)


def seeing(name, case, size=64, **extra):
    """A chat about a picture; of the largest the answer has the size."""
    part = {"type": "image_url", "image_url": {"url": data_url("image/png", noise(size))}}
    content = [{"type": "text", "text": QUESTION}, part]
    client = client_of(name, case)
    messages = [{"role": "user", "content": content}]
    return result(client.chat.completions.create(model=MODELS[name], messages=messages, **extra))


async def cancelled_before_the_first_byte(name, case, make):
    client = client_of(name, case, "stall-head", asynchronous=True)
    return await cancelled(make(client))


# What every endpoint is put through: a vendor's errors, breaks, and the consumer's leaving.
TROUBLES = {
    "error-key": {"key": "wrong-key-of-nobody"},
    "error-429": {"play": "status-429"},
    "error-503": {"play": "status-503"},
    "cut-body": {"play": "cut-body"},
}
STREAM_TROUBLES = {
    "cut-stream": {"stream": True, "play": "cut-chunk"},
    "cancel-stream": {"stream": True, "play": "chunks-300-10"},
}


def rows_of(name, word, make, rows, shown_rows=None):
    for row, arguments in rows.items():
        case = f"{name}.{word}.{row}"
        yield case, lambda case=case, arguments=arguments: attempt(lambda: make(name, case, **arguments))
    for row, arguments in (shown_rows or {}).items():
        case = f"{name}.{word}.{row}"
        yield case, lambda case=case, arguments=arguments: attempt(lambda: make(name, case, **arguments), True)


def openai_rows(name):
    unknown = {"error-model": {"model": "gpt-unknown"}, "error-500": {"play": "status-500"}}
    stream = {"stream": True}
    completions = {
        "plain": {}, "stream": stream, "gzip": {"play": "gzip"}, "big": {"play": "big-300000"},
        "stream-usage": {"stream": True, "stream_options": {"include_usage": True}},
        "error-in-stream": {"stream": True, "play": "error-in-stream"},
        **TROUBLES, **STREAM_TROUBLES,
    }
    yield from rows_of(name, "completions", completion, completions, unknown)
    tools = {"tools": [RESPONSE_TOOL]}
    seen = [
        {"type": "input_text", "text": QUESTION},
        {"type": "input_image", "image_url": data_url("image/png", PICTURE), "detail": "low"},
    ]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "7 °C, snow"}
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    responses = {
        "plain": {}, "stream": stream, "helper": {"helper": True}, "gzip": {"play": "gzip"},
        "stream-gzip": {"stream": True, "play": "gzip"}, "stream-slow": {"stream": True, "play": "chunks-12-15"},
        "tools": tools, "tools-stream": {**stream, **tools}, "big": {"play": "big-300000"},
        "tool-result": {"input": [{"role": "user", "content": QUESTION}, call, output], **tools},
        "picture": {"input": [{"role": "user", "content": seen}]},
        "instructions": {"instructions": "Be brief: é", "max_output_tokens": 99, "temperature": 0.5},
        "failing-stream": {"stream": True, "play": "error-in-stream"},
        **TROUBLES, **STREAM_TROUBLES,
    }
    yield from rows_of(name, "responses", response, responses, {**unknown, "error-invalid": {"input": []}})
    embeddings = {
        "plain": {}, "float": {"encoding_format": "float"}, "many": {"input": [QUESTION, "é", "🙂"] * 40},
        "tokens": {"input": [[1, 2, 3], [4]]}, "dimensions": {"dimensions": 700}, "gzip": {"play": "gzip"},
        **TROUBLES,
    }
    yield from rows_of(name, "embeddings", embedding, embeddings, {**unknown, "error-invalid": {"input": []}})
    images = {
        "plain": {}, "two": {"n": 2, "size": "1024x1024", "quality": "low"},
        "stream": {"stream": True, "partial_images": 2},
        "big": {"play": "big-3000000"}, **TROUBLES, **STREAM_TROUBLES,
    }
    yield from rows_of(name, "images", image, images, unknown)
    mask = ("mask.png", PICTURE[:99], "image/png")
    edits = {
        "plain": {}, "several": {"image": [("1.png", PICTURE), ("2.png", PICTURE[::-1])], "mask": mask, "n": 2},
        "stream": {"stream": True, "partial_images": 1}, "boundaries": {"image": ("b.png", LINES, "image/png")},
        "empty": {"image": ("e.png", b"", "image/png")}, **TROUBLES, **STREAM_TROUBLES,
    }
    yield from rows_of(name, "edits", edit, edits, unknown)
    speeches = {
        "plain": {}, "streamed": {}, "sse": {"stream_format": "sse"}, "pcm": {"response_format": "pcm", "speed": 1.5},
        "big": {"play": "big-5000000"}, **TROUBLES,
    }
    yield from rows_of(name, "speech", speech, speeches, unknown)
    transcriptions = {
        "plain": {}, "text": {"response_format": "text"}, "srt": {"response_format": "srt", "model": "whisper-1"},
        "verbose": {
            "response_format": "verbose_json", "model": "whisper-1", "timestamp_granularities": ["segment", "word"],
        },
        "options": {"language": "de", "prompt": QUESTION, "temperature": 0.2},
        "stream": stream, "boundaries": {"file": ("b.mp3", LINES, "audio/mpeg")},
        **TROUBLES, **STREAM_TROUBLES,
    }
    if name == "openai":
        transcriptions["large"] = {"file": ("l.wav", noise(25 * MIB), "audio/wav")}
    yield from rows_of(name, "transcriptions", transcription, transcriptions, unknown)
    translations = {"plain": {}, "text": {"response_format": "text"}, **TROUBLES}
    yield from rows_of(name, "translations", translation, translations, unknown)
    pictures = {"small": {}}
    if name == "openai":
        pictures["large"] = {"size": 15 * MIB}
    yield from rows_of(name, "seeing", seeing, pictures)
    makers = {
        "responses": lambda client: client.responses.create(model=MODELS[name], input=QUESTION),
        "transcriptions": lambda client: client.audio.transcriptions.create(
            model="whisper-1", file=("a.mp3", noise(3 * MIB))
        ),
    }
    for word, make in makers.items():
        case = f"{name}.{word}.cancel-before"
        yield case, lambda case=case, make=make: asyncio.run(cancelled_before_the_first_byte(name, case, make))


def deepseek_rows(name):
    rows = {
        "plain": {}, "suffix": {"suffix": "fin, naïve"}, "stream": {"stream": True, "suffix": "fin"},
        "big": {"play": "big-300000"}, **TROUBLES, **STREAM_TROUBLES,
    }
    unknown = {"error-model": {"model": "deepseek-unknown"}}
    yield from rows_of(name, "completions", completion, rows, unknown)

    def prefix(name, case, **extra):
        client = client_of(name, case)
        messages = [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "```python\n", "prefix": True},
        ]
        answer = client.chat.completions.create(model=MODELS[name], messages=messages, **extra)
        return events(answer) if extra.get("stream") else result(answer)

    yield from rows_of(name, "prefix", prefix, {"plain": {}, "stream": {"stream": True}})


# Anthropic's count_tokens and betas


def count(name, case, play=None, key=None, beta=False, model=None, **extra):
    client = client_of(name, case, play, key)
    messages = client.beta.messages if beta else client.messages
    asked = {"messages": [{"role": "user", "content": QUESTION}], **extra}
    return result(messages.count_tokens(model=model or MODELS[name], **asked))


def beta_message(name, case, play=None, key=None, model=None, content=QUESTION, **extra):
    client = client_of(name, case, play, key)
    messages = [{"role": "user", "content": content}]
    answer = client.beta.messages.create(
        model=model or MODELS[name], max_tokens=256, messages=messages, **extra
    )
    return events(answer, stopping(case)) if extra.get("stream") else result(answer)


def anthropic_rows(name):
    unknown = {"error-model": {"model": "claude-unknown-9"}}
    tools = {"tools": [ANTHROPIC_TOOL]}
    counts = {
        "plain": {}, "system": {"system": "Be brief: é", **tools}, "beta": {"beta": True}, "gzip": {"play": "gzip"},
        **TROUBLES,
    }
    yield from rows_of(name, "count", count, counts, unknown)
    cached = {"betas": ["context-1m-2025-08-07", "fine-grained-tool-streaming-2025-05-14"]}
    source = {"type": "base64", "media_type": "image/png"}
    small = [{"type": "image", "source": {**source, "data": base64.b64encode(PICTURE).decode()}}]
    large = [{"type": "image", "source": {**source, "data": base64.b64encode(noise(15 * MIB)).decode()}}]
    betas = {
        "plain": {}, "betas": cached, "stream": {"stream": True, **cached}, "tools": {**tools, **cached},
        "picture": {"content": small}, "large": {"content": large},
        **TROUBLES, **STREAM_TROUBLES,
    }
    yield from rows_of(name, "beta", beta_message, betas, unknown)


def cases():
    rows = []
    for name in SPEECH:
        if name in TARGETS:
            rows += openai_rows(name)
    if "deepseek_beta" in TARGETS:
        rows += deepseek_rows("deepseek_beta")
    if "anthropic" in TARGETS:
        rows += anthropic_rows("anthropic")
    return rows
