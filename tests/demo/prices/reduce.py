"""Reduces LiteLLM's table of prices to what Keyhaven can sell.

    python3 reduce.py model_prices_and_context_window_backup.json > litellm-VERSION.json

Invariant: what is kept is as it was; nothing is computed.
"""

import json
import sys

PROVIDERS = {"openai", "text-completion-openai", "azure", "anthropic", "deepseek"}
MODES = {
    "chat", "completion", "responses", "embedding",
    "image_generation", "audio_transcription", "audio_speech", "realtime",
}
WORDS = ("cost", "price", "pricing", "multiplier", "provider_specific_entry")
BOUNDS = ("litellm_provider", "max_input_tokens", "max_output_tokens", "mode")


def is_sold(name, entry):
    own = name.split("/", 1)[1] if name.startswith(("openai/", "azure/", "anthropic/", "deepseek/")) else name
    return (
        entry.get("litellm_provider") in PROVIDERS
        and entry.get("mode") in MODES
        and "/" not in own
        and not own.startswith("ft:")
    )


# Numbers stay the text that they were.
table = json.load(open(sys.argv[1], encoding="utf-8"), parse_float=lambda text: f"\x00{text}\x00")
lines = []
for name, entry in sorted(table.items()):
    if is_sold(name, entry):
        kept = {key: value for key, value in sorted(entry.items()) if key in BOUNDS or any(word in key for word in WORDS)}
        text = json.dumps(kept, separators=(",", ":")).replace('"\\u0000', "").replace('\\u0000"', "")
        lines.append(f"{json.dumps(name)}:{text}")
print("{\n" + ",\n".join(lines) + "\n}")
