"""Share of a program's processor time by part, from perf.

    perf record -F 299 -p PID -o step.perf -- sleep 20
    perf report -i step.perf --no-children --stdio | python benches/profile.py

Reads the report on standard input. Names of functions decide; what none of the parts below knows is listed.
"""

import re
import sys

PARTS = [
    ("matrix products with weights", r"bf16::(avx512|amx)::tile|bf16::panels::(sweep|pass|product_packed|product)\b|gemm_f32|gemm_common|gemm::"),
    ("rounding and packing their operands", r"bf16::.*pack|bf16::panels"),
    ("products inside recurrences and attention", r"cpu::matmul::(product|matmul)|product_of_tiles|matmul_in_cache|bf16::rowwise|cpu::pairs"),
    ("recurrences beside their products", r"delta_rule|decay::|rwkv\d|strided|group_norm|token_shift|key_norm"),
    ("attention beside its products", r"attention::|bf16::softmax"),
    ("vocabulary losses beside their products", r"vocab_loss|teacher_kl|cross_entropy"),
    ("norms, RoPE, SwiGLU, residuals", r"rms_norm|rope|activation::|swiglu|row_distance|elementwise|macerator|burn_flex"),
    ("optimizer", r"adamw"),
    ("copies, zeroing, allocation", r"mem(move|set|cpy)|malloc|calloc|free\b|_int_free|unlink_chunk|clear_|alloc|page_fault|folio"),
    ("waiting for the other thread, system", r"\[k\]|sched|crossbeam|rayon|futex|yield"),
]

shares, unknown = dict.fromkeys((name for name, _ in PARTS), 0.0), []
for line in sys.stdin:
    found = re.match(r"\s+(\d+\.\d+)%\s+(.*)", line)
    if not found:
        continue
    share, rest = float(found[1]), found[2]
    part = next((name for name, names in PARTS if re.search(names, rest)), None)
    if part is None:
        unknown.append((share, rest.split("  ")[-1].strip()))
    else:
        shares[part] += share
if not any(shares.values()):
    sys.exit("no report of perf on standard input")
print("| part | share |\n|---|---:|")
for name, share in shares.items():
    print(f"| {name} | {share:.1f} % |")
print(f"| everything else | {sum(share for share, _ in unknown):.1f} % |")
for share, name in sorted(unknown, reverse=True)[:10]:
    print(f"{share:6.2f} % {name}", file=sys.stderr)
