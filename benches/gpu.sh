#!/usr/bin/env bash
# What docs/gpu.md wants seen on a device, the most telling first. Each part has a time limit and a log of its
# own; what fails or runs out of time is named at the end, and the rest goes on.
#
#   benches/gpu.sh RECAST TEACHER.gguf TEXT.jsonl.zst OUT [EVALUATION_DATA]
#
# May be set: DEVICE (cuda); PYTHON (python3; without torch there the rival is left out); BATCH (32); TOKENS of each
# stage (2e7); TESTS, a folder with the test programs fused, elementwise and recurrences as
# `cargo test --features cuda --no-run` leaves them; PARTS, of "tests step align distil linear ops convert eval denoise";
# BUDGET, seconds for everything: a part gets what is left, and the conversion as many tokens as fit by the steps
# measured before it; PACK, a file that holds everything but weights and text after each part (.tar.gz). Called again
# with the same OUT it goes on with a run that is not at its end. No Rust is needed on the machine itself.
set -uo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
recast=$1 teacher=$2 text=$3 out=$4 data=${5:-}
device=${DEVICE:-cuda} python=${PYTHON:-python3} batch=${BATCH:-32} tokens=${TOKENS:-2e7} budget=${BUDGET:-1000000}
parts=" ${PARTS:-tests step align distil linear ops convert eval denoise} "
here=$(cd "$(dirname "$0")" && pwd)
recipe=$here/../recipes/smollm2-rwkv7.toml
mkdir -p "$out"
missed=() running=
# Stopped itself, it leaves nothing behind.
trap '[ -z "$running" ] || kill "$running" 2>/dev/null; exit 130' INT TERM

wanted() { [[ $parts == *" $1 "* ]]; }

part() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS left=$((budget - SECONDS))
  shift 2
  if [ "$left" -lt 10 ]; then
    printf '%-22s no time left\n' "$name"
    missed+=("$name")
    return
  fi
  [ "$limit" -lt "$left" ] || limit=$left
  # A run that is stopped saves a checkpoint first.
  timeout -k 60 "$limit" "$@" >"$out/$name.log" 2>&1 &
  running=$!
  wait "$running"
  local code=$?
  printf '%-22s exit %3d, %4d s\n' "$name" "$code" $((SECONDS - began))
  # Where nothing but what is printed comes back, this does.
  tail -n 15 "$out/$name.log"
  [ -z "${PACK:-}" ] || tar czf "$PACK" --exclude='*.safetensors' --exclude=.text --exclude=checkpoints -C "$out" . 2>/dev/null
  [ "$code" = 0 ] || { missed+=("$name") && return 1; }
}

# Trains into the folder OUT/NAME, or goes on with what is there.
trained() { # NAME SECONDS VERB RECIPE OPTIONS...
  local name=$1 limit=$2 verb=$3 recipe=$4 how=(--device "$device" --no-progress)
  shift 4
  [ "$name" = denoise ] || how+=(--precision bf16)
  if [ -e "$out/$name/recipe.toml" ]; then
    [ -e "$out/$name/model" ] || part "$name" "$limit" "$recast" "$verb" --resume "$out/$name" "${how[@]}"
  else
    part "$name" "$limit" "$recast" "$verb" "$recipe" --out "$out/$name" "${how[@]}" "$@"
  fi
}

# Tokens of each stage, so that both take a third of the time that is left by the steps measured before: kernels are
# compiled, text is read and held-out text measured in the rest. TOKENS where there is no budget, a million at most
# where no step was measured; a step of distil is some three of align.
fitting() {
  if [ -z "${BUDGET:-}" ]; then
    echo "$tokens"
    return
  fi
  touch "$out"/{align,distil}.log
  # `bench step` says tokens a second, compare.py seconds a step of $batch times 512 tokens.
  awk -v left=$((budget - SECONDS)) -v most="$tokens" -v step=$((batch * 512)) '
    match($0, /^[0-9.,]+ tokens\/s/) { rate = $1; gsub(",", "", rate); token[FILENAME] = 1 / rate }
    match($0, /recast [0-9.]+ s/) { token[FILENAME] = substr($0, RSTART + 7) / step }
    END {
      align = token[ARGV[1]]; distil = token[ARGV[2]]
      seconds = align && distil ? align + distil : align ? 4 * align : distil * 4 / 3
      n = seconds ? left / 3 / seconds : 1e6
      printf "%d", n < most + 0 ? n : most + 0
    }' "$out"/{align,distil}.log
}

