"""Half an hour of bad company: clients that stall, leave, send rubbish, beside those that ask and read.

    python tests/clients/soak.py --recast target/release/recast [--minutes 30] [--bodies 10000]
        [--clients 24] [--out soak.json] -- MODEL... [arguments of `recast serve`]

Starts the server itself and needs nothing beside Python. Fails where the server answers with an error of its
own (5xx other than 503), where memory grows, where something is left when everybody has gone, where
anything but running requests is served after SIGTERM, or where one of those is cut short. Prints latencies.
"""

import argparse
import http.client
import json
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--recast", required=True)
parser.add_argument("--minutes", type=float, default=30)
parser.add_argument("--bodies", type=int, default=10_000)
parser.add_argument("--clients", type=int, default=24, help="that ask and read; half as many misbehave")
parser.add_argument("--growth", type=float, default=0.02, help="share by which memory may grow")
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("serve", nargs="+", help="what `recast serve` is given")
args = parser.parse_args()

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen([args.recast, "serve", *args.serve, "--port", str(port)], stderr=subprocess.PIPE, text=True)
log = []
threading.Thread(target=lambda: log.extend(server.stderr), daemon=True).start()

WORDS = "the old river ran past seven houses and nobody who lived there could say why it had turned".split()
stop = threading.Event()
lock = threading.Lock()
first, between, whole, faults = [], [], [], []
counts = {}


def count(what):
    with lock:
        counts[what] = counts.get(what, 0) + 1


def fault(words):
    print("fault:", words[:300], flush=True)
    with lock:
        faults.append(words)


def ask(path, body=None, timeout=120):
    """A response that has begun; the caller reads and closes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request("GET" if body is None else "POST", path, data, {"content-type": "application/json"})
    return connection, connection.getresponse()


def get(path):
    connection, response = ask(path)
    try:
        return response.status, response.read().decode()
    finally:
        connection.close()


def question(chance, tokens):
    words = [chance.choice(WORDS) for _ in range(chance.choice([4, 20, 60, 200, 600]))]
    return {"model": chance.choice(models), "prompt": " ".join(words), "max_tokens": tokens, "stream": True,
            "temperature": chance.choice([0, 0.8]), "seed": chance.randrange(1 << 30)}


def stream(body, meanwhile=None):
    """Reads a stream to its end and notes its times. True where it ended as it should."""
    start = last = time.perf_counter()
    connection, response = ask("/v1/completions", body)
    try:
        if response.status in (429, 503):
            response.read()
            count("told to come back later")
            return False
        if response.status != 200:
            fault(f"{response.status} for {body}: {response.read()[:200]}")
            return False
        if meanwhile:
            meanwhile()
        begun = False
        for line in response:
            if line.startswith(b"data: [DONE]"):
                with lock:
                    whole.append(time.perf_counter() - start)
                return True
            if line.startswith(b"data: "):
                now = time.perf_counter()
                with lock:
                    (between if begun else first).append(now - last)
                begun, last = True, now
        fault(f"a stream ended before [DONE]: {body}")
        return False
    finally:
        connection.close()


def reader(seed):
    chance = random.Random(seed)
    while not stop.is_set():
        try:
            if stream(question(chance, chance.choice([8, 32, 96]))):
                count("answers read to the end")
            else:
                time.sleep(1)
        except OSError as error:
            fault(f"a reader: {error}")


def leaver(seed):
    """Goes away: before the answer, within it, or within its own request."""
    chance = random.Random(seed)
    while not stop.is_set():
        try:
            body = json.dumps(question(chance, 400)).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                whole_request = head + body
                cut = chance.choice([len(whole_request)] * 3 + [chance.randrange(1, len(whole_request))])
                connection.sendall(whole_request[:cut])
                if cut == len(whole_request):
                    for _ in range(chance.randrange(6)):
                        if not connection.recv(512):
                            break
                time.sleep(chance.random())
            count("clients that left")
        except OSError as error:
            count(f"leavers cut off ({type(error).__name__})")


def staller(seed):
    """Asks for much and reads nothing, or never ends its request."""
    chance = random.Random(seed)
    while not stop.is_set():
        try:
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", port))
                body = json.dumps(question(chance, 600)).encode()
                shown = len(body) + chance.choice([0, 0, 100])
                connection.sendall(f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {shown}\r\n\r\n".encode() + body)
                stop.wait(chance.uniform(5, 60))
            count("clients that stalled")
        except OSError as error:
            count(f"stallers cut off ({type(error).__name__})")


PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/responses"]


def rubbish(chance):
    """A body near what is expected, damaged in one of several ways."""
    body = {"model": chance.choice(models), "max_tokens": 2, "prompt": "Once upon", "temperature": 0.5, "stop": ["x"], "n": 1}
    path = chance.choice(PATHS)
    if path == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": "Hi"}]
        del body["prompt"]
    elif path == "/v1/responses":
        body = {"model": body["model"], "input": "Hi", "max_output_tokens": 2}
    odd = [None, -1, 0, 1e308, 1 << 70, "", "\0", [], {}, [[]], True, "é" * 300, {"a": [1]}, [None], -0.0, "\ud83d"]
    way = chance.randrange(6)
    if way == 0:
        body[chance.choice(list(body))] = chance.choice(odd)
    elif way == 1:
        body[chance.choice(["logit_bias", "seed", "top_p", "logprobs", "response_format", "tools", "unknown", "top_k"])] = chance.choice(odd)
    data = bytearray(json.dumps(body).encode())
    if way == 2:
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif way == 3:
        del data[chance.randrange(len(data)):]
    elif way == 4:
        at = chance.randrange(len(data))
        data[at:at] = data[: chance.randrange(len(data))]
    elif way == 5:
        data = bytearray(b"[" * chance.choice([10, 1000, 100_000])) if chance.random() < 0.3 else bytearray(chance.randbytes(chance.randrange(2000)))
    return path, bytes(data)


def sender(seed, bodies):
    chance = random.Random(seed)
    pause = args.minutes * 60 * 0.9 / max(bodies, 1)
    for _ in range(bodies):
        if stop.is_set():
            return
        path, data = rubbish(chance)
        start = time.perf_counter()
        try:
            connection, response = ask(path, data)
            response.read()
            connection.close()
            count(f"rubbish answered with {response.status}")
            if response.status >= 500 and response.status != 503:
                fault(f"{response.status} for {data[:300]!r}")
        except (OSError, http.client.HTTPException) as error:
            fault(f"rubbish without an answer: {type(error).__name__} {error}; {data[:200]!r}")
        stop.wait(max(0.0, pause - (time.perf_counter() - start)))


def resident():
    for line in pathlib.Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def allocated():
    """MiB in use within it, by the server's own count."""
    for line in get("/metrics")[1].splitlines():
        if line.startswith("recast_allocated_bytes"):
            return float(line.split()[-1]) / (1 << 20)
    return 0.0


