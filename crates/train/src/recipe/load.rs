//! Reading recipes: inheritance and `--set`.

use super::Recipe;
use super::fit::fit;
use crate::error::TrainError;
use std::path::Path;
use toml::{Table, Value as Toml};

/// Reads a recipe, what it extends (paths relative to it) and applies `key.path=value` changes.
///
/// # Errors
/// When a file cannot be read or parsed, a key is unknown (the nearest known one is named), or
/// values do not fit together.
pub fn load(path: &Path, sets: &[String]) -> Result<Recipe, TrainError> {
    finish(read(path, 0)?, sets)
}

/// [`load`] from text that extends nothing.
///
/// # Errors
/// As [`load`].
pub fn load_text(text: &str, sets: &[String]) -> Result<Recipe, TrainError> {
    let table = text.parse::<Table>().map_err(|e| TrainError::Recipe(e.to_string()))?;
    finish(table, sets)
}

fn read(path: &Path, depth: usize) -> Result<Table, TrainError> {
    if depth > 8 {
        return Err(TrainError::Recipe(format!("{}: `extends` goes round in a circle", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    let mut table = text.parse::<Table>().map_err(|e| TrainError::Recipe(format!("{}: {e}", path.display())))?;
    let parents = match table.remove("extends") {
        None => Vec::new(),
        Some(Toml::String(one)) => vec![one],
        Some(Toml::Array(list)) => list.into_iter().filter_map(|v| v.as_str().map(String::from)).collect(),
        Some(other) => return Err(TrainError::Recipe(format!("{}: extends is {other}, expected paths", path.display()))),
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut merged = Table::new();
    for parent in parents {
        merge(&mut merged, read(&folder.join(parent), depth + 1)?);
    }
    merge(&mut merged, table);
    Ok(merged)
}

/// Tables merge key by key; everything else, lists included, is replaced.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Toml::Table(old)), Toml::Table(new)) => merge(old, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn finish(mut table: Table, sets: &[String]) -> Result<Recipe, TrainError> {
    for set in sets {
        let Some((key, value)) = set.split_once('=') else {
            return Err(TrainError::Recipe(format!("--set {set}: expected key.path=value")));
        };
        // A bare word is a string.
        let value = format!("x = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("x"));
        let value = value.unwrap_or_else(|| Toml::String(set[key.len() + 1..].to_string()));
        let mut root = Toml::Table(std::mem::take(&mut table));
        assign(&mut root, key, value)?;
        if let Toml::Table(changed) = root {
            table = changed;
        }
    }
    fit(&mut table)?;
    let recipe: Recipe = Toml::Table(table).try_into().map_err(|e: toml::de::Error| TrainError::Recipe(e.to_string()))?;
    recipe.check()?;
    Ok(recipe)
}

/// Sets `a.b.0.c`; a number or the `name` of an entry picks from a list.
fn assign(root: &mut Toml, path: &str, value: Toml) -> Result<(), TrainError> {
    let mut at = root;
    for key in path.split('.') {
        at = match at {
            Toml::Table(table) => table.entry(key).or_insert_with(|| Toml::Table(Table::new())),
            Toml::Array(list) => {
                let names: Vec<String> = list.iter().map(name_of).collect();
                let index = key.parse().ok().or_else(|| names.iter().position(|n| n == key));
                index.and_then(|i: usize| list.get_mut(i)).ok_or_else(|| {
                    TrainError::Recipe(format!("--set {path}: no entry `{key}`, there are {}", names.join(", ")))
                })?
            }
            _ => return Err(TrainError::Recipe(format!("--set {path}: `{key}` is inside a plain value"))),
        };
    }
    *at = value;
    Ok(())
}

fn name_of(entry: &Toml) -> String {
    entry.get("name").and_then(Toml::as_str).unwrap_or("?").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use recast_models::MixerSpec;
    use std::ffi::OsStr;
    use std::path::PathBuf;

    const RECIPE: &str = r#"
        name = "t"
        teacher.path = "x"
        student.mixer = { kind = "rwkv7", rope = false }
        text.train = ["a.txt"]
        [[stages]]
        name = "align"
        objective = "output-alignment"
        train = ["self_attn"]
        tokens = 1000
        context = 10
        batch = 3
        learning_rate = 1e-3
    "#;

    fn sets(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn kept_layers_stay_as_the_teacher_has_them() {
        let recipe = load_text(RECIPE, &sets(&["student.keep_softmax=[1]"])).expect("loads");
        let softmax = |key, value: serde_json::Value| MixerSpec::new("softmax").with(key, value);
        let mut own = [softmax("window", 7.into()), softmax("no_rope", true.into()), MixerSpec::new("rwkv6")];
        let mixers = recipe.mixers(&own).expect("fits");
        assert_eq!(mixers[1], own[1]);
        assert_eq!((mixers[0].kind.as_str(), mixers[2].kind.as_str()), ("rwkv7", "rwkv7"));
        own[1] = MixerSpec::new("rwkv6");
        assert!(recipe.mixers(&own).expect_err("no softmax there").to_string().contains("layer 1, which is rwkv6"));
        assert!(recipe.mixers(&own[..1]).expect_err("no such layer").to_string().contains("layer 1 of 1"));
    }

    #[test]
    fn sets_and_defaults() {
        let recipe = load_text(RECIPE, &sets(&["stages.align.tokens=50", "stages.0.batch=4", "seed=7", "teacher.path=a/b.gguf"]))
            .expect("loads");
        assert_eq!((recipe.stages[0].tokens, recipe.stages[0].batch, recipe.seed), (50, 4, 7));
        assert_eq!(recipe.stages[0].steps(), 2);
        assert_eq!(recipe.stages[0].beta2, 0.95);
        assert_eq!(recipe.stages[0].weight_decay, 0.0);
        assert_eq!(recipe.teacher.expect("teacher").path, Path::new("a/b.gguf"));
    }

    #[test]
    fn forms_that_people_write() {
        let recipe =
            load_text(RECIPE, &sets(&["text.train=b.txt", "stages.align.tokens=1e6", "student.mixer=rwkv6"])).expect("loads");
        assert_eq!(recipe.text.train, [Path::new("b.txt")]);
        assert_eq!(recipe.stages[0].tokens, 1_000_000);
        let mixer = recipe.student.mixer.expect("mixer");
        assert_eq!((mixer.kind.as_str(), mixer.options.len()), ("rwkv6", 0));
    }

    #[test]
    fn keys_that_differ_are_named_with_their_values() {
        let recipe = load_text(RECIPE, &[]).expect("loads");
        assert!(recipe.differences(&recipe).is_empty());
        let changes = ["stages.align.tokens=50", "seed=7", "text.max_tokens=9", "student.mixer=rwkv6"];
        let changed = load_text(RECIPE, &sets(&changes)).expect("loads");
        let mut found = recipe.differences(&changed);
        found.sort();
        let wanted = [
            "seed was 1337 and would be 7",
            "stages.align.tokens was 1000 and would be 50",
            "student.mixer.kind was \"rwkv7\" and would be \"rwkv6\"",
            "student.mixer.rope was false and would be not set",
            "text.max_tokens was not set and would be 9",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_constant_rate_has_no_end() {
        let constant = "stages.align.schedule=constant";
        assert!(load_text(RECIPE, &sets(&[constant])).is_ok());
        let error = load_text(RECIPE, &sets(&[constant, "stages.align.final_learning_rate=1e-5"])).expect_err("two courses");
        assert!(error.to_string().contains("final_learning_rate has no effect: schedule = \"constant\""), "{error}");
    }

    /// Every recipe below a folder.
    fn below(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let each = entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] });
        each.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect()
    }

    #[test]
    fn recipes_that_are_shipped_load() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
        let all = below(&folder);
        assert!(all.iter().any(|path| path.ends_with("ablations/smollm2-rwkv7-no-align.toml")), "{all:?}");
        for path in all {
            let recipe = load(&path, &[]).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(path.file_stem(), Some(OsStr::new(&recipe.name)), "a run's folder is named after it");
            for mixer in recipe.student.mixer.iter().chain(&recipe.student.mixers) {
                assert!(recast_models::mixers::find(&mixer.kind).is_ok(), "{}: {}", path.display(), mixer.kind);
            }
            let again = load_text(&recipe.to_toml().expect("TOML"), &[]).expect("reads back");
            assert_eq!(again.hash(), recipe.hash(), "{}", path.display());
        }
        // The one inside the binary has no file to extend.
        let quickstart = std::fs::read_to_string(folder.join("quickstart.toml")).expect("a file");
        load_text(&quickstart, &[]).expect("loads");
    }

    #[test]
    fn missing_keys_are_named() {
        let error = load_text(&RECIPE.replace("tokens = 1000", ""), &[]).expect_err("no tokens").to_string();
        assert!(error.contains("`stages.align` lacks the key `tokens`"), "{error}");
    }

    #[test]
    fn resolved_recipe_reads_back() {
        let recipe = load_text(RECIPE, &[]).expect("loads");
        let again = load_text(&recipe.to_toml().expect("TOML"), &[]).expect("reads back");
        assert_eq!(again.hash(), recipe.hash());
    }

    #[test]
    fn what_cannot_be_written_down_is_refused() {
        for (set, wanted) in [
            ("student.mixer={ kind = \"softmax\", window = inf }", "student.mixer.window"),
            ("student.mixer={ kind = \"rwkv7\", rank_decay = nan }", "student.mixer.rank_decay"),
            ("student.mixers=[{ kind = \"rwkv7\" }, { kind = \"rwkv7\", more = [1.0, -inf] }]", "student.mixers.1.more.1"),
        ] {
            let error = load_text(RECIPE, &sets(&[set])).expect_err(set).to_string();
            assert!(error.contains(wanted) && error.contains("expected a finite one"), "{set}: {error}");
        }
        // Two that were not checked are still two.
        let mut recipe = load_text(RECIPE, &[]).expect("loads");
        let mut hash = |value: serde_json::Value| {
            recipe.student.mixer = Some(MixerSpec::new("softmax").with("window", value).with("no_rope", true));
            assert_eq!(recipe.to_toml().is_ok(), recipe.check().is_ok());
            recipe.hash()
        };
        assert_ne!(hash(serde_json::Value::Null), hash(7.into()));
    }

    #[test]
    fn a_run_has_not_built_on_where_its_pairs_lie() {
        let with = |pairs: &str| {
            let own = ["stages.align.objective=masked-diffusion", "student.diffusion={}"];
            let recipe = load_text(RECIPE, &sets(&[&own[..], &[pairs]].concat())).expect("loads");
            recipe.fixed(0, 1).hash()
        };
        let there = with("stages.align.pairs=a.jsonl");
        assert_eq!(there, with("stages.align.pairs=moved/a.jsonl"));
        assert_eq!(there, with("stages.align.pairs=[\"a.jsonl\", \"b.jsonl\"]"));
        assert_ne!(there, with("stages.align.pairs=[]"));
    }

    #[test]
    fn long_windows_are_those_of_the_longest_stage_that_reads_text() {
        let context = |changes: &[&str]| load_text(RECIPE, &sets(changes)).expect("loads").long_context();
        assert_eq!((context(&[]), context(&["validation.context=10"])), (None, None));
        assert_eq!((context(&["validation.context=9"]), context(&["stages.align.context=513"])), (Some(10), Some(513)));
        let pairs = ["stages.align.objective=masked-diffusion", "student.diffusion={}", "stages.align.pairs=a.jsonl"];
        assert_eq!(context(&[&pairs[..], &["stages.align.context=513"]].concat()), None);
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        for (set, wanted) in [
            ("stages.align.learning_rat=1", "did you mean `learning_rate`"),
            ("sed=1", "did you mean `seed`"),
            ("student.mixr.kind=1", "did you mean `mixer"),
            ("text.wibble=1", "known keys"),
        ] {
            let error = load_text(RECIPE, &sets(&[set])).expect_err("unknown key").to_string();
            assert!(error.contains(wanted), "{set}: {error}");
        }
    }

    #[test]
    fn diffusion_is_a_table_of_student_and_stage() {
        let recipe = load_text(
            RECIPE,
            &sets(&[
                "student.diffusion={ block = 16, shift = true }",
                "stages.align.objective=masked-diffusion",
                "stages.align.diffusion={ next_token = 0.5, blocks = [1, 4, 16] }",
            ]),
        )
        .expect("loads");
        let noise = recipe.stages[0].diffusion.clone().expect("noise");
        assert_eq!((noise.epsilon, noise.next_token, noise.random_length), (1e-3, 0.5, 0.01));
        let model = recast_models::Diffusion { mask_token: 3, block: Some(16), shift: true, uniform: false };
        assert_eq!([0, 3, 4, 9].map(|step| noise.block_at(&model, step, 10)), [Some(1), Some(1), Some(4), Some(16)]);
        assert!(noise.check(&model).is_ok());
        let text = noise.describe(&model);
        assert!(
            text.contains("blocks of 1, then 4, then 16")
                && text.contains("next-token loss times 0.5")
                && text.contains("shifted"),
            "{text}"
        );
        let again = load_text(&recipe.to_toml().expect("TOML"), &[]).expect("reads back");
        assert_eq!(again.hash(), recipe.hash());
        for (set, wanted) in [
            ("stages.align.diffusion.nxt_token=1", "did you mean `next_token`"),
            ("stages.align.diffusion.times=\"stratfied\"", "did you mean `stratified`"),
            ("student.diffusion.blok=4", "did you mean `block`"),
            ("stages.align.diffusion.block=4", "unknown key"),
        ] {
            let error = load_text(RECIPE, &sets(&["stages.align.objective=masked-diffusion", set])).expect_err(set).to_string();
            assert!(error.contains(wanted), "{set}: {error}");
        }
        let error = load_text(RECIPE, &sets(&["stages.align.diffusion={}"])).expect_err("another objective").to_string();
        assert!(error.contains("only for the objective masked-diffusion"), "{error}");
    }

    #[test]
    fn impossible_values() {
        for (set, wanted) in [
            ("stages.align.batch=0", "at least 1"),
            ("stages.align.learning_rate=-1.0", "positive"),
            ("stages.align.objective=\"guess\"", "expected one of output-alignment"),
            ("stages.align.objective=logits-kl", "did you mean `logit-kl`"),
            ("stages.align.tokens=many", "`stages.align.tokens`: expected a whole number, found \"many\""),
            ("stages.align.tokens=1.5", "expected a whole number, found 1.5"),
            ("stages.align.batch=-1", "at least 0"),
            ("stages.align.recompute=yes", "expected true or false"),
            ("stages.align=3", "expected a table"),
            ("text.train=[1]", "expected text, found 1"),
            ("stages.align.micro_batch=2", "divide"),
            ("stages.align.schedule=linear", "schedule has no effect: the rate stays what it is without final_learning_rate"),
            ("stages.align.wait=0.5", "stage `align`: wait has no effect"),
            ("stages.align.end=0.5", "stage `align`: end has no effect"),
            (
                "stages.align.groups=[{ pattern = \"w0\", learning_rate = 1e-3, schedule = \"exponential\" }]",
                "schedule of `w0` has no effect",
            ),
            ("text.shuffle=\"none at all\"", "expected feistel"),
            ("stages.align.epsilon=0", "epsilon is 0, expected above 0"),
            ("stages.align.epsilon=1e-60", "expected above 0"),
            ("stages.align.epsilon=-1e-8", "expected above 0"),
            ("stages.align.epsilon=inf", "expected above 0"),
            ("stages.nope.batch=1", "no entry `nope`"),
            ("stages.align.context=1000000000000", "stage `align`: context is 1000000000000, expected below 2^32"),
            ("stages.align.batch=1000000000000", "stage `align`: batch is 1000000000000, expected below 2^32"),
            ("stages.align.context=4000000000", "more than 2^32"),
            ("validation.tokens=0", "validation.tokens is 0, expected at least 1"),
            ("validation.context=0", "validation.context is 0, expected at least 1"),
            ("text.max_tokens=0", "text.max_tokens is 0, expected at least 1"),
            ("stages.align.train=[\"\"]", "stage `align`: train has the pattern \"\""),
            ("stages.align.train=[\"*\", \"!\"]", "stage `align`: train has the pattern \"!\""),
            ("stages.align.groups=[{ pattern = \"\", learning_rate = 1e-3 }]", "groups.pattern has the pattern"),
            ("name=", "name is ``, expected letters"),
            ("name=../x", "name is `../x`, expected letters"),
            ("name=/x", "name is `/x`, expected letters"),
            ("name=..", "no . at the beginning"),
        ] {
            let error = load_text(RECIPE, &sets(&[set])).expect_err(set).to_string();
            assert!(error.contains(wanted), "{set}: {error}");
        }
    }
}
