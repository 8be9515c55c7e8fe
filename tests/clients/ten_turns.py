"""Ten turns of a chat against a running server: time to the first token of each, and what the prefixes saved.

    pip install openai
    recast serve m=MODEL --port 8080 &
    python tests/clients/ten_turns.py http://127.0.0.1:8080 [--chats 5]

Prints a line a turn: the median over the chats of the prompt's tokens and of the milliseconds to the first
token, and the tenth turn's time in multiples of the first's. Fails when that is above 1.5, or when the
server's counter of prefix hits did not move.
"""

import argparse
import statistics
import time
import urllib.request

from openai import OpenAI

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--key", default="none")
    parser.add_argument("--chats", type=int, default=5)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=48, help="length of an answer")
    arguments = parser.parse_args()
    client = OpenAI(base_url=f"{arguments.address}/v1", api_key=arguments.key, max_retries=0)
    before = hits(arguments.address, arguments.key)
    for model in [model.id for model in client.models.list().data]:
        waits = [[] for _ in range(arguments.turns)]
        lengths = [[] for _ in range(arguments.turns)]
        for chat in range(arguments.chats):
            messages = []
            for turn in range(arguments.turns):
                cargo = 100 + 7 * turn + 90 * chat
                messages.append({"role": "user", "content": QUESTION.format(turn=turn + 1, chat=chat + 1, cargo=cargo)})
                start, text = time.perf_counter(), ""
                stream = client.chat.completions.create(
                    model=model, messages=messages, max_tokens=arguments.tokens, temperature=0, stream=True,
                    stream_options={"include_usage": True},
                )
                for part in stream:
                    if part.usage:
                        lengths[turn].append(part.usage.prompt_tokens)
                    if part.choices and part.choices[0].delta.content:
                        if not text:
                            waits[turn].append(1000 * (time.perf_counter() - start))
                        text += part.choices[0].delta.content
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
