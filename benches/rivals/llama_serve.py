"""llama.cpp (llama-cpp-python) on many sequences at a time: what `recast bench serve` times.

Prints the same JSON: for each context and batch, tokens/s of all sequences together, each of which has read
a text of that length and writes so many tokens, one of every sequence in a step. The text is read once and
copied to every sequence, which keeps a cache of its own (f16, llama.cpp's default).
"""

import argparse
import json
import time

import llama_cpp as llama

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--contexts", default="512,2048")
parser.add_argument("--batches", default="1,4,16,64")
parser.add_argument("--tokens", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--state-gib", type=float, default=12.0)
args = parser.parse_args()

quiet = llama.llama_log_callback(lambda *_: None)  # kept: the library calls it later
llama.llama_log_set(quiet, None)
llama.llama_backend_init()
options = llama.llama_model_default_params()
model = llama.llama_model_load_from_file(args.model.encode(), options)
if not model:
    raise SystemExit(f"{args.model}: llama.cpp cannot load it")
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
width = llama.llama_model_n_embd(model) // llama.llama_model_n_head(model) * llama.llama_model_n_head_kv(model)
per_token = 2 * 2 * width * llama.llama_model_n_layer(model)


def token(place):
    return (place * 7919 + 13) % min(vocabulary, 49152)


def decode(context, entries):
    """entries: (token, position, sequence, wants logits)."""
    batch = llama.llama_batch_init(len(entries), 0, 1)
    for i, (tok, position, sequence, logits) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.logits[i] = tok, position, logits
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
    batch.n_tokens = len(entries)
    if llama.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")
    llama.llama_get_logits_ith(context, -1)
    llama.llama_batch_free(batch)


rows = []
for length in map(int, args.contexts.split(",")):
    for count in map(int, args.batches.split(",")):
        row = {"context": length, "batch": count, "tokens_per_second": None,
               "state_bytes": count * per_token * (length + args.tokens),
               "fit_in_16_gib": (16 << 30) // (per_token * (length + args.tokens))}
        rows.append(row)
        if row["state_bytes"] > args.state_gib * (1 << 30):
            continue
        options = llama.llama_context_default_params()
        options.n_seq_max = count
        options.n_ctx = count * -(-(length + args.tokens + 8) // 256) * 256
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = args.threads
        options.kv_unified = False
        context = llama.llama_init_from_model(model, options)
        if not context:
            raise SystemExit(f"llama.cpp makes no context for {count} sequences of {length} tokens")
        for start in range(0, length, 512):
            end = min(start + 512, length)
            decode(context, [(token(i), i, 0, i == length - 1) for i in range(start, end)])
        memory = llama.llama_get_memory(context)
        for sequence in range(1, count):
            llama.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        # The first step carries out the copies.
        for step in range(args.tokens):
            if step == 1:
                begin = time.perf_counter()
            decode(context, [(token(step + s), length + step, s, True) for s in range(count)])
        row["tokens_per_second"] = count * (args.tokens - 1) / (time.perf_counter() - begin)
        llama.llama_free(context)
print(json.dumps({"model": args.model, "serve": rows}))
