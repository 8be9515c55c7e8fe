"""llama.cpp (llama-cpp-python) on one sequence, one token at a time: what `recast bench decode` times.

Prints the same JSON: for each context, tokens/s of reading up to it and of 64 steps after it.
"""

import argparse
import json
import statistics
import time

import llama_cpp as llama

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--contexts", default="512,1024")
parser.add_argument("--steps", type=int, default=64)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
contexts = [int(x) for x in args.contexts.split(",")]

quiet = llama.llama_log_callback(lambda *_: None)  # kept: the library calls it later
llama.llama_log_set(quiet, None)
llama.llama_backend_init()
options = llama.llama_model_default_params()
model = llama.llama_model_load_from_file(args.model.encode(), options)
if not model:
    raise SystemExit(f"{args.model}: llama.cpp cannot load it")
options = llama.llama_context_default_params()
options.n_ctx = max(contexts) + args.steps + 8
options.n_batch = options.n_ubatch = 512
options.n_threads = options.n_threads_batch = args.threads
context = llama.llama_init_from_model(model, options)
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))


def decode(tokens):
    array = (llama.llama_token * len(tokens))(*tokens)
    if llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))) != 0:
        raise SystemExit("llama_decode failed")
    llama.llama_get_logits_ith(context, -1)


rows, position = [], 0
token = lambda i: (i * 7919 + 13) % min(vocabulary, 49152)
decode([token(0)])
llama.llama_memory_clear(llama.llama_get_memory(context), True)
for length in contexts:
    start, first = time.perf_counter(), position
    while position < length:
        count = min(512, length - position)
        decode([token(position + i) for i in range(count)])
        position += count
    read = (position - first) / (time.perf_counter() - start)
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        decode([token(position)])
        times.append(time.perf_counter() - start)
        position += 1
    rows.append({
        "context": length,
        "tokens_per_second": 1 / statistics.median(times),
        "prefill_tokens_per_second": read,
    })
print(json.dumps({"model": args.model, "decode": rows}))
