"""What masked diffusion learns that next-token prediction does not, and the reverse: four probes on small models.

    python benches/probes.py reversal --recast target/release/recast --denoiser MODEL --facts DATA/reversal [--tokens 600000] [--seeds 2]
    python benches/probes.py poems    --recast ... --denoiser MODEL --poems DATA/poems [--couplets 240]
    python benches/probes.py lookup   --recast ... --models MODEL...
    python benches/probes.py repeated --recast ... [--unique 32768] [--seeds 2]

reversal  Facts stated in one direction ("A is B") are learned by the embedded next-token model and by a model that
          denoises, in equal steps; then both are asked in both directions, the right answer among eight. The one that
          denoises also fills holes in the sentences as learned, behind and in front; with --rules by every rule of settling.
poems     The same of pairs of neighbouring lines of verse: the next one among eight, behind its line; the line before,
          behind the one that follows it; and either of them written, in its place.
lookup    Which colour did one of three to five people wear? The text before the question says it once.
repeated  The same few tokens read 1, 4, 16 and 64 times by models that start from nothing, in equal steps: held-out loss
          of next-token models, bound of those that denoise (not to be subtracted from each other), and lookup.

Every model is trained and scored by `recast` alone; scores of models that denoise are estimates of the likelihood of
whole answers (`recast eval --samples`). Prints a line a figure and a table; errors are standard errors over items,
over seeds where there are several.
"""

import argparse
import json
import math
import pathlib
import random
import statistics
import subprocess
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("probe", choices=["reversal", "poems", "lookup", "repeated"])
parser.add_argument("--recast", required=True)
parser.add_argument("--denoiser", help="a trained masked diffusion model of the embedded tokenizer")
parser.add_argument("--facts", type=pathlib.Path, help="folder with facts_train.jsonl and facts_test_dev.jsonl")
parser.add_argument("--poems", type=pathlib.Path, help="folder with couplets_dev.jsonl")
parser.add_argument("--couplets", type=int, default=240)
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--tokens", type=int, default=600_000, help="of training on facts or verse (35 thousand are one reading of the facts)")
parser.add_argument("--batch", type=int, default=8, help="rows of 128 tokens a step, the same")
parser.add_argument("--rate", type=float, default=1e-3, help="learning rate, the same")
parser.add_argument("--rules", action="store_true", help="fill the holes by every rule of settling tokens, too")
parser.add_argument("--unique", type=int, default=32_768, help="tokens that are read again and again")
parser.add_argument("--times", default="1,4,16,64")
parser.add_argument("--samples", default="32", help="masks a scored text")
parser.add_argument("--precision", default="bf16")
parser.add_argument("--work", type=pathlib.Path)
parser.add_argument("--models", nargs="+", default=[])
args = parser.parse_args()
work = args.work or pathlib.Path(tempfile.mkdtemp(prefix="probes-"))
work.mkdir(parents=True, exist_ok=True)


