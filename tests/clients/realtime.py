"""Realtime sessions by the SDK's own clients, both of them.

Invariant: as of the suite; what is compared is every event, and how the connection ended. A target
with sessions is one that names a base URL with TLS, which Node's SDK needs.
"""

import asyncio
import base64

from asking import QUESTION, TARGETS, TIMEOUT_SECONDS
from asking import client_of, digest, dump

from websockets.exceptions import ConnectionClosed, InvalidStatus

MODEL = "gpt-realtime"
MIB = 1 << 20
UPDATE = {"type": "realtime", "output_modalities": ["text"], "instructions": "Be brief: é"}
ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]}


def ended(error):
    """How a connection ended, or was never made."""
    if isinstance(error, InvalidStatus):
        response = error.response
        return {"refused": response.status_code, "retry_after": "retry-after" in response.headers}
    if isinstance(error, ConnectionClosed):
        closed = error.rcvd
        return {"code": closed.code, "reason": closed.reason} if closed else {"broken": True}
    if isinstance(error, (TypeError, AttributeError, KeyError, NameError, AssertionError)):
        raise error
    return {"raised": type(error).__name__}


def summary(got, end):
    dumped = [dump(event) for event in got]
    last = str(dumped[-1]) if dumped else None
    return {
        "kinds": [event["type"] for event in dumped],
        "last": last if last is None or len(last) < 1500 else digest(last),
        "sha256": digest(dumped),
        "ended": end,
    }


def turns(talk):
    """What is sent, and which event to wait for after it."""
    if talk == "audio":
        piece = base64.b64encode(bytes(range(256)) * 128).decode()
        for _ in range(40):
            yield {"type": "input_audio_buffer.append", "audio": piece}, None
        yield {"type": "input_audio_buffer.commit"}, "conversation.item.input_audio_transcription.completed"
        asked = {"output_modalities": ["audio"]}
        yield {"type": "response.create", "response": asked}, "response.done"
        return
    if talk == "large":
        sound = base64.b64encode(bytes(range(251)) * (12 * MIB // 251)).decode()
        yield {"type": "input_audio_buffer.append", "audio": sound}, None
        yield {"type": "input_audio_buffer.commit"}, "conversation.item.input_audio_transcription.completed"
        return
    if talk == "wrong":
        yield {"type": "kit.nonsense"}, "error"
        return
    yield {"type": "session.update", "session": UPDATE}, "session.updated"
    yield {"type": "conversation.item.create", "item": ITEM}, "conversation.item.done"
    last = "error" if talk == "error" else "rate_limits.updated"
    yield {"type": "response.create"}, last
    if talk == "twice":
        yield {"type": "conversation.item.create", "item": ITEM}, "conversation.item.done"
        yield {"type": "response.create"}, last


async def speak(name, case, play=None, key=None, talk="text", model=MODEL):
    client = client_of(name, case, play, key, asynchronous=True)
    got = []

    async def exchange():
        async with client.realtime.connect(model=model) as connection:
            got.append(await connection.recv())
            for event, awaited in turns(talk):
                await connection.send(event)
                while awaited:
                    got.append(await connection.recv())
                    if got[-1].type == awaited:
                        break
            if talk == "until-closed":
                while True:
                    got.append(await connection.recv())

    try:
        await asyncio.wait_for(exchange(), TIMEOUT_SECONDS)
    except Exception as error:  # noqa: BLE001: websockets raises classes of its own
        return summary(got, ended(error))
    return summary(got, {"ours": True})


def speak_in_blocking_calls(name, case, play=None, key=None, talk="text", model=MODEL):
    client = client_of(name, case, play, key)
    got = []
    try:
        with client.realtime.connect(model=model) as connection:
            got.append(connection.recv())
            for event, awaited in turns(talk):
                connection.send(event)
                while awaited:
                    got.append(connection.recv())
                    if got[-1].type == awaited:
                        break
    except Exception as error:  # noqa: BLE001
        return summary(got, ended(error))
    return summary(got, {"ours": True})


ROWS = {
    "text": {},
    "twice": {"talk": "twice"},
    "audio": {"talk": "audio"},
    "large": {"talk": "large"},
    "pings": {"play": "pings"},
    "fragments": {"play": "fragments"},
    "slow": {"play": "chunks-12-15"},
    "big": {"play": "big-3000000"},
    "wrong-event": {"talk": "wrong"},
    "error-in-stream": {"play": "error-in-stream", "talk": "error"},
    "close-4001": {"play": "close-4001", "talk": "until-closed"},
    "error-key": {"key": "wrong-key-of-nobody"},
    "error-model": {"model": "gpt-unknown"},
    "error-429": {"play": "status-429"},
    "error-503": {"play": "status-503"},
    "cut": {"play": "cut-body"},
    "half-close": {"play": "half-close-body"},
}


def cases():
    for name in ("openai", "azure", "azure_v1"):
        if "secure_base_url" not in TARGETS.get(name, {}):
            continue
        for word, arguments in ROWS.items():
            if word == "large" and name != "openai":
                continue
            case = f"{name}.realtime.{word}"
            yield case, lambda name=name, case=case, arguments=arguments: asyncio.run(speak(name, case, **arguments))
        for word in ("text", "audio", "error-503"):
            case = f"{name}.realtime-blocking.{word}"
            arguments = ROWS[word]
            yield case, lambda name=name, case=case, arguments=arguments: speak_in_blocking_calls(
                name, case, **arguments
            )
