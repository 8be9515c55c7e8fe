"""Writes train/: the losses of RADLADS steps 1 and 2 with gradients, and an AdamW trajectory with its schedule.

Formulas: specification 1.2 (output alignment), 1.3 (forward KL), 1.5 (schedule, optimizer, clipping).
"""

import json
import math
import shutil

import torch

from common import GOLDEN, Draw, check_by_differences, gradients, leaves, write
from mixers import projections, rwkv7_params
from model import body_params, feed_forward, logits_of, mix, normed_input
from released import SMALL7, SIZES, meaning, save_folder

FOLDER = GOLDEN / "train"
TOKENS = 23
SMALL = dict(SIZES, vocab_size=40, intermediate_size=24)
KEYS = dict(
    vocab_size=40, intermediate_size=24, attention_bias=True, attention_output_bias=False, balance_state=True,
    groupnorm_att=False, use_rope=True, gate_rank_type=2, num_attention_layers=0, **SMALL7,
)


def is_mixer(name):
    return ".self_attn." in name


def alignment(student, config, teacher, teacher_config, ids, own_stream=False, detach=False):
    """For each layer the error e = teacher's output - student's output [B, T, C], on the teacher's stream."""
    x, v_first, errors = teacher["model.embed_tokens.weight"][ids], None, []
    for layer in range(config["layers"]):
        u = normed_input(teacher, config, layer, x)
        wanted, _ = mix(teacher, teacher_config, layer, u, None)
        found, v_first = mix(student, config, layer, u, v_first)
        if detach:
            v_first = v_first.detach()
        errors.append(wanted - found)
        x = feed_forward(teacher, config, layer, x + (found if own_stream else wanted))
    return torch.stack(errors)


def norm_loss(errors):
    """Mean over layers, batch and time of the unsquared norm, over the square root of the width."""
    return errors.norm(dim=-1).mean() * errors.shape[-1] ** -0.5


def forward_kl(teacher_logits, student_logits):
    """Mean over tokens of KL(teacher || student), temperature 1."""
    t, s = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    return (t.exp() * (t - s)).sum(-1).mean()


def losses():
    draw = Draw(5000)
    config = meaning("rwkv7qwen2", KEYS)
    teacher_config = dict(config, mixers=["softmax"] * config["layers"])
    teacher = body_params(draw, config)
    student = dict(teacher)
    for layer in range(config["layers"]):
        prefix = f"model.layers.{layer}.self_attn."
        attention = projections(draw, config)
        own = rwkv7_params(draw, dict(config, layer=layer))
        for name, value in attention.items():
            # The teacher's projections, moved a little, as in the middle of step 1.
            own[name] = (value + 0.1 * own[name]).float().double()
        teacher.update({prefix + name: value for name, value in attention.items()})
        student.update({prefix + name: value for name, value in own.items()})
    ids = draw.ids(2, TOKENS, vocab=config["vocab_size"])

    mixers = leaves({name: value for name, value in student.items() if is_mixer(name)})

    def aligned(values, **how):
        return alignment(values, config, teacher, teacher_config, ids, **how)

    errors = aligned(mixers)
    l1 = norm_loss(errors)
    l1_grads = gradients(mixers, l1)
    worst = check_by_differences(lambda values: norm_loss(aligned(values)), mixers, l1_grads)
    detached = gradients(mixers, norm_loss(aligned(mixers, detach=True)))
    changed = [name for name in mixers if (detached[name] - l1_grads[name]).abs().max() > 1e-6]
    assert changed == [f"model.layers.0.self_attn.v_proj.{part}" for part in ("weight", "bias")], changed
    wrong_l1 = {
        "l1_wrong_squared": errors.square().sum(-1).mean() * errors.shape[-1] ** -0.5,
        "l1_wrong_mean_square": errors.square().mean(),
        "l1_wrong_no_width": errors.norm(dim=-1).mean(),
        "l1_wrong_own_stream": norm_loss(aligned(mixers, own_stream=True)),
    }

    everything = leaves(student)
    teacher_logits = logits_of(teacher, teacher_config, ids)

    def kl(values):
        return forward_kl(teacher_logits, logits_of(values, config, ids))

    student_logits = logits_of(everything, config, ids)
    l2 = forward_kl(teacher_logits, student_logits)
    l2_grads = gradients(everything, l2)
    worst = max(worst, check_by_differences(kl, everything, l2_grads))
    wrong_l2 = {
        "l2_wrong_reverse": forward_kl(student_logits, teacher_logits),
        "l2_wrong_per_sequence": l2 * TOKENS,
        "l2_wrong_temperature_2": forward_kl(teacher_logits / 2, student_logits / 2),
    }
    scalars = {"l1": l1, "l2": l2, **wrong_l1, **wrong_l2}
    for name, value in {**wrong_l1, **wrong_l2}.items():
        right = scalars[name[:2]].item()
        assert abs(value.item() / right - 1) > 0.01, f"{name} is too near the right value"

    save_teacher(teacher)
    save_folder(FOLDER / "student", "rwkv7qwen2", KEYS, student, torch.float32)
    results = {name: value.detach().reshape(1) for name, value in scalars.items()}
    results["l1_per_layer"] = errors.norm(dim=-1).mean((1, 2)).detach() * errors.shape[-1] ** -0.5
    write(
        FOLDER / "losses.safetensors",
        {
            "input_ids": ids, **results, "teacher_logits": teacher_logits, "student_logits": student_logits,
            **{f"grad.l1.{name}": value for name, value in l1_grads.items() if not name.endswith("r_k")},
            **{f"grad.l1_detached.{name}": detached[name] for name in changed},
            **{f"grad.l2.{name}": value for name, value in l2_grads.items() if not name.endswith("r_k")},
        },
        keep=results,
    )
    print(f"losses: {({name: round(value.item(), 4) for name, value in scalars.items()})}, within {worst:.1e}")


