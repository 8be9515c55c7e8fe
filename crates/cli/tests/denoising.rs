//! A model that denoises, from outside: written, watched, traced, replayed, and refused.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// A tiny model with a tokenizer of its 96 tokens and a mask token, denoising in this way.
fn model(diffusion: &Value) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families/llama_gqa");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(golden.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copies");
    let mut config: Value = serde_json::from_slice(&std::fs::read(golden.join("config.json")).expect("reads")).expect("JSON");
    let layers = config["num_hidden_layers"].as_u64().expect("layers") as usize;
    config["base_model_type"] = config["model_type"].take();
    config["model_type"] = "recast".into();
    config["mixers"] = vec![json!({"kind": "softmax"}); layers].into();
    config["diffusion"] = diffusion.clone();
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writes");
    let mut vocab = serde_json::Map::from_iter([("<|endoftext|>".to_string(), json!(0)), ("Ġ".to_string(), json!(1))]);
    // The last token is the mask.
    vocab.extend(('!'..='}').enumerate().map(|(i, c)| (c.to_string(), json!(i + 2))));
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 95, "content": "<mask>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("writes");
    folder
}

fn recast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_recast")).args(arguments).output().expect("runs")
}

fn ok(arguments: &[&str]) -> (String, String) {
    let output = recast(arguments);
    let [out, talk] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    assert!(output.status.success(), "{arguments:?}: {talk}");
    (out, talk)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_text_is_written_watched_traced_and_replayed() {
    let model = model(&json!({"mask_token": 95, "block": 8, "shift": true}));
    let trace = model.path().join("trace.jsonl");
    let page = model.path().join("page.html");
    let base = ["generate", text(model.path()), "--prompt", "abc", "--max-tokens", "21", "--fill-all", "--threshold", "0.05"];
    let (plain, _) = ok(&base);
    let (watched, talk) = ok(&[&base[..], &["--watch", "--trace", text(&trace)]].concat());
    assert_eq!(plain, watched, "watching and tracing change nothing");
    // Without a terminal, a line a step.
    assert!(talk.contains("step 1, pass 1:") && talk.contains("░") && talk.contains("of 21 positions"), "{talk}");
    assert!(talk.contains("forward passes") && talk.contains("tokens a pass"), "{talk}");
    let object: Value = serde_json::from_str(&ok(&[&["--json"], &base[..]].concat()).0).expect("one JSON object");
    assert_eq!(plain, format!("{}\n", object["text"].as_str().expect("a text")));
    let (tokens, counters) = (object["tokens"].as_array().expect("tokens").len(), &object["counters"]);
    assert_eq!(object["confidences"].as_array().map(Vec::len), Some(tokens));

    let lines: Vec<Value> =
        std::fs::read_to_string(&trace).expect("a trace").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (begin, end) = (&lines[0], &lines[lines.len() - 1]);
    assert_eq!((&begin["prompt"], &begin["positions"], &begin["trained_block"]), (&json!("abc"), &json!(21), &json!(8)));
    assert_eq!(begin["noise"], "mask");
    assert_eq!(
        (&end["forwards"], &end["refreshes"], &end["written"], &end["positions"]),
        (&counters["forwards"], &counters["refreshes"], &json!(tokens), &json!(tokens))
    );
    // The trace alone spells the text.
    let mut cells = vec![Value::Null; 21];
    let mut pieces = serde_json::Map::new();
    for step in &lines[1..lines.len() - 1] {
        pieces.extend(step["tokens"].as_object().cloned().unwrap_or_default());
        for change in step["changes"].as_array().expect("changes") {
            let place = change[0].as_u64().expect("a position") as usize;
            assert_eq!(cells[place], change[1], "{step}");
            cells[place] = change[2].clone();
        }
    }
    assert!(cells[..tokens].iter().zip(object["tokens"].as_array().expect("tokens")).all(|(a, b)| a == b));
    let (out, _) = ok(&["replay", text(&trace), "--html", text(&page)]);
    assert!(out.contains(&format!("{} steps over 21 positions", lines.len() - 2)), "{out}");
    let page = std::fs::read_to_string(&page).expect("a page");
    assert!(page.contains("How this text was written") && !page.contains("http://") && !page.contains("https://"));
}

/// Where no file can hold a byte, as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_trace_that_cannot_be_written_takes_neither_the_text_nor_an_older_trace_along() {
    let model = model(&json!({"mask_token": 95, "block": 8}));
    let trace = model.path().join("trace.jsonl");
    std::fs::write(&trace, "older\n").expect("writes");
    let files = || std::fs::read_dir(model.path()).expect("reads").count();
    let before = files();
    let arguments = ["--json", "generate", text(model.path()), "--prompt", "abc", "--max-tokens", "8", "--trace", text(&trace)];
    let script = format!("trap '' XFSZ; ulimit -f 0; exec {} \"$@\"", env!("CARGO_BIN_EXE_recast"));
    let output = Command::new("bash").args(["-c", &script, "recast"]).args(arguments).output().expect("bash");
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(talk.contains("cannot write") && talk.contains("trace.jsonl"), "{talk}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(told["text"].is_string());
    assert_eq!((std::fs::read_to_string(&trace).expect("reads").as_str(), files()), ("older\n", before));
    ok(&arguments);
    let written = std::fs::read_to_string(&trace).expect("reads");
    assert!(written.starts_with("{\"recast_trace\"") && written.contains("\"done\""), "{written}");
    assert_eq!(files(), before);
    let output = recast(&["generate", text(model.path()), "--prompt", "abc", "--trace", "nodir/x"]);
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && talk.contains("--trace") && output.stdout.is_empty(), "{talk}");
}

