"""What two public calculators say that calls cost: litellm and genai-prices.

Reads a JSON list of cases from standard input, each with `provider`, `model`, `form`, `tier`, `at` and
`response`, the vendor's answer; writes a list with what each calculator says, in US dollars, or `null` and why.

Invariant: usage goes into the calculators as the vendors write it, by their own readers.
"""

import json
import os
import sys
from datetime import datetime
from decimal import Decimal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import genai_prices  # noqa: E402
from litellm import completion_cost  # noqa: E402
from litellm._internal_context import pinned_billing_time  # noqa: E402
from litellm.cost_calculator import cost_per_token  # noqa: E402
from litellm.llms.anthropic.chat.transformation import AnthropicConfig  # noqa: E402
from litellm.responses.utils import ResponseAPILoggingUtils  # noqa: E402
from litellm.types.utils import ModelResponse, Usage  # noqa: E402

FLAVORS = {
    "completions": "chat",
    "deepseek_completions": "chat",
    "responses": "responses",
    "embeddings": "embeddings",
    "images": "images",
    "messages": "default",
    "realtime": "realtime",
}


def litellm_usage(case):
    usage, form = case["response"]["usage"], case["form"]
    if form == "messages":
        return AnthropicConfig().calculate_usage(usage_object=usage, reasoning_content=None)
    if form in ("responses", "images", "transcription", "speech", "realtime"):
        return ResponseAPILoggingUtils._transform_response_api_usage_to_chat_usage(usage)
    return Usage(**usage)


def litellm_says(case):
    provider, model, form, tier = case["provider"], case["model"], case["form"], case["tier"]
    name = f"azure/{model}" if provider == "azure" else model
    if model.endswith("-instruct"):
        provider = "text-completion-openai"
    if form == "transcription" and case["response"]["usage"].get("type") == "duration":
        seconds = case["response"]["usage"]["seconds"]
        costs = cost_per_token(
            model=name, custom_llm_provider=provider, call_type="transcription", audio_transcription_file_duration=seconds
        )
        return sum(Decimal(repr(cost)) for cost in costs)
    usage = litellm_usage(case)
    if form in ("embeddings", "images", "transcription", "speech", "realtime"):
        costs = cost_per_token(model=name, custom_llm_provider=provider, usage_object=usage, service_tier=tier)
        return sum(Decimal(repr(cost)) for cost in costs)
    response = ModelResponse(model=model, usage=usage)
    cost = completion_cost(completion_response=response, model=name, custom_llm_provider=provider, service_tier=tier)
    return Decimal(repr(cost))


def genai_says(case):
    provider, form = case["provider"], case["form"]
    if form not in FLAVORS:
        raise LookupError("no reader for this form")
    flavor = FLAVORS[form]
    if provider == "deepseek" and form == "messages":
        raise LookupError("no reader for this form")
    answer = {"model": case["model"], **case["response"]}
    if form == "realtime":
        answer = {"model": case["model"], "response": case["response"]}
    extracted = genai_prices.extract_usage(answer, provider_id=provider, api_flavor=flavor)
    context = {"service_tier": case["tier"]} if case["tier"] else None
    price = genai_prices.calc_price(
        extracted.usage,
        case["model"],
        provider_id=provider,
        genai_request_timestamp=datetime.fromisoformat(case["at"]),
        price_context=context,
    )
    return price.total_price


def asked(says, case):
    try:
        return {"usd": format(Decimal(says(case)).normalize(), "f"), "why": None}
    except Exception as error:  # a calculator that cannot tell says so in many ways
        return {"usd": None, "why": f"{type(error).__name__}: {error}".split("\n")[0][:200]}


def litellm_says_then(case):
    with pinned_billing_time(datetime.fromisoformat(case["at"])):
        return litellm_says(case)


cases = json.load(sys.stdin)
answers = [{"name": case["name"], "litellm": asked(litellm_says_then, case), "genai": asked(genai_says, case)} for case in cases]
json.dump(answers, sys.stdout)