# What is compiled at run time needs CUDA's headers, and its compiler where the loader finds it.
if [ "$device" = cuda ]; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo 'nvidia-smi finds no card' >&2
  if [ -z "${CUDA_PATH:-}" ]; then
    for place in /usr/local/cuda /usr/local/cuda-*; do
      [ -e "$place/include/cuda.h" ] && export CUDA_PATH=$place && break
    done
  fi
  [ -n "${CUDA_PATH:-}" ] && export LD_LIBRARY_PATH=$CUDA_PATH/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  ldconfig -p | grep libnvrtc >/dev/null || ls "${CUDA_PATH:-/nowhere}"/lib64/libnvrtc.so* >/dev/null 2>&1 \
    || echo 'libnvrtc.so is not found: set CUDA_PATH and LD_LIBRARY_PATH' >&2
fi
if [ -n "${TESTS:-}" ] && wanted tests; then
  # Every size of every kernel is compiled: of a short time they leave most to the measurements.
  limit=$((budget / 9 < 240 ? budget / 9 : 240))
  for test in fused elementwise recurrences; do
    RECAST_TEST_DEVICE=$device part "test-$test" "$limit" "$TESTS/$test" --test-threads 1
  done
fi
fla=() rival=
if "$python" -c "import torch, sys; sys.exit('$device' == 'cuda' and not torch.cuda.is_available())" 2>/dev/null \
  && [[ $device == cuda || $device == cpu ]]; then
  rival=yes
  [ "$device" = cuda ] && "$python" -c 'import fla' 2>/dev/null && fla=(--fla)
fi
for what in step align distil; do
  wanted "$what" || continue
  if [ -n "$rival" ]; then
    compared=("$python" "$here/compare.py" --recast "$recast" --teacher "$teacher" --python "$python"
      --only "$what" --device "$device" --precision bf16 --batch "$batch" --rounds 1)
    part "$what" 240 "${compared[@]}" "${fla[@]}" || [ ${#fla[@]} = 0 ] || part "$what-without-fla" 240 "${compared[@]}"
  else
    of=()
    [ "$what" = step ] || of=(--recipe "$recipe" --stage "$what" --set "teacher.path=$teacher")
    part "$what" 120 "$recast" bench step --device "$device" --precision bf16 --batch "$batch" "${of[@]}"
  fi
done
# One product at a time, at as many rows as a training step has: what decides whether cuBLAS goes behind `linear`.
if wanted linear; then
  part linear 60 "$recast" bench ops --device "$device" --precision bf16 --only linear --batch "$batch"
  [ -z "$rival" ] || part linear-pytorch 60 "$python" "$here/rivals/torch_linear.py" --device "$device" --batch "$batch"
fi
if wanted ops; then
  part ops 180 "$recast" bench ops --device "$device" --precision bf16
  part ops-batch 120 "$recast" bench ops --device "$device" --precision bf16 --batch "$batch" --longest 512
fi
if wanted convert; then
  tokens=$(fitting)
  echo "converting with $tokens tokens a stage"
  limit=$(((budget - SECONDS) * 2 / 3))
  trained run $((limit < 3600 ? limit : 3600)) convert "$recipe" \
    --set "teacher.path=$teacher" --set "text.train=[\"$text\"]" --set "stages.align.batch=$batch" \
    --set "stages.distil.batch=$batch" --set "stages.align.tokens=$tokens" --set "stages.distil.tokens=$tokens"
fi
if wanted eval && [ -n "$data" ]; then
  if [ -e "$out/run/model" ]; then
    part eval 900 "$recast" eval "$out/run/model" --against "$teacher" --device "$device" --precision bf16 --data "$data" \
      --tasks lambada,arc_easy,arc_challenge,hellaswag,piqa,winogrande,mmlu --limit 200 \
      --journal "$out/eval.journal" --report "$out/run"
  else
    missed+=("eval (no model)")
  fi
fi
wanted denoise && trained denoise 300 train "$here/../recipes/llada-tiny.toml" --set stages.denoise.tokens=1e5
if [ ${#missed[@]} -gt 0 ]; then
  echo "failed or out of time: ${missed[*]}; their logs are in $out"
  exit 1
fi
