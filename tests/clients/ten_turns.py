"""Ten turns of a chat against a running server: time to the first token of each, and what the prefixes saved.

    recast serve m=MODEL --port 8080 &
    python tests/clients/ten_turns.py http://127.0.0.1:8080 [--chats 8]

Prints a line a turn: the median over the chats of the prompt's tokens and of the milliseconds to the first
token, and the tenth turn's time in multiples of the first's. Fails when that is above 1.5, or when the
server's counter of prefix hits did not move. Requests are plain HTTP: what a client's library spends on a long
list of messages (openai's 3 ms on nineteen) is not the server's.
"""

import argparse
import http.client
import json
import statistics
import time
import urllib.parse
import urllib.request

QUESTION = (
    "Question {turn} of chat {chat}: a ship with {cargo} crates of oranges sails from Lisbon to Dublin, and every third crate "
    "is spoiled by sea water on the way. The captain throws those overboard and sells the rest in the harbour for two "
    "coins each, then buys rope, tar and canvas with half of what was earned. Say how many coins are left for the crew, "
    "and describe in a few words how the harbour looks on the morning of the sale."
)


def hits(address, key):
    """The server's counter of prompts that began at a kept prefix."""
    request = urllib.request.Request(f"{address}/metrics", headers={"Authorization": f"Bearer {key}"})
    lines = urllib.request.urlopen(request).read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("recast_prefix_hits"))


def answer(connection, key, model, messages, tokens):
    """Text, tokens of the prompt, and milliseconds to the first piece of text."""
    start, text, first, length = time.perf_counter(), "", None, None
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json", "authorization": f"Bearer {key}"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        part = json.loads(line[6:])
        length = (part.get("usage") or {}).get("prompt_tokens", length)
        piece = part["choices"][0]["delta"].get("content") if part["choices"] else None
        if piece:
            first = first or 1000 * (time.perf_counter() - start)
            text += piece
    return text, length, first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--key", default="none")
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=48, help="length of an answer")
    arguments = parser.parse_args()
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(arguments.address).netloc)
    listed = urllib.request.Request(f"{arguments.address}/v1/models", headers={"Authorization": f"Bearer {arguments.key}"})
    models = [model["id"] for model in json.load(urllib.request.urlopen(listed))["data"]]
    before = hits(arguments.address, arguments.key)
    for model in models:
        waits = [[] for _ in range(arguments.turns)]
        lengths = [[] for _ in range(arguments.turns)]
        for chat in range(arguments.chats):
            messages = []
            for turn in range(arguments.turns):
                cargo = 100 + 7 * turn + 90 * chat
                messages.append({"role": "user", "content": QUESTION.format(turn=turn + 1, chat=chat + 1, cargo=cargo)})
                text, length, first = answer(connection, arguments.key, model, messages, arguments.tokens)
                lengths[turn].append(length)
                waits[turn].append(first)
                messages.append({"role": "assistant", "content": text})
        print(model)
        for turn in range(arguments.turns):
            print(f"  turn {turn + 1:>2}: {statistics.median(lengths[turn]):>6.0f} tokens, first after {statistics.median(waits[turn]):>7.1f} ms")
        times = statistics.median(waits[-1]) / statistics.median(waits[0])
        print(f"  the last turn waits {times:.2f} times as long as the first")
        assert times <= 1.5, "the last turn reads more than its own text"
    gained = hits(arguments.address, arguments.key) - before
    print(f"prefix hits: {gained:.0f}")
    assert gained > 0


if __name__ == "__main__":
    main()
