#!/usr/bin/env bash
# lm-evaluation-harness against a running server, beside `recast eval` on the same items.
#
#   pip install 'lm_eval[api]' transformers
#   recast serve m=MODEL --quantize f32 --port 8080 &
#   tests/clients/lm_eval.sh http://127.0.0.1:8080 MODEL TOKENIZER_FOLDER DATA_FOLDER [ITEMS]
#
# Both take the first ITEMS of each file. The harness tokenizes with the folder's tokenizer.json.
set -euo pipefail
address=$1 model=$2 tokenizer=$3 data=$(realpath "$4") items=${5:-200}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tasks" "$work/data"
for file in lambada_openai arc_easy_test; do head -n "$items" "$data/$file.jsonl" > "$work/data/$file.jsonl"; done
for task in lambada_local arc_easy_local; do sed "s#%DATA%#$work/data#" "$here/lm_eval/$task.yaml" > "$work/tasks/$task.yaml"; done
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$work/cache" "${LM_EVAL:-lm_eval}" --model local-completions --include_path "$work/tasks" \
  --tasks lambada_local,arc_easy_local --batch_size 4 \
  --model_args "model=m,base_url=$address/v1/completions,tokenizer=$tokenizer,tokenizer_backend=huggingface,tokenized_requests=True,num_concurrent=4,max_length=2048"
"${RECAST:-recast}" eval "$model" --tasks lambada,arc_easy --data "$work/data"