def save_teacher(teacher):
    """The softmax model as a plain qwen2 folder; transformers' own logits are the check."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    folder = FOLDER / "teacher"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {
        **SMALL, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "torch_dtype": "float32",
        "rope_scaling": None, "transformers_version": "4.47.1",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({name: value.float().contiguous() for name, value in teacher.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        ours = logits_of(teacher, dict(meaning("rwkv7qwen2", KEYS), mixers=["softmax"] * 2), ids)
        assert (theirs(input_ids=ids).logits.double() - ours).abs().max() < 1e-4


def learning_rate(step, total, warmup, initial, final, wait=0.0, endpoint=1.0):
    """Step counts from 0; quarter cosine over the steps after the warm-up, between `wait` and `endpoint`."""
    progress = min(max((step - warmup) / (total - warmup), 0.0), 1.0)
    progress = min(max((progress - wait) / (endpoint - wait), 0.0), 1.0)
    rate = final + (initial - final) * math.cos(math.pi / 2 * progress)
    return rate * (0.01 + 0.99 * step / warmup) if step < warmup else rate


def schedules():
    """Learning rates at chosen steps: RADLADS step 1, step 2 (flat), the mixers of step 2a, and the short one below."""
    settings = {
        "step1": dict(total=6104, warmup=50, initial=1e-3, final=1e-5),
        "step2": dict(total=10173, warmup=50, initial=1e-5, final=1e-5),
        "step2a_mixers": dict(total=4578, warmup=0, initial=1e-4, final=1e-5, wait=0.833, endpoint=0.875),
        "short": SHORT,
    }
    table = {}
    for name, setting in settings.items():
        total = setting["total"]
        steps = sorted({0, 1, 2, 3, 4, 25, 49, 50, 51, total // 4, total // 2, int(total * 0.833) + 1,
                        int(total * 0.85), int(total * 0.875) + 1, total - 1, total} & set(range(total + 1)))
        table[name] = {**setting, "steps": steps, "learning_rates": [learning_rate(s, **setting) for s in steps]}
    half = SHORT["final"] + (SHORT["initial"] - SHORT["final"]) * (1 + math.cos(math.pi / 3)) / 2
    assert abs(half - learning_rate(3, **SHORT)) > 1e-3, "a half cosine must be told apart"
    (FOLDER / "schedules.json").write_text(json.dumps(table, indent=1) + "\n")


SHORT = dict(total=5, warmup=2, initial=0.1, final=0.001)


def optimizer():
    """Five AdamW steps on 0.5 sum curvature (p - target)^2 over two tensors, global-norm clip at 1."""
    draw = Draw(5100)
    shapes = {"matrix": (3, 4), "vector": (5,)}
    start = {name: draw.normal(*shape) for name, shape in shapes.items()}
    target = {name: (start[name] + draw.normal(*shape, std=0.3)).float().double() for name, shape in shapes.items()}
    curvature = {name: draw.uniform(*shape, low=0.3, high=1.6) for name, shape in shapes.items()}
    beta1, beta2, eps = 0.9, 0.95, 1e-8
    ours = {name: value.clone() for name, value in start.items()}
    first = {name: torch.zeros_like(value) for name, value in start.items()}
    second = {name: torch.zeros_like(value) for name, value in start.items()}
    theirs = leaves(start)
    adamw = torch.optim.AdamW(theirs.values(), lr=1.0, betas=(beta1, beta2), eps=eps, weight_decay=0.0)
    kept, norms, rates = {}, [], []
    for step in range(SHORT["total"]):
        rate = learning_rate(step, **SHORT)
        grads = {name: curvature[name] * (ours[name] - target[name]) for name in ours}
        norm = torch.sqrt(sum(grad.square().sum() for grad in grads.values()))
        shrink = min(1.0, 1.0 / (norm.item() + 1e-6))
        for name, grad in grads.items():
            kept[f"gradient{step}.{name}"] = grad.clone()
            grad = grad * shrink
            first[name] = beta1 * first[name] + (1 - beta1) * grad
            second[name] = beta2 * second[name] + (1 - beta2) * grad.square()
            corrected = (second[name] / (1 - beta2 ** (step + 1))).sqrt() + eps
            ours[name] = ours[name] - rate * first[name] / (1 - beta1 ** (step + 1)) / corrected
            kept[f"after{step}.{name}"] = ours[name]
        norms.append(norm.item())
        rates.append(rate)
        adamw.param_groups[0]["lr"] = rate
        adamw.zero_grad()
        sum(0.5 * (curvature[name] * (theirs[name] - target[name]).square()).sum() for name in theirs).backward()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        adamw.step()
        for name in ours:
            assert (theirs[name] - ours[name]).abs().max() < 1e-12, "differs from torch.optim.AdamW"
    assert norms[0] > 1.1 and norms[-1] < 0.9, f"the clip must act on some steps and not on others: {norms}"
    kept.update({f"start.{name}": value for name, value in start.items()})
    kept.update({f"target.{name}": value for name, value in target.items()})
    kept.update({f"curvature.{name}": value for name, value in curvature.items()})
    kept["learning_rates"] = torch.tensor(rates, dtype=torch.float64)
    kept["gradient_norms"] = torch.tensor(norms, dtype=torch.float64)
    config = dict(beta1=beta1, beta2=beta2, eps=eps, weight_decay=0.0, clip=1.0, **SHORT)
    write(FOLDER / "adamw.safetensors", kept, config, keep=("learning_rates", "gradient_norms"))
    print(f"adamw: norms {[round(n, 3) for n in norms]}, rates {[round(r, 5) for r in rates]}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    losses()
    schedules()
    optimizer()
