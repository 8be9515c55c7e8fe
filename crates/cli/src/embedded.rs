//! The teacher and the text inside the binary, so that a first run works offline.
//!
//! They are written once to a folder beside the runs, or for verbs that make no run to the user's cache; recipes name
//! them `embedded`.

use anyhow::Context;
use recast_train::Recipe;
use recast_train::recipe::{EMBEDDED, Embedded};
use std::path::{Path, PathBuf};

/// The files, compressed where that pays.
const MODEL: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../assets/tiny/model/config.json")),
    ("model.safetensors", include_bytes!("../../../assets/tiny/model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../assets/tiny/model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../assets/tiny/model/tokenizer_config.json")),
];
const TEXT: &[u8] = include_bytes!("../../../assets/tiny/text.jsonl.zst");
const HELD_OUT: &[u8] = include_bytes!("../../../assets/tiny/held_out.jsonl.zst");

/// The recipe of a first run.
pub const QUICKSTART: &str = include_str!("../../../recipes/quickstart.toml");

/// Folder of the embedded model, written out if it is not there yet.
fn model(folder: &Path) -> anyhow::Result<PathBuf> {
    let place = folder.join("model");
    for (name, bytes) in MODEL {
        put(&place.join(name), bytes)?;
    }
    Ok(place)
}

/// A model path, where `embedded` stands for the one inside the binary.
pub fn resolve(path: &Path) -> anyhow::Result<PathBuf> {
    if path == Path::new(EMBEDDED) { model(&cache()) } else { Ok(path.to_owned()) }
}

/// Where the files that a recipe may name are, below `folder`. Those that it names are written out, and only those: a
/// folder that cannot be written to is no matter to the others.
pub fn files(recipe: &Recipe, folder: &Path) -> anyhow::Result<Embedded> {
    let files = Embedded {
        model: folder.join("model"),
        text: folder.join("text.jsonl.zst"),
        held_out: folder.join("held_out.jsonl.zst"),
    };
    let named = |path: &PathBuf| path.as_path() == Path::new(EMBEDDED);
    if recipe.teacher.as_ref().is_some_and(|teacher| named(&teacher.path)) {
        model(folder)?;
    }
    // The embedded text brings the text held out with it.
    if recipe.text.train.iter().chain(&recipe.text.held_out).any(named) {
        put(&files.text, TEXT)?;
        put(&files.held_out, HELD_OUT)?;
    }
    Ok(files)
}

/// The folder beside the runs.
pub fn beside_runs() -> PathBuf {
    PathBuf::from("runs").join(".embedded")
}

/// The folder for verbs that make no run: in the user's cache, or where that takes no file among the temporary ones.
pub fn cache() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache"))).or_else(|| named("LOCALAPPDATA"));
    let takes_files = |folder: &PathBuf| std::fs::create_dir_all(folder).is_ok() && tempfile::tempfile_in(folder).is_ok();
    let own = base.map(|base| base.join("recast").join("embedded")).filter(takes_files);
    own.unwrap_or_else(|| std::env::temp_dir().join("recast-embedded"))
}

/// Writes a file unless it is there with these bytes.
fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).and_then(|()| recast_text::files::replace(path, bytes));
    written.with_context(|| format!("writing the embedded files to {}", path.display()))
}