def gone():
    server.kill()
    sys.exit("the server did not begin:\n" + "".join(log[-20:]))


for _ in range(600):
    try:
        if get("/ready")[0] == 200:
            break
    except OSError:
        if server.poll() is not None:
            gone()
    time.sleep(0.2)
else:
    gone()
models = [m["id"] for m in json.loads(get("/v1/models")[1])["data"]]
print("serving", ", ".join(models), flush=True)

threads = [threading.Thread(target=reader, args=(s,), daemon=True) for s in range(args.clients)]
threads += [threading.Thread(target=leaver, args=(1000 + s,), daemon=True) for s in range(max(1, args.clients // 4))]
threads += [threading.Thread(target=staller, args=(2000 + s,), daemon=True) for s in range(max(1, args.clients // 4))]
threads += [threading.Thread(target=sender, args=(3000 + s, args.bodies // 4), daemon=True) for s in range(4)]
for thread in threads:
    thread.start()
memory, in_use = [], []
end = time.monotonic() + args.minutes * 60
while (left := end - time.monotonic()) > 0 and server.poll() is None:
    time.sleep(min(5.0, max(left, 0.0)))
    memory.append(resident() if server.poll() is None else 0)
    if len(memory) % 12 == 0:
        in_use.append(allocated())
        print(f"{len(memory) // 12:3} min  {memory[-1]:7.0f} MiB, in use {in_use[-1]:7.0f}  {len(whole)} answers, {len(faults)} faults", flush=True)
stop.set()
if server.poll() is not None:
    sys.exit("the server ended:\n" + "".join(log[-30:]))
for thread in threads:
    thread.join(timeout=150)

# Nobody is left: neither is anything of theirs.
busy = ""
for _ in range(100):
    busy = [l for l in get("/metrics")[1].splitlines()
            if l.startswith(("recast_sequences_running", "recast_sequences_waiting", "recast_state_bytes")) and float(l.split()[-1]) != 0]
    if not busy:
        break
    time.sleep(0.2)
if busy:
    fault(f"left after everybody had gone: {busy}")

# SIGTERM while answers are being written.
ended, writing = [], threading.Semaphore(0)
last = [threading.Thread(target=lambda: ended.append(stream(question(random.Random(), 200), writing.release))) for _ in range(8)]
for thread in last:
    thread.start()
for _ in last:
    writing.acquire(timeout=120)
server.send_signal(signal.SIGTERM)
time.sleep(0.5)
try:
    connection, response = ask("/v1/completions", {"model": models[0], "prompt": "x", "max_tokens": 1})
    refused = str(response.status)
    if response.status != 503:
        fault(f"answered {response.status} after SIGTERM")
except OSError as error:
    refused = type(error).__name__
for thread in last:
    thread.join(timeout=300)
code = server.wait(timeout=300)
if code != 0 or ended.count(True) != len(last):
    fault(f"after SIGTERM: exit code {code}, {ended.count(True)} of {len(last)} running answers whole")
if any("panicked" in line for line in log):
    fault("a panic: " + next(line for line in log if "panicked" in line))


def percentiles(times):
    if len(times) < 2:
        return {}
    cuts = statistics.quantiles(times, n=100)
    return {f"p{p}": round(1000 * cuts[p - 1], 1) for p in (50, 90, 99)} | {"most": round(1000 * max(times), 1), "count": len(times)}


# States of what runs come and go; what nobody gives back stays, and raises the floor.
third = len(memory) // 3
floor = lambda part: statistics.quantiles(part, n=10)[0] if len(part) > 1 else 0.0
early, late = floor(memory[third:2 * third]), floor(memory[2 * third:])
if late > early * (1 + args.growth):
    fault(f"the floor of memory rose from {early:.0f} MiB (second third) to {late:.0f} MiB (last third)")
result = {
    "minutes": args.minutes, "milliseconds": {"first token": percentiles(first), "between tokens": percentiles(between), "whole answer": percentiles(whole)},
    "memory_mib": {"floor of the second third": round(early), "floor of the last third": round(late), "most": round(max(memory, default=0)), "each 5 s": [round(m) for m in memory], "in use, each minute": [round(m) for m in in_use]},
    "counts": dict(sorted(counts.items())), "after SIGTERM": {"new request": refused, "running answers whole": ended.count(True), "exit code": code},
    "faults": faults[:50], "fault_count": len(faults),
}
if args.out:
    args.out.write_text(json.dumps(result, indent=1) + "\n")
del result["memory_mib"]["each 5 s"]
print(json.dumps(result, indent=1))
sys.exit(1 if faults else 0)
