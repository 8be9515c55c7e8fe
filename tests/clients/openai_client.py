"""The `openai` package against a running server: chat, stream, completions, log-probabilities, tools, responses.

    pip install openai
    recast serve MODEL --port 8080 &
    python tests/clients/openai_client.py http://127.0.0.1:8080/v1 [KEY]

Exits with an error at the first thing that is not as the package's users expect it.
"""

import json
import sys

from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI

address, key = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "none"
client = OpenAI(base_url=address, api_key=key, max_retries=0)

model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model
messages = [{"role": "user", "content": "What is the capital of France?"}]
same = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0, "seed": 1}

chat = client.chat.completions.create(**same, logprobs=True, top_logprobs=3)
text = chat.choices[0].message.content
assert text and chat.usage.completion_tokens <= 24 and chat.choices[0].finish_reason in ("stop", "length")
tokens = chat.choices[0].logprobs.content
assert len(tokens) == chat.usage.completion_tokens and all(t.logprob <= 0 and len(t.top_logprobs) == 3 for t in tokens)
print("chat:", json.dumps(text))

streamed, usage = "", None
for chunk in client.chat.completions.create(**same, stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    streamed += "".join(choice.delta.content or "" for choice in chunk.choices)
assert streamed == text, (streamed, text)
assert usage.completion_tokens == chat.usage.completion_tokens
print("stream: equal")

done = client.completions.create(model=model, prompt=["One, two,", "A, B,"], max_tokens=8, temperature=0, logprobs=2, n=1)
assert len(done.choices) == 2 and [c.index for c in done.choices] == [0, 1]
lists = done.choices[0].logprobs
assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset)
assert "".join(lists.tokens) == done.choices[0].text
print("completions:", json.dumps([c.text for c in done.choices]))
scored = client.completions.create(model=model, prompt="The sky is blue", max_tokens=0, echo=True, logprobs=1)
assert scored.choices[0].text == "The sky is blue" and scored.choices[0].logprobs.token_logprobs[0] is None
print("scores:", [round(x, 3) for x in scored.choices[0].logprobs.token_logprobs[1:]])

tools = [{
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}]
asked = [{"role": "user", "content": "What is the weather in Paris?"}]
forced = {"type": "function", "function": {"name": "weather"}}
call = client.chat.completions.create(model=model, messages=asked, tools=tools, tool_choice=forced, max_tokens=80, temperature=0)
choice = call.choices[0]
assert choice.finish_reason == "tool_calls", choice
arguments = json.loads(choice.message.tool_calls[0].function.arguments)
assert choice.message.tool_calls[0].function.name == "weather" and arguments["unit"] in "CF"
print("tools:", arguments)
answer = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "12 degrees, rain"}
turn = choice.message.model_dump(exclude_none=True)
after = client.chat.completions.create(model=model, messages=[*asked, turn, answer], tools=tools, max_tokens=24)
assert after.choices[0].message.role == "assistant"

schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"], "additionalProperties": False}}}
formed = client.chat.completions.create(**{**same, "max_tokens": 60}, response_format=schema)
assert list(json.loads(formed.choices[0].message.content)) == ["name"]

first = client.responses.create(model=model, input="My name is Ada. Say hello.", max_output_tokens=16)
second = client.responses.create(model=model, input="What is my name?", previous_response_id=first.id, max_output_tokens=16)
assert second.previous_response_id == first.id and second.usage.input_tokens > first.usage.input_tokens
with client.responses.stream(model=model, input="Count to three.", max_output_tokens=16) as stream:
    kinds = [event.type for event in stream]
assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
# The package takes a final response from `response.completed` alone: an answer that is sure to end.
count = {"type": "object", "properties": {"count": {"enum": [3]}}, "required": ["count"], "additionalProperties": False}
ends = {"text": {"format": {"type": "json_schema", "name": "count", "schema": count}}}
with client.responses.stream(model=model, input="Count to three.", max_output_tokens=64, **ends) as stream:
    assert json.loads(stream.get_final_response().output_text) == {"count": 3}
print("responses:", json.dumps(second.output_text))


def refused(error, call):
    try:
        call()
    except error as e:
        print("refused:", e.status_code, e.body["message"][:90])
    else:
        raise SystemExit(f"expected {error.__name__}")


refused(NotFoundError, lambda: client.chat.completions.create(**{**same, "model": "nobody"}))
refused(BadRequestError, lambda: client.chat.completions.create(**same, extra_body={"temprature": 1}))
if key != "none":
    refused(AuthenticationError, lambda: OpenAI(base_url=address, api_key="wrong", max_retries=0).models.list())
print("all as expected")
