//! Options of models that denoise.

use recast_infer::samplers::denoising::{Canvas, Denoising, Editing, Ends, Keep, Order, Remasking, Rule};
use recast_text::Tokenizer;

/// How a masked diffusion model writes.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Options of models that denoise")]
pub struct DenoisingArgs {
    /// Which predictions are committed in a step: threshold, fixed, random, factor, entropy,
    /// hierarchical or ancestral. Default: threshold; with --steps: fixed.
    #[arg(long, value_enum, value_name = "RULE")]
    rule: Option<Name>,
    /// Steps for the whole text (fixed, random, ancestral).
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Commit what is at least so probable (threshold: 0.9 without it; hierarchical: 0.9). Above 1 is
    /// one token a step.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Of every run of masks, commit the best if it is so probable (hierarchical: 0.5 without it).
    #[arg(long, value_name = "P")]
    low: Option<f32>,
    /// f of the factor rule (1 without it); 0 is one token a step.
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    factor: Option<f32>,
    /// Bound of the entropy rule in nats (0.1 without it); 0 is one token a step.
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    entropy: Option<f32>,
    /// Mask drawn tokens again (ancestral): cap=ETA, rescale=ETA or doubtful (ReMDM).
    #[arg(long, value_name = "HOW")]
    remask: Option<String>,
    /// Positions settled before the next are begun. Default: the model's own block, else 32.
    #[arg(long, value_name = "N")]
    block: Option<usize>,
    /// What is best where the best come first: probability, margin or entropy.
    #[arg(long, value_name = "ORDER", value_parser = order)]
    order: Option<Order>,
    /// Weight of guidance away from what the model would write without the prompt; 0 is off. Costs
    /// twice the forward passes.
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// End tokens: free, last (committed when nothing else is left, and so is what ends a turn; not with
    /// ancestral) or never. Default: free, and never with --infill.
    #[arg(long, value_name = "RULE", value_parser = ends)]
    ends: Option<Ends>,
    /// Fill all positions, even behind an end token or stop string.
    #[arg(long)]
    fill_all: bool,
    /// Replace a committed token of the block when another becomes so probable (LLaDA2.1). Asks for
    /// tokens the model sees, which uniform noise alone trains here.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    edit: Option<f32>,
    /// Forward passes for that after the block's last mask, at most 1024.
    #[arg(long, default_value_t = 1, value_name = "N", requires = "edit")]
    edit_passes: usize,
    /// Masks behind the block that a model of whole sequences sees. Default: all of them.
    #[arg(long, value_name = "N")]
    ahead: Option<usize>,
    /// What a model of whole sequences keeps from step to step, faster and an approximation:
    /// nothing (the default), prefix (what stands before the block) or around (what stands behind it
    /// too); attention without a window only.
    #[arg(long, value_name = "WHAT", value_parser = keep)]
    keep: Option<Keep>,
    /// Fill holes: [[N]] in the prompt stands for N tokens, anywhere.
    #[arg(long, conflicts_with_all = ["chat", "max_tokens", "repeat_context"])]
    pub infill: bool,
    /// Show the text settling on standard error, in place on a terminal.
    #[arg(long)]
    pub watch: bool,
    /// The least time between two steps that are watched, not counted in speeds.
    #[arg(long, default_value_t = 80, value_name = "MS", requires = "watch")]
    pub watch_ms: u64,
    /// Write every step to this file as JSON lines, for `recast replay`.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<std::path::PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// All that are sure enough.
    Threshold,
    /// As many a step, the most confident first.
    Fixed,
    /// As many a step, in random order.
    Random,
    /// As many as are surely independent.
    Factor,
    /// As many as a bound on the entropies allows.
    Entropy,
    /// The best of every run of masks, and all that are sure.
    Hierarchical,
    /// The reverse process of the training.
    Ancestral,
}

/// One of a setting's words, as the settings themselves read them.
fn word<T: serde::de::DeserializeOwned>(text: &str, words: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("expected {words}"))
}

fn order(text: &str) -> Result<Order, String> {
    word(text, "probability, margin or entropy")
}

/// What to keep from step to step.
pub fn keep(text: &str) -> Result<Keep, String> {
    word(text, "nothing, prefix or around")
}

fn ends(text: &str) -> Result<Ends, String> {
    word(text, "free, last or never")
}

fn remasking(text: &str) -> anyhow::Result<Remasking> {
    let (name, number) = text.split_once('=').map_or((text, None), |(name, number)| (name, Some(number)));
    let eta = || number.and_then(|n| n.parse::<f32>().ok());
    match (name, eta()) {
        ("cap", Some(eta)) => Ok(Remasking::Cap { eta }),
        ("rescale", Some(eta)) => Ok(Remasking::Rescale { eta }),
        ("doubtful", None) if number.is_none() => Ok(Remasking::Doubtful),
        _ => Err(wrong("--remask", "cap=ETA, rescale=ETA or doubtful", text)),
    }
}

/// An option that was asked for wrongly.
fn wrong(name: &'static str, expected: &str, found: &str) -> anyhow::Error {
    recast_infer::InferError::Setting { name, expected: expected.into(), found: found.into() }.into()
}

