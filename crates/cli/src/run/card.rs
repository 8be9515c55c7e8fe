//! The model card (README.md) of an exported model.

use recast_models::export::Provenance;
use recast_train::Trainer;
use std::fmt::Write;

/// The card's text.
pub fn card(trainer: &Trainer, provenance: &Provenance) -> String {
    let config = &trainer.student.config;
    let mut kinds: Vec<&str> = config.mixers.iter().map(|m| m.kind.as_str()).collect();
    kinds.dedup();
    let mut out = String::from("---\nlibrary_name: recast\ntags:\n- recast\n");
    for kind in &kinds {
        let _ = writeln!(out, "- {kind}");
    }
    let _ = writeln!(out, "---\n\n# {}\n", trainer.recipe.name);
    if !provenance.teacher.is_empty() {
        let _ = writeln!(
            out,
            "Converted from `{}`: the feed-forwards are the teacher's, its attention was replaced by {} and distilled with {} tokens.\n",
            provenance.teacher,
            kinds.join(", "),
            provenance.tokens
        );
    }
    let _ = writeln!(out, "| held-out text | perplexity | KL from the teacher |\n|---|---|---|");
    for (name, loss) in &trainer.position.held_out {
        let kl = loss.kl.map_or_else(|| "-".into(), |kl| format!("{kl:.4}"));
        let _ = writeln!(out, "| {} | {:.3} | {kl} |", super::summary::label(name), loss.perplexity());
    }
    for (name, loss) in trainer.position.held_out.iter().filter(|(_, loss)| loss.bound.is_some()) {
        let _ = writeln!(out, "\n{}{}.", super::summary::label(name), loss.bound_text());
    }
    let _ = writeln!(out, "\nRecipe {}, Recast {}.", &provenance.recipe_hash[..16], provenance.version);
    out
}