#[test]
fn holes_are_filled_and_what_is_given_stays() {
    let model = model(&json!({"mask_token": 95}));
    let arguments = ["generate", text(model.path()), "--infill", "--prompt", "ab[[3]]xyz[[2]].", "--steps", "5"];
    let (out, _) = ok(&arguments);
    let out = out.trim_end_matches('\n');
    assert_eq!(out.chars().count(), 11, "{out:?}");
    assert!(out.starts_with("ab") && out.ends_with('.'), "{out:?}");
    assert!(out.chars().skip(5).collect::<String>().starts_with("xyz"), "{out:?}");
    let (watched, _) = ok(&[&arguments[..], &["--watch"]].concat());
    assert_eq!(watched.trim_end_matches('\n'), out);
    let object: Value = serde_json::from_str(&ok(&[&["--json"], &arguments[..]].concat()).0).expect("one JSON object");
    assert_eq!((&object["text"], &object["prompt_tokens"]), (&json!(out), &json!(2)));
    assert_eq!(object["tokens"].as_array().map(Vec::len), Some(9), "from the first hole on");
    // Speeds and counts are of what was written: five of them.
    let forwards = object["counters"]["forwards"].as_u64().expect("passes") as f64;
    assert_eq!(object["tokens_per_forward"], json!(5.0 / forwards));
    let trace = model.path().join("trace.jsonl");
    let (_, talk) = ok(&[&arguments[..], &["--trace", text(&trace)]].concat());
    assert!(talk.contains("wrote 5 in "), "{talk}");
    let end: Value =
        serde_json::from_str(std::fs::read_to_string(&trace).expect("reads").lines().last().expect("a line")).expect("JSON");
    assert_eq!((&end["written"], &end["positions"]), (&json!(5), &json!(9)));
}

