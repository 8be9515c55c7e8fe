//! What a run's bits depend on beside its recipe: kept in its folder, so that a resumed run goes on
//! as it began.

use crate::{Global, Precision};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const NAME: &str = "run.json";

/// How a run was begun.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Conditions {
    /// The command line.
    pub command: String,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Worker threads.
    pub threads: usize,
    /// Variants of the stages' objectives, in words, by the stage's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variants: BTreeMap<String, String>,
}

impl Conditions {
    /// Those of this process.
    pub fn now(global: &Global) -> Self {
        Self {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            precision: global.precision,
            threads: recast_ops::cpu::threads(),
            variants: BTreeMap::new(),
        }
    }

    /// Those that a run was begun with; none for runs older than this file.
    pub fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{}: not what a run writes", path.display()))
    }

    /// Writes them beside the recipe.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(NAME);
        std::fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", path.display()))
    }

    /// Sets this process to them; threads are as they were started, and a difference is told.
    pub fn restore(&self, global: &Global) -> anyhow::Result<()> {
        Global { precision: self.precision, ..global.clone() }.device()?;
        if self.precision != global.precision {
            eprintln!("the run was begun at precision {} and goes on so", self.precision);
        }
        let threads = recast_ops::cpu::threads();
        if self.threads != threads {
            eprintln!("the run was begun on {} threads and goes on on {threads}: its bits will differ", self.threads);
        }
        Ok(())
    }
}
