#!/usr/bin/env bash
# What docs/gpu.md wants seen on a device, the most telling first. Each part has a time limit and a log of its
# own; what fails or runs out of time is named at the end, and the rest goes on.
#
#   benches/gpu.sh RECAST TEACHER.gguf TEXT.jsonl.zst OUT [EVALUATION_DATA]
#
# DEVICE (cuda), PYTHON (python3; without torch there the rival is left out), BATCH (32), TOKENS of each stage
# (2e7), and TESTS, a folder with the test programs fused, elementwise and recurrences as
# `cargo test --features cuda --no-run` leaves them, may be set. No Rust is needed on the machine itself.
set -uo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
recast=$1 teacher=$2 text=$3 out=$4 data=${5:-}
device=${DEVICE:-cuda} python=${PYTHON:-python3} batch=${BATCH:-32} tokens=${TOKENS:-2e7}
here=$(cd "$(dirname "$0")" && pwd)
recipe=$here/../recipes/smollm2-rwkv7.toml
mkdir -p "$out"
missed=() running=
# Stopped itself, it leaves nothing behind.
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; exit 130' INT TERM

part() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 &
  running=$!
  wait "$running"
  local code=$?
  printf '%-22s exit %3d, %4d s\n' "$name" "$code" $((SECONDS - began))
  [ "$code" = 0 ] || missed+=("$name")
}

if [ -n "${TESTS:-}" ]; then
  for test in fused elementwise recurrences; do
    RECAST_TEST_DEVICE=$device part "test-$test" 240 "$TESTS/$test" --test-threads 1
  done
fi
part ops 180 "$recast" bench ops --device "$device" --precision bf16
if "$python" -c 'import torch' 2>/dev/null; then
  fla=()
  [ "$device" = cuda ] && "$python" -c 'import fla' 2>/dev/null && fla=(--fla)
  for what in step align distil; do
    part "against-torch-$what" 240 "$python" "$here/compare.py" --recast "$recast" --teacher "$teacher" --python "$python" \
      --only "$what" --device "$device" --precision bf16 --batch "$batch" --rounds 1 "${fla[@]}"
  done
else
  part step 120 "$recast" bench step --device "$device" --precision bf16 --batch "$batch"
  for what in align distil; do
    part "$what" 120 "$recast" bench step --device "$device" --precision bf16 --batch "$batch" --recipe "$recipe" \
      --stage "$what" --set "teacher.path=$teacher"
  done
fi
part convert 3600 "$recast" convert "$recipe" --device "$device" --precision bf16 --out "$out/run" --no-progress \
  --set "teacher.path=$teacher" --set "text.train=[\"$text\"]" --set "stages.align.batch=$batch" \
  --set "stages.distil.batch=$batch" --set "stages.align.tokens=$tokens" --set "stages.distil.tokens=$tokens"
if [ -n "$data" ] && [ -e "$out/run/model" ]; then
  part eval 900 "$recast" eval "$out/run/model" --against "$teacher" --device "$device" --precision bf16 --data "$data" \
    --tasks lambada,arc_easy,arc_challenge,hellaswag,piqa,winogrande,mmlu --limit 200
fi
if [ ${#missed[@]} -gt 0 ]; then
  echo "failed or out of time: ${missed[*]}; their logs are in $out"
  exit 1
fi
