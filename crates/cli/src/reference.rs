//! The pages of docs/reference, made from what the program itself knows: its arguments, the schema
//! of recipes, the options of registered mixers, tasks. The test holds the files to them;
//! `RECAST_UPDATE_DOCS=1 cargo test --release --workspace reference` writes them anew.

use clap::CommandFactory;
use serde_json::Value;
use std::path::Path;

/// Every verb with its help as a terminal of 100 columns shows it.
fn command_line() -> String {
    let mut out = String::from("# Command line\n\nGenerated from the program; see `recast VERB --help`.\n");
    let mut root = crate::Arguments::command().term_width(100);
    root.build();
    page(&mut root, "recast", 2, &mut out);
    out
}

fn page(command: &mut clap::Command, name: &str, level: usize, out: &mut String) {
    let help = command.render_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    out.push_str(&format!("\n{} `{name}`\n\n```text\n{}\n```\n", "#".repeat(level), help.join("\n").trim()));
    let below: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).filter(|n| n != "help").collect();
    for verb in below {
        if let Some(sub) = command.find_subcommand_mut(&verb) {
            page(sub, &format!("{name} {verb}"), (level + 1).min(4), out);
        }
    }
}

/// Every key of a recipe.
fn recipe() -> String {
    let schema = recast_train::Recipe::schema();
    let mut out = String::from("# Recipes\n\nGenerated from the schema (`recast schema`); unknown keys are refused.\n");
    out.push_str(&format!("\n## the file\n\n{}", table(&schema)));
    for (name, part) in schema["$defs"].as_object().into_iter().flatten() {
        if part["properties"].is_object() {
            out.push_str(&format!("\n## {name}\n\n{}\n\n{}", text(&part["description"]), table(part)));
        } else {
            let alternatives = part["oneOf"].as_array().into_iter().flatten().map(|one| {
                let value = one.get("const").or_else(|| one["enum"].get(0)).map_or_else(String::new, Value::to_string);
                format!("- `{value}`: {}\n", text(&one["description"]))
            });
            out.push_str(&format!("\n## {name}\n\n{}\n\n{}", text(&part["description"]), alternatives.collect::<String>()));
        }
    }
    out
}

/// Every registered mixer and its options.
fn mixers() -> String {
    let mut out = String::from(
        "# Mixers\n\nGenerated from the registry: `mixer = { kind = \"NAME\", option = value }` in a recipe's `[student]`.\n",
    );
    for mixer in recast_models::mixers::BUILT_IN {
        let schema = Value::from((mixer.schema)());
        let state = if mixer.constant_state { "State of constant size." } else { "State that grows with the text." };
        out.push_str(&format!("\n## {}\n\n{} {state}\n\n{}", mixer.name, sentence(mixer.about), table(&schema)));
    }
    out
}

/// Every task, with the data file that it reads.
fn tasks() -> String {
    let mut out = String::from(
        "# Tasks\n\nGenerated from crates/eval/tasks: what `recast eval --tasks NAME,NAME --data DIR` looks for in DIR, one JSON \
         object a line with these fields unless said otherwise. How to make such files: \
         [evaluating](../guide/evaluating.md).\n\n\
         | name | file | fields | metrics, the compared one first | from |\n|---|---|---|---|---|\n",
    );
    for (name, _) in recast_eval::tasks::BUILTIN {
        let task = recast_eval::Task::builtin(name).expect("an embedded task");
        let said = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let fields = task.data.fields.iter().map(|(field, kind)| format!("`{field}`: {}", said(serde_json::json!(kind))));
        let fields = match task.data.format {
            recast_eval::tasks::Format::Jsonl => fields.collect::<Vec<_>>().join(", "),
            recast_eval::tasks::Format::Text => "plain text".into(),
            recast_eval::tasks::Format::Wikitext => "WikiText's raw text".into(),
        };
        let others = task.score.metrics.iter().filter(|&&m| m != task.score.primary);
        let metrics: Vec<String> = std::iter::once(&task.score.primary).chain(others).map(|m| m.to_string()).collect();
        let shots = task.shots.map_or_else(String::new, |s| format!(", {} solved examples from `{}`", s.count, s.file));
        let from = format!("{}; {}", task.origin.source, task.origin.licence).replace('|', "\\|");
        let (file, metrics) = (task.data.file, metrics.join(", "));
        out.push_str(&format!("| `{name}` | `{file}`{shots} | {fields} | {metrics} | {from} |\n"));
    }
    out
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// Properties of a schema as a table.
fn table(schema: &Value) -> String {
    let Some(properties) = schema["properties"].as_object().filter(|p| !p.is_empty()) else {
        return "No options.\n".into();
    };
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut out = String::from("| key | type | default | meaning |\n|---|---|---|---|\n");
    for (key, property) in properties {
        let default = match property.get("default") {
            Some(Value::Null) | None if required.contains(&key.as_str()) => "required".into(),
            Some(Value::Null) | None => String::new(),
            Some(value) => format!("`{value}`"),
        };
        out.push_str(&format!("| `{key}` | {} | {default} | {} |\n", kind(property), text(&property["description"])));
    }
    out
}

/// A property's type in words.
fn kind(property: &Value) -> String {
    if let Some(name) = property["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or(name).to_owned();
    }
    if let Some(name) = property["type"].as_str() {
        return match name {
            "array" => format!("list of {}", kind(&property["items"])),
            name => name.to_owned(),
        };
    }
    let all = property["type"].as_array().map(|types| types.iter().filter_map(Value::as_str).map(String::from).collect());
    let any = || property["anyOf"].as_array().into_iter().flatten().map(kind).collect::<Vec<_>>();
    let names: Vec<String> = all.unwrap_or_else(any);
    names.into_iter().filter(|n| n != "null" && !n.is_empty()).collect::<Vec<_>>().join(" or ")
}

fn text(description: &Value) -> String {
    description.as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

#[test]
fn reference_pages_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (name, wanted) in [("cli.md", command_line()), ("recipe.md", recipe()), ("mixers.md", mixers()), ("tasks.md", tasks())] {
        let path = folder.join(name);
        if std::env::var_os("RECAST_UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(&folder).expect("docs/reference");
            std::fs::write(&path, &wanted).expect("writes the page");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "docs/reference/{name} is not what the program says; RECAST_UPDATE_DOCS=1 cargo test --release --workspace reference"
        );
    }
}