def recast(*command):
    done = subprocess.run([args.recast, *map(str, command), "--precision", args.precision, "--no-progress"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"recast {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return done.stdout


def lines(path):
    raw = subprocess.run(["zstd", "-dc", path], stdout=subprocess.PIPE, check=True).stdout if path.suffix == ".zst" else path.read_bytes()
    return [json.loads(line) for line in raw.decode().splitlines() if line.strip()]


def task(name, items):
    """A multiple-choice task of ours: `context`, `choices` (with their space), `gold`, `kind`."""
    (work / f"{name}.jsonl").write_text("\n".join(json.dumps({"id": f"{name}-{i}", **item}) for i, item in enumerate(items)) + "\n")
    path = work / f"{name}.toml"
    path.write_text(f"""
name = "{name}"
version = 1
title = "{name}"
[data]
file = "{name}.jsonl"
id = "id"
group = "kind"
[data.fields]
id = "string"
context = "string"
choices = "strings"
gold = "integer"
kind = "string"
[prompt]
kind = "multiple_choice"
context = "{{{{ context }}}}"
continuation = "{{{{ choice }}}}"
choices = "choices"
gold = "gold"
[score]
metrics = ["acc", "acc_norm"]
primary = "acc"
chance = "uniform"
[origin]
source = "benches/probes.py"
licence = "as the text's"
""")
    return path


def score(model, path):
    found = json.loads(recast("eval", model, "--tasks", path, "--data", work, "--samples", args.samples, "--json"))
    return found


def train(name, recipe, seed):
    out = work / f"{name}-{seed}"
    path = work / f"{name}-{seed}.toml"
    path.write_text(f'name = "{name}"\nseed = {seed}\n{recipe}')
    if not (out / "summary.json").exists():
        recast("convert" if "mixer" in recipe else "train", path, "--out", out)
    return out


def accuracy(found, kind=None):
    """(value, standard error) of the accuracy, of one kind of item if given."""
    result = found["results"][0]
    if kind is not None:
        result = next(group for group in result["groups"] if group["name"] == kind)
    metric = next(metric for metric in result["metrics"] if metric["kind"] == "acc")
    return metric["value"], metric["std_error"] or 0.0


def spread(values):
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else float("nan")


NAMES = "Tom Ben Etta Nell Tess Una Leo Rosa Mira Lila Hugo Ivo".split()
COLOURS = "green pink red blue yellow brown white grey black purple".split()


def stories(count=200):
    """Who wore what, in the wording of the embedded text; people and colours are drawn anew."""
    items = []
    for seed in range(count):
        chance = random.Random(seed)
        people = chance.sample(NAMES, chance.choice([3, 4, 5]))
        colours = dict(zip(people, chance.sample(COLOURS, len(people))))
        thing = chance.choice(["coat", "cap", "scarf", "jersey"])
        things = [f"{chance.choice(['three', 'four', 'six', 'nine', 'twelve'])} {what} in a bag" for what in chance.sample(["apples", "shells", "stamps", "plums", "buns"], len(people))]
        story = f"{', '.join(people[:-1])} and {people[-1]} wanted to see who could find the most on one {chance.choice(['Friday', 'Monday', 'Sunday'])}. "
        story += " ".join(f"{person} wore a {colours[person]} {thing} and carried {carried}." for person, carried in zip(chance.sample(people, len(people)), things))
        asked = chance.choice(people)
        question = f"What colour was {asked}'s {thing}? A: {asked}'s {thing} was"
        choices = [f" {colours[person]}." for person in people]
        items.append({"context": f"{story} Nobody wanted to go home.\nQ: {question}", "choices": choices, "gold": people.index(asked), "kind": f"{len(people)} people"})
    return items


def lookup_task():
    items = stories()
    return task("lookup", items), statistics.mean(1 / len(i["choices"]) for i in items), len(items)


def tokens(model, text):
    """How many tokens of a model that denoises a text is."""
    return json.loads(recast("generate", model, "--infill", "--prompt", f"{text}[[1]]", "--json"))["prompt_tokens"]


def fill(model, before, hole, after, *rule):
    """What a model that denoises writes into a hole of so many tokens and behind it, and all that is said of it."""
    done = recast("generate", model, "--infill", "--prompt", f"{before}[[{hole}]]{after}", "--fill-all", *rule, "--json")
    done = json.loads(done)
    done["text"] = done["text"].removeprefix(before)
    return done


def filled(model, texts, denoises):
    """Shares of texts whose second and whose first half are written right into a hole of their length, in a
    wording that was learned: one token a pass, the surest first. Not at a text's beginning, where a shifted
    model predicts nothing. A next-token model writes on greedily and has no answer in front of what it reads.
    A text is its holes, by place: what stands before, what is hidden, what follows."""
    right = {"behind": [], "in front": []} if denoises else {"behind": []}
    for holes in texts:
        for place, found in right.items():
            before, hidden, after = holes[place]
            if denoises:
                hole = tokens(model, before + hidden) - tokens(model, before)
                found.append(fill(model, before, hole, after, "--threshold", 2)["text"] == hidden + after)
            else:
                done = recast("generate", model, "--prompt", before, "--temperature", 0, "--max-tokens", 40, "--json")
                found.append(json.loads(done)["text"].startswith(hidden + after))
    share = {place: statistics.mean(found) for place, found in right.items()}
    return {place: (value, math.sqrt(value * (1 - value) / len(texts))) for place, value in share.items()}


def by_rule(model, texts):
    """What each rule of settling tokens makes of the same holes: as many right, in how many passes? A table. A word
    is right where it stands at its place in the line; errors are over holes, whose words are not independent."""
    rules = [("one a pass", ("--threshold", 2))]
    rules += [(f"fixed, {k} a pass", ("--steps", k)) for k in (2, 4)]
    rules += [(f"{name} {at}", (f"--{name}", at)) for name, places in (("threshold", (0.95, 0.8, 0.5)), ("factor", (0.5, 1.0)), ("entropy", (0.1, 0.5))) for at in places]
    print("\n| rule | tokens a pass | whole holes right | their words right |\n|---|---:|---:|---:|")
    lengths = {}
    for name, rule in rules:
        whole, words, written, passes = [], [], 0, 0
        for text, holes in enumerate(texts):
            for place, (before, hidden, after) in holes.items():
                if (text, place) not in lengths:
                    lengths[text, place] = tokens(model, before + hidden) - tokens(model, before)
                hole = lengths[text, place]
                how = ("--steps", math.ceil(hole / rule[1])) if rule[0] == "--steps" else rule
                done = fill(model, before, hole, after, *how)
                whole.append(done["text"] == hidden + after)
                meant, found = (hidden + after).split(), done["text"].split()
                count = len(hidden.split())
                words.append(statistics.mean(at < len(found) and found[at] == meant[at] for at in range(count)))
                written += hole
                passes += done["counters"]["forwards"]
        error = lambda found: statistics.stdev(found) / math.sqrt(len(found))
        print(f"| {name} | {written / passes:.2f} | {statistics.mean(whole):.3f} ± {error(whole):.3f} | {statistics.mean(words):.3f} ± {error(words):.3f} |", flush=True)


def among_eight(questions):
    """Items of a task from (context, answer, kind, pool): the other choices are answers of the same pool."""
    items, chance = [], random.Random(0)
    for context, answer, kind, pool in questions:
        others = [other for _, other, _, of in questions if of == pool and other != answer]
        choices = [answer, *chance.sample(others, 7)]
        chance.shuffle(choices)
        items.append({"context": context, "choices": choices, "gold": choices.index(answer), "kind": kind})
    return items


def both_ways(name, documents, items, texts):
    """What a next-token model and one that denoises know of documents in both directions: a table."""
    learned = work / f"{name}.learned.jsonl"
    learned.write_text("\n".join(json.dumps({"text": text}) for text in documents) + "\n")
    path = task(name, items)
    stage = (
        f"tokens = {args.tokens}\ncontext = 128\nbatch = {args.batch}\nlearning_rate = {args.rate}\n"
        f"final_learning_rate = {args.rate / 10}\nwarmup = 10\nreset_documents = true\n"
    )
    text = f'[text]\ntrain = ["{learned}"]\nheld_out = ["{learned}"]\n[validation]\ntokens = 2048\ncontext = 128\nsamples = 2\n'
    recipes = {
        "next token": f'[teacher]\npath = "embedded"\n[student]\nmixer = {{ kind = "softmax" }}\n{text}[[stages]]\nname = "learn"\nobjective = "next-token"\n' + stage,
        "masked diffusion": f'[teacher]\npath = "{args.denoiser}"\n[student.diffusion]\n{text}[[stages]]\nname = "learn"\nobjective = "masked-diffusion"\n' + stage,
    }
    rows = []
    for objective, recipe in recipes.items():
        asked = ("as stated", "reversed")
        values = {kind: [] for kind in asked}
        for seed in range(1, args.seeds + 1):
            run = train(f"{name}-{objective.replace(' ', '-')}", recipe, seed)
            found = score(run / "model", path)
            for kind in asked:
                value, error = accuracy(found, kind)
                values[kind].append(value)
                print(json.dumps({"objective": objective, "seed": seed, "asked": kind, "accuracy": value, "error": error}), flush=True)
            for place, (value, error) in filled(run / "model", texts, "diffusion" in objective).items():
                print(json.dumps({"objective": objective, "seed": seed, "hole": place, "right": value, "error": error}), flush=True)
                values.setdefault(place, []).append(value)
        cell = lambda kind: "{:.3f} ± {:.3f}".format(*spread(values[kind])) if kind in values else ""
        rows.append(f"| {objective} | " + " | ".join(map(cell, (*asked, "behind", "in front"))) + " |")
    print("\n| trained by | asked as stated | asked the other way round | written behind | written in front |\n|---|---:|---:|---:|---:|")
    print("\n".join(rows), f"\n\n{len(items)} questions, chance 0.125, {len(texts)} texts, {args.seeds} seeds, {args.tokens} tokens")
    if args.rules:
        by_rule(work / f"{name}-masked-diffusion-1" / "model", texts)


def reversal():
    facts = lines(args.facts / "facts_train.jsonl")
    questions = lines(args.facts / "facts_test_dev.jsonl")
    told = lambda q: "as stated" if q["direction"] == q["trained_direction"] else "reversed"
    # Answers are names or descriptions, by the direction.
    items = among_eight([(q["prompt"], q["answer"], told(q), q["direction"]) for q in questions])
    texts = []
    for fact in facts:
        if fact["direction"] == "name_to_description":
            start, first, second, text = "It is well known that", fact["name"], fact["description"], fact["texts"][1]
        else:
            start, first, second, text = "According to the papers,", fact["description"], fact["name"], fact["texts"][2]
        assert text == f"{start} {first} is {second}.", text
        texts.append({"behind": (f"{start} {first} is", f" {second}", "."), "in front": (start, f" {first}", f" is {second}.")})
    both_ways("reversal", [text for fact in facts for text in fact["texts"]], items, texts)


def poems():
    start = "Two lines of verse:\n"
    pairs = [(couplet["line"], couplet["next"]) for couplet in lines(args.poems / "couplets_dev.jsonl")][: args.couplets]
    questions = [(f"{start}{line}\n", after, "as stated", "next lines") for line, after in pairs]
    questions += [(f"{start}{after}\n", line, "reversed", "lines") for line, after in pairs]
    texts = [{"behind": (f"{start}{line}\n", after, "\n"), "in front": (start, line, f"\n{after}\n")} for line, after in pairs]
    both_ways("poems", [f"{start}{line}\n{after}\n" for line, after in pairs], among_eight(questions), texts)


def lookup():
    path, chance, count = lookup_task()
    print(f"{count} questions, chance {chance:.2f}\n\n| model | right |\n|---|---:|")
    for model in args.models:
        value, error = accuracy(score(model, path))
        print(f"| {model} | {value:.3f} ± {error:.3f} |", flush=True)


def repeated():
    path, chance, count = lookup_task()
    scratch = (pathlib.Path(__file__).resolve().parent.parent / "recipes" / "llada-tiny-scratch.toml").read_text()
    scratch = scratch[scratch.index("[scratch]") : scratch.index("[student.diffusion]")]
    print(f"{args.unique} tokens; lookup: {count} questions, chance {chance:.2f}")
    rows = []
    for times in map(int, args.times.split(",")):
        cells = []
        for name, extra, objective in (("next-token", "", "next-token"), ("denoise", "[student.diffusion]\nshift = true\n", "masked-diffusion")):
            losses, right = [], []
            for seed in range(1, args.seeds + 1):
                recipe = (
                    f'{scratch}{extra}[text]\ntrain = ["embedded"]\nmax_tokens = {args.unique}\n[validation]\ntokens = 20480\ncontext = 256\nsamples = 8\n'
                    f'[[stages]]\nname = "read"\nobjective = "{objective}"\ntokens = {args.unique * times}\ncontext = 256\nbatch = 8\nlearning_rate = 2e-3\n'
                    f'final_learning_rate = 2e-4\nschedule = "half-cosine"\nwarmup = 10\nweight_decay = 0.1\n'
                )
                run = train(f"repeated-{name}-{times}", recipe, seed)
                held_out = json.loads((run / "summary.json").read_text())["held_out"][-1][1]
                losses.append(held_out["bound"]["loss"] if objective == "masked-diffusion" else held_out["loss"])
                right.append(accuracy(score(run / "model", path))[0])
                print(json.dumps({"objective": objective, "times": times, "seed": seed, "held_out": losses[-1], "lookup": right[-1]}), flush=True)
            cells += ["{:.2f} ± {:.2f}".format(*spread(losses)), "{:.3f} ± {:.3f}".format(*spread(right))]
        rows.append(f"| {times} | " + " | ".join(cells) + " |")
    print("\n| times read | next token, held-out loss | lookup | masked diffusion, bound | lookup |\n|---:|---:|---:|---:|---:|")
    print("\n".join(rows))


{"reversal": reversal, "poems": poems, "lookup": lookup, "repeated": repeated}[args.probe]()