impl DenoisingArgs {
    /// The first option given that only denoising has.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            ("--rule", self.rule.is_some()),
            ("--steps", self.steps.is_some()),
            ("--threshold", self.threshold.is_some()),
            ("--low", self.low.is_some()),
            ("--factor", self.factor.is_some()),
            ("--entropy", self.entropy.is_some()),
            ("--remask", self.remask.is_some()),
            ("--block", self.block.is_some()),
            ("--order", self.order.is_some()),
            ("--guidance", self.guidance.is_some()),
            ("--ends", self.ends.is_some()),
            ("--fill-all", self.fill_all),
            ("--edit", self.edit.is_some()),
            ("--ahead", self.ahead.is_some()),
            ("--keep", self.keep.is_some()),
            ("--infill", self.infill),
            ("--watch", self.watch),
            ("--trace", self.trace.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// The checked settings.
    ///
    /// # Errors
    /// When an option is out of range, or belongs to another rule.
    pub fn settings(&self, temperature: f32, top_p: Option<f32>, seed: u64) -> anyhow::Result<Denoising> {
        let settings = Denoising {
            rule: self.rule()?,
            block: self.block,
            temperature,
            top_p,
            guidance: self.guidance.unwrap_or(0.0),
            ends: self.ends.unwrap_or(if self.infill { Ends::Never } else { Ends::Free }),
            until_end: !self.fill_all,
            order: self.order.unwrap_or_default(),
            editing: self.edit.map(|at| Editing { at, passes: self.edit_passes }),
            ahead: self.ahead,
            keep: self.keep.unwrap_or_default(),
            seed,
        };
        settings.check()?;
        Ok(settings)
    }

    fn rule(&self) -> anyhow::Result<Rule> {
        let name = self.rule.unwrap_or(match self {
            Self { steps: Some(_), .. } => Name::Fixed,
            Self { factor: Some(_), .. } => Name::Factor,
            Self { entropy: Some(_), .. } => Name::Entropy,
            _ => Name::Threshold,
        });
        let stepped = matches!(name, Name::Fixed | Name::Random | Name::Ancestral);
        let misplaced = [
            ("--steps", self.steps.is_some() && !stepped),
            ("--threshold", self.threshold.is_some() && !matches!(name, Name::Threshold | Name::Hierarchical)),
            ("--low", self.low.is_some() && name != Name::Hierarchical),
            ("--factor", self.factor.is_some() && name != Name::Factor),
            ("--entropy", self.entropy.is_some() && name != Name::Entropy),
            ("--remask", self.remask.is_some() && name != Name::Ancestral),
        ];
        if let Some((option, _)) = misplaced.into_iter().find(|(_, wrong)| *wrong) {
            return Err(wrong(option, "the rule that it belongs to (see --help)", &format!("the rule {name:?}").to_lowercase()));
        }
        let steps = || {
            self.steps.ok_or_else(|| wrong("--steps", "the number of steps for the whole text, which this rule needs", "nothing"))
        };
        Ok(match name {
            Name::Threshold => Rule::Threshold { at: self.threshold.unwrap_or(0.9) },
            Name::Fixed => Rule::Fixed { steps: steps()? },
            Name::Random => Rule::Random { steps: steps()? },
            Name::Factor => Rule::Factor { at: self.factor.unwrap_or(1.0) },
            Name::Entropy => Rule::Entropy { at: self.entropy.unwrap_or(0.1) },
            Name::Hierarchical => Rule::Hierarchical { high: self.threshold.unwrap_or(0.9), low: self.low.unwrap_or(0.5) },
            Name::Ancestral => {
                let remasking = self.remask.as_deref().map(remasking).transpose()?.unwrap_or_default();
                Rule::Ancestral { steps: steps()?, remasking }
            }
        })
    }
}

/// A text with holes: `[[N]]` stands for N tokens.
///
/// # Errors
/// When there is no hole, or one is not a number from 1.
pub fn infilling(text: &str, tokenizer: &Tokenizer) -> anyhow::Result<Canvas> {
    let mut canvas = Canvas::default();
    let mut rest = text;
    let mut holes = 0;
    // Behind a hole the text goes on: what is put before the beginning of one has no place there.
    let encode = |piece: &str, holes: usize| {
        if holes == 0 { tokenizer.encode(piece, true) } else { tokenizer.encode_continuation(piece, None) }
    };
    while let Some((before, after)) = rest.split_once("[[") {
        let (count, after) = after.split_once("]]").ok_or_else(|| wrong("--infill", "]] behind [[", &format!("{after:?}")))?;
        let count: usize = count
            .trim()
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| wrong("--infill", "a number of tokens from 1 between [[ and ]]", count))?;
        canvas.text(&encode(before, holes)?);
        canvas.holes(count);
        (rest, holes) = (after, holes + 1);
    }
    canvas.text(&encode(rest, holes)?);
    if holes == 0 {
        return Err(wrong("--infill", "a prompt with at least one hole, such as [[8]] for eight tokens", "none"));
    }
    Ok(canvas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use recast_text::GgufVocab;

    #[test]
    fn no_blank_is_put_behind_a_hole() {
        let tokens = ["<unk>", "\u{2581}", "a", "b", "\u{2581}a", "\u{2581}b"].map(String::from).to_vec();
        let vocab = GgufVocab {
            model: "llama".into(),
            scores: Some(vec![0.0; tokens.len()]),
            tokens,
            unknown: Some(0),
            ..GgufVocab::default()
        };
        let tokenizer = Tokenizer::from_gguf(vocab).expect("a tokenizer");
        let canvas = infilling("a[[2]]b[[1]] a", &tokenizer).expect("a canvas");
        assert_eq!(canvas.positions(), [Some(4), None, None, Some(3), None, Some(4)]);
        assert!(infilling("a", &tokenizer).is_err());
    }
}
