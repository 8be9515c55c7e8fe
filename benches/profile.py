"""Where a step's time goes: share of a program's processor time by part, from perf.

    perf record -F 299 -p PID -o step.perf -- sleep 20
    perf report -i step.perf --no-children --stdio >step.txt
    python benches/profile.py step.txt
    python benches/profile.py first.txt now.txt --names "first version, f32" "now, bf16" --seconds 13.4 4.06
        --title "A distil step, seconds" --out step.svg

Names of functions decide; what none of the parts below knows is listed. The picture multiplies shares by the
seconds that a step takes.
"""

import argparse
import pathlib
import re
import sys

from picture import opening, text, write

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
REST = "everything else"
COLOURS = ["#4477aa", "#66ccee", "#228833", "#aa3377", "#ee8866", "#ccbb44", "#99ddbb", "#eedd88", "#ee6677", "#777777", "#bbbbbb"]

parser = argparse.ArgumentParser()
parser.add_argument("reports", nargs="+", type=pathlib.Path)
parser.add_argument("--names", nargs="+", help="what each report is of; default its file's name")
parser.add_argument("--seconds", nargs="+", type=float, help="what a step took in each")
parser.add_argument("--title", default="Seconds a step")
parser.add_argument("--out", type=pathlib.Path, help="draw this picture")
args = parser.parse_args()
names = args.names or [report.stem for report in args.reports]
if len(names) != len(args.reports) or args.out and len(args.seconds or []) != len(args.reports):
    parser.error("a name and, to draw, the seconds of each report are wanted")


def shares(report):
    """Percent by part, of all that the report lists."""
    found, unknown = dict.fromkeys([*(name for name, _ in PARTS), REST], 0.0), []
    for line in report.open():
        entry = re.match(r"\s+(\d+\.\d+)%\s+(.*)", line)
        if not entry:
            continue
        share, rest = float(entry[1]), entry[2]
        part = next((name for name, functions in PARTS if re.search(functions, rest)), REST)
        found[part] += share
        if part == REST:
            unknown.append((share, rest.split("  ")[-1].strip()))
    whole = sum(found.values())
    if not whole:
        sys.exit(f"{report}: no report of perf")
    for share, name in sorted(unknown, reverse=True)[:10]:
        print(f"{report.name}: {share:6.2f} % {name}", file=sys.stderr)
    return {part: 100 * share / whole for part, share in found.items()}


tables = [shares(report) for report in args.reports]
print("| part | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
for part in tables[0]:
    print(f"| {part} | " + " | ".join(f"{table[part]:.1f} %" for table in tables) + " |")

if args.out:
    width, left, column = 900, 20, 430
    each, below = 74, 50 + 74 * len(tables)
    scale = (width - 2 * left) / max(args.seconds)
    svg = opening(width, below + 12 + 20 * ((len(tables[0]) + 1) // 2), args.title)
    svg.append(text(left, 26, args.title, more=' style="font-size:16px;fill:#222"'))
    for row, (name, seconds, table) in enumerate(zip(names, args.seconds, tables)):
        at, y = left, 50 + each * row
        svg.append(text(left, y + 10, f"{name}: {seconds:.1f} s", more=' style="font-size:14px;fill:#222"'))
        for (part, share), colour in zip(table.items(), COLOURS):
            wide = scale * seconds * share / 100
            svg.append(f'<rect x="{at:.1f}" y="{y + 18}" width="{wide:.1f}" height="34" fill="{colour}"><title>{part}: {seconds * share / 100:.2f} s, {share:.0f} %</title></rect>')
            if wide > 30:
                svg.append(text(at + wide / 2, y + 39, f"{seconds * share / 100:.1f}", "middle", ' style="fill:#fff"'))
            at += wide
    for index, (part, colour) in enumerate(zip(tables[0], COLOURS)):
        x, y = left + column * (index % 2), below + 20 * (index // 2)
        told = ", ".join(f"{table[part]:.0f} %" for table in tables)
        svg += [f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>', text(x + 18, y + 11, f"{part}: {told}")]
    write(args.out, svg)
