//! The model card (README.md) of an exported model.

use super::summary::held_out;
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
        let (teacher, tokens) = (&provenance.teacher, provenance.tokens);
        let how = match kinds.as_slice() {
            ["softmax"] => "its weights, attention included, were".to_owned(),
            kinds => format!("its attention was replaced by {}, and the result was", kinds.join(", ")),
        };
        let stages = trainer.recipe.stages.iter().map(|stage| match stage.train.as_slice() {
            [all] if all == "*" => format!("{} (every parameter)", stage.name),
            some => format!("{} ({})", stage.name, some.join(", ")),
        });
        let stages = stages.collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "Made from `{teacher}`: {how} trained on {tokens} tokens in these stages: {stages}.\n");
    }
    out.push_str(&held_out::table(&trainer.position.held_out).markdown());
    for note in held_out::notes(&trainer.position.held_out) {
        let (first, rest) = note.split_at(note.chars().next().map_or(0, char::len_utf8));
        let _ = writeln!(out, "\n{}{rest}.", first.to_uppercase());
    }
    let _ = writeln!(out, "\nRecipe {}, Recast {}.", &provenance.recipe_hash[..16], provenance.version);
    out
}
