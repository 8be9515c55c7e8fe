//! Reading recipes: inheritance, `--set`, unknown keys.

use super::Recipe;
use crate::error::TrainError;
use serde_json::Value;
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
    let value = serde_json::to_value(&table).map_err(|e| TrainError::Recipe(e.to_string()))?;
    let schema = Recipe::schema();
    unknown_keys(&value, &schema, &schema, "")?;
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

/// Refuses keys that the schema does not know.
fn unknown_keys(value: &Value, schema: &Value, root: &Value, path: &str) -> Result<(), TrainError> {
    let schema = resolve(schema, root);
    match value {
        Value::Object(map) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
            // A table that takes anything else (a mixer's options) is checked by its owner.
            let open = schema.get("additionalProperties") != Some(&Value::Bool(false));
            for (key, child) in map {
                let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match properties.get(key) {
                    Some(child_schema) => unknown_keys(child, child_schema, root, &here)?,
                    None if open => {}
                    None => {
                        let known: Vec<String> = properties.keys().cloned().collect();
                        let hint = recast_models::config::nearest(key, &known)
                            .map_or_else(|| format!("known keys: {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
                        return Err(TrainError::Recipe(format!("unknown key `{here}`; {hint}")));
                    }
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(item_schema) = schema.get("items") else { return Ok(()) };
            items.iter().enumerate().try_for_each(|(i, item)| unknown_keys(item, item_schema, root, &format!("{path}.{i}")))
        }
        _ => Ok(()),
    }
}

/// Follows references and the non-null branch of an optional value.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let branches = ["anyOf", "oneOf", "allOf"].iter().find_map(|k| schema.get(*k)).and_then(Value::as_array);
    if let Some(branch) = branches.and_then(|b| b.iter().find(|s| s.get("type") != Some(&Value::from("null")))) {
        return resolve(branch, root);
    }
    match schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')).and_then(|p| root.pointer(p)) {
        Some(target) => resolve(target, root),
        None => schema,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn sets_and_defaults() {
        let recipe = load_text(RECIPE, &sets(&["stages.align.tokens=50", "stages.0.batch=4", "seed=7", "teacher.path=a/b.gguf"])).expect("loads");
        assert_eq!((recipe.stages[0].tokens, recipe.stages[0].batch, recipe.seed), (50, 4, 7));
        assert_eq!(recipe.stages[0].steps(), 2);
        assert_eq!(recipe.stages[0].beta2, 0.95);
        assert_eq!(recipe.stages[0].weight_decay, 0.0);
        assert_eq!(recipe.teacher.expect("teacher").path, Path::new("a/b.gguf"));
    }

    #[test]
    fn resolved_recipe_reads_back() {
        let recipe = load_text(RECIPE, &[]).expect("loads");
        let again = load_text(&recipe.to_toml(), &[]).expect("reads back");
        assert_eq!(again.hash(), recipe.hash());
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
    fn impossible_values() {
        for (set, wanted) in [
            ("stages.align.batch=0", "at least 1"),
            ("stages.align.learning_rate=-1.0", "positive"),
            ("stages.align.objective=\"guess\"", "unknown variant"),
            ("stages.align.micro_batch=2", "divide"),
            ("text.shuffle=\"none at all\"", "expected feistel"),
            ("stages.nope.batch=1", "no entry `nope`"),
        ] {
            let error = load_text(RECIPE, &sets(&[set])).expect_err(set).to_string();
            assert!(error.contains(wanted), "{set}: {error}");
        }
    }
}