#[test]
fn same_seed_same_text() {
    let model = model(&json!({"mask_token": 95, "block": 4}));
    let run = |seed| {
        ok(&[
            "generate",
            text(model.path()),
            "--prompt",
            "abc",
            "--max-tokens",
            "12",
            "--temperature",
            "1",
            "--seed",
            seed,
            "--rule",
            "random",
            "--steps",
            "6",
        ])
        .0
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let blocks = model(&json!({"mask_token": 95, "block": 8}));
    let outside = model(&json!({"mask_token": 96, "block": 8}));
    let next_token = model(&Value::Null);
    let cases: [(&Path, &[&str], i32, &str); 21] = [
        (blocks.path(), &["--steps", "0"], 2, "steps: expected at least 1"),
        (blocks.path(), &["--block", "9"], 2, "at most 8, the positions that the model denoises together, found 9"),
        (
            blocks.path(),
            &["--max-tokens", "5", "--block", "6"],
            2,
            "at most the 5 positions that are written; give a smaller block or write more tokens, found 6",
        ),
        (blocks.path(), &["--prompt", "a<mask>b"], 2, "no mask token (95)"),
        (blocks.path(), &["--infill"], 2, "at least one hole, such as [[8]]"),
        (blocks.path(), &["--infill", "--prompt", "a[[0]]"], 2, "a number of tokens from 1"),
        (blocks.path(), &["--infill", "--prompt", "a[[2"], 2, "--infill: expected ]] behind [["),
        (blocks.path(), &["--edit", "0.5", "--edit-passes", "1025"], 2, "editing passes: expected at most 1024"),
        (blocks.path(), &["--keep", "prefix"], 2, "keep: expected nothing of a model with blocks"),
        (blocks.path(), &["--ahead", "3"], 2, "ahead: expected none of a model with blocks"),
        (blocks.path(), &["--infill", "--prompt", "a[[99999999999]] b"], 2, "at most 1048576 positions"),
        (blocks.path(), &["--max-tokens", "99999999999"], 2, "at most 1048576 positions"),
        (blocks.path(), &["--infill", "--prompt", "a[[2]]", "--max-tokens", "5"], 2, "cannot be used with"),
        (blocks.path(), &["--infill", "--prompt", "a[[2]]", "--repeat-context", "2"], 2, "cannot be used with"),
        (blocks.path(), &["--rule", "fixed"], 2, "--steps"),
        (blocks.path(), &["--rule", "fixed", "--steps", "3", "--threshold", "0.5"], 2, "found the rule fixed"),
        (blocks.path(), &["--rule", "ancestral", "--steps", "3", "--remask", "cap"], 2, "cap=ETA"),
        (blocks.path(), &["--top-k", "3"], 2, "a next-token model, whose option this is"),
        (blocks.path(), &["--save-state", "x"], 2, "a next-token model, whose option this is"),
        (outside.path(), &[], 1, "outside the vocabulary of 96"),
        (next_token.path(), &["--watch"], 2, "a model that denoises"),
    ];
    for (path, more, code, words) in cases {
        let prompt: &[&str] = if more.contains(&"--prompt") { &[] } else { &["--prompt", "abc"] };
        let output = recast(&[&["generate", text(path)], prompt, more].concat());
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {talk}");
        assert!(talk.contains(words), "{more:?}: {talk}");
        assert!(output.stdout.is_empty());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("t.jsonl");
    std::fs::write(&broken, "no trace\n").expect("writes");
    let output = recast(&["replay", text(&broken), "--html", text(&folder.path().join("x.html"))]);
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && talk.contains("line 1") && talk.contains("recast generate --trace"), "{talk}");
    assert!(!folder.path().join("x.html").exists());
}

/// Of those with blocks decoding is another way to use their weights, of those without it is none.
#[test]
fn whole_sequences_are_not_timed_token_by_token() {
    let [whole, blocks] = [json!({"mask_token": 95}), json!({"mask_token": 95, "block": 8})].map(|how| model(&how));
    let decode = |model: &Path| recast(&["bench", "decode", text(model), "--contexts", "4", "--steps", "2"]);
    let output = decode(whole.path());
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && talk.contains("recast bench denoise"), "{talk}");
    assert!(output.stdout.is_empty() && decode(blocks.path()).status.success());
}

/// A trace may come from anybody.
#[test]
fn a_damaged_trace_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (trace, page) = (folder.path().join("t.jsonl"), folder.path().join("x.html"));
    let step = |place: u32| {
        json!({"step": 0, "block": 0, "window": [0, 3], "forwards": 1, "settled": 0, "seconds": 0.1,
            "changes": [[place, null, 5, 0.9, 0.1]], "ghosts": [], "tokens": {"5": " x"}})
    };
    for (positions, given, place) in [(3, json!([[9, 7]]), 0), (u64::MAX, json!([]), 0), (3, json!([[2, 7]]), 3)] {
        let begin = json!({"recast_trace": 1, "model": "m", "prompt": "a", "positions": positions, "trained_block": null,
            "settings": {}, "given": given, "tokens": {"7": " y"}});
        std::fs::write(&trace, format!("{begin}\n{}\n", step(place))).expect("writes");
        let output = recast(&["replay", text(&trace), "--html", text(&page)]);
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{begin}: {talk}");
        assert!(talk.contains("t.jsonl") && !talk.contains("panicked"), "{begin}: {talk}");
        assert!(output.stdout.is_empty() && !page.exists(), "{begin}");
    }
}
