"""Asks a server by OpenAI's Python client, and compares its responses with those of `rlaif generate`.

    python openai_client.py PLAN.json API KEY
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

plan_file, api, key = sys.argv[1:]
with open(plan_file) as file:
    plan = json.load(file)
client = openai.OpenAI(base_url=api, api_key=key, max_retries=0, timeout=120)

models = [model.id for model in client.models.list()]
assert models == ["llama"], models
assert client.models.retrieve("llama") == client.models.list().data[0]


def prompt(case):
    row = case["row"]
    if case["kind"] == "chat":
        return {"messages": row["messages"]}
    return {"prompt": row.get("prompt", row.get("prompt_ids"))}


def create(case, **more):
    of = client.chat.completions if case["kind"] == "chat" else client.completions
    body = {"return_token_ids": True}
    return of.create(model="llama", n=case["n"], extra_body=body, **prompt(case), **case["asked"], **more)


def log_probs(case, choice):
    if case["kind"] == "chat":
        return [token.logprob for token in choice.logprobs.content]
    return choice.logprobs.token_logprobs


def near(one, other):
    return len(one) == len(other) and all(abs(a - b) < 1e-6 for a, b in zip(one, other))


def check_whole(case):
    shown = {"logprobs": True, "top_logprobs": 3} if case["kind"] == "chat" else {"logprobs": 3}
    reply = create(case, **shown)
    assert [choice.index for choice in reply.choices] == list(range(case["n"]))
    for choice, row in zip(reply.choices, case["rows"]):
        text = choice.message.content if case["kind"] == "chat" else choice.text
        assert text == row["response"], (text, row)
        assert choice.token_ids == row["response_ids"], (choice.token_ids, row)
        assert near(log_probs(case, choice), row["log_probs"]), (choice.logprobs, row)
        want = "length" if row["finish_reason"] == "length" else "stop"
        assert choice.finish_reason == want, (choice.finish_reason, row)
    assert reply.usage.completion_tokens == sum(len(row["response_ids"]) for row in case["rows"])


def check_stream(case):
    texts, ids = [""] * case["n"], [[] for _ in range(case["n"])]
    ends = 0
    for chunk in create(case, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            piece = choice.delta.content if case["kind"] == "chat" else choice.text
            texts[choice.index] += piece or ""
            ids[choice.index] += getattr(choice, "token_ids", None) or []
            ends += choice.finish_reason is not None
        usage = chunk.usage
    assert ends == case["n"]
    assert texts == [row["response"] for row in case["rows"]], (texts, case["rows"])
    assert ids == [row["response_ids"] for row in case["rows"]]
    assert usage.completion_tokens == sum(map(len, ids))


# One after another, and then all at once: in a batch of three rows they wait for each other.
for case in plan:
    check_whole(case)
    check_stream(case)
with ThreadPoolExecutor(16) as pool:
    jobs = [pool.submit(check, case) for _ in range(4) for case in plan for check in (check_whole, check_stream)]
    for job in jobs:
        job.result()

# A client that leaves in the middle does not disturb the others.
for _ in range(5):
    stream = client.completions.create(model="llama", prompt=[5, 6, 7], max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
check_whole(plan[0])

for wrong in ({"suffix": "x"}, {"extra_body": {"guided_json": {}}}, {"prompt": [99999]}, {"max_tokens": 5000}):
    try:
        client.completions.create(**{"model": "llama", "prompt": "a", **wrong})
    except openai.BadRequestError as error:
        name = next(iter(wrong.get("extra_body", wrong)))
        assert name.replace("max_tokens", "prompt") == error.body["param"], error
    else:
        raise AssertionError(f"{wrong} is not refused")
for model, of_key, kind in (("other", key, openai.NotFoundError), ("llama", "sk-forged", openai.AuthenticationError)):
    try:
        openai.OpenAI(base_url=api, api_key=of_key, max_retries=0).completions.create(model=model, prompt="a")
    except kind:
        pass
    else:
        raise AssertionError(f"{model} with {of_key} is not refused")
print("all well")
