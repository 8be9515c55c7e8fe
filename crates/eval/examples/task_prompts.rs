//! Loads every embedded task from a data folder and shows one prompt of each, with the bytes and
//! the items there are: to look at a task before any model is asked.
//!
//! `cargo run -p recast-eval --example task_prompts -- FOLDER`

use std::path::PathBuf;

use recast_eval::table::{Align, Table, fixed};
use recast_eval::tasks::{BUILTIN, Body};
use recast_eval::{LoadOptions, Task};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("expected a data folder")?);
    let mut table =
        Table::new(&[("task", Align::Left), ("items", Align::Right), ("chance", Align::Right), ("text, MB", Align::Right)]);
    for (name, _) in BUILTIN {
        let loaded = Task::builtin(name)?.load(&folder, &LoadOptions::default())?;
        let mut bytes = 0;
        for item in &loaded.items {
            bytes += match &item.body {
                Body::Pairs { pairs, .. } => pairs.iter().map(|(a, b)| a.len() + b.len()).sum(),
                Body::Text(text) => text.len(),
                Body::Generate { context, .. } => context.len(),
            };
        }
        table.row([
            (*name).into(),
            loaded.items.len().to_string(),
            loaded.chance().map(|c| fixed(c, 4)).unwrap_or_default(),
            fixed(bytes as f64 / 1e6, 2),
        ]);
        let shown = match &loaded.items[0].body {
            Body::Pairs { pairs, gold } => format!("{:?}, right: {gold}", pairs[*gold]),
            Body::Text(text) => format!("{:?}", text.chars().take(200).collect::<String>()),
            Body::Generate { context, answers } => format!("{context:?}, answers: {answers:?}"),
        };
        eprintln!("{name}, item {}: {shown}\n", loaded.items[0].id);
    }
    print!("{}", table.plain());
    Ok(())
}
