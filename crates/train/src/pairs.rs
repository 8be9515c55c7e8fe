//! Fine-tuning text: prompts that are never noised, and responses that have the loss.
//!
//! A line of a file is a `prompt` and its `response`, plain text, or the `messages` of a conversation, which the model's
//! chat template renders as `chat` does. Of several answers in a conversation one is drawn at each reading, and all that
//! stands before it is the prompt, as published.
//!
//! A row is prompt, response and end-of-text. Published practice (LLaDA, arXiv 2502.09992) fills rows
//! with more of the end-of-text up to the longest of the micro-batch and trains on all of it, which is
//! how the model learns lengths, and why it is fond of ending early; [`Padding`] has the alternatives.

use crate::error::TrainError;
use crate::objectives::MicroBatch;
use crate::objectives::masked_diffusion::{Draw, Padding};
use crate::recipe::Stage;
use recast_models::random::Random;
use recast_text::files::hex;
use recast_text::{ChatTemplate, Message, Tokenizer};
use serde::Deserialize;
use std::path::PathBuf;

/// One line of a file of pairs; whatever else it has is not read.
#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    response: Option<String>,
    messages: Option<Vec<Message>>,
}

/// A prompt and what should follow it, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    prompt: Vec<u32>,
    /// With the end-of-text.
    response: Vec<u32>,
}

/// The pairs of a stage.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// The answers of each line, each behind all that stands before it.
    all: Vec<Vec<Pair>>,
    end: u32,
}

/// What makes pairs of lines.
struct Reader<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    /// Ends a response that has no end of its own.
    end: u32,
}

impl Pairs {
    /// Reads JSON lines of `prompt` and `response`, or of `messages`; longer ones than `context` lose the end of the
    /// response, and answers whose prompt leaves no room are left out.
    ///
    /// # Errors
    /// When a file cannot be read, a line is something else, no prompt of a line leaves room, the chat template is
    /// missing, refuses a conversation or does not put an answer behind its prompt, or the tokenizer has no end-of-text.
    pub fn open(paths: &[PathBuf], tokenizer: &Tokenizer, context: usize) -> Result<Self, TrainError> {
        let end = tokenizer.eos_ids().first().copied().or_else(|| tokenizer.document_separator());
        let Some(end) = end else {
            return Err(TrainError::Recipe("pairs: the tokenizer has no end-of-text token to end responses with".into()));
        };
        let reader = Reader { tokenizer, template: tokenizer.chat_template()?, end };
        let mut all = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let fail = |what: String| TrainError::Recipe(format!("{}, line {}: {what}", path.display(), number + 1));
                let line: Line = serde_json::from_str(line).map_err(|e| fail(format!("{e}; expected {EXPECTED}")))?;
                let mut answers = reader.answers(&line).map_err(fail)?;
                let least = answers.iter().map(|pair| pair.prompt.len()).min().unwrap_or(0);
                if least >= context {
                    return Err(fail(format!("the prompt has {least} tokens, which leaves no room in a context of {context}")));
                }
                answers.retain(|pair| pair.prompt.len() < context);
                answers.iter_mut().for_each(|pair| pair.response.truncate(context - pair.prompt.len()));
                all.push(answers);
            }
        }
        if all.is_empty() {
            return Err(TrainError::Recipe("pairs: the files hold no pair".into()));
        }
        Ok(Self { all, end })
    }

    /// Number of lines: an epoch reads so many pairs, of a conversation one.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A hash of all of them.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for answers in &self.all {
            if answers.len() > 1 {
                hash.update((answers.len() as u64).to_le_bytes());
            }
            for part in answers.iter().flat_map(|pair| [&pair.prompt, &pair.response]) {
                hash.update((part.len() as u64).to_le_bytes());
                part.iter().for_each(|token| hash.update(token.to_le_bytes()));
            }
        }
        hex(&hash.finalize())
    }

    /// The micro-batches of one step: every epoch reads all lines once, in an order of its own.
    pub fn micro_batches(&self, stage: &Stage, padding: Padding, block: Option<usize>, seed: u64, step: u64) -> Vec<MicroBatch> {
        let first = step * stage.batch as u64;
        let chosen: Vec<&Pair> = (0..stage.batch as u64).map(|i| self.at(seed, first + i)).collect();
        let size = stage.micro_batch.unwrap_or(stage.batch);
        let pieces = chosen.chunks(size).enumerate();
        let draw = |at: usize| Draw { seed, step, steps: stage.steps(), first_row: at * size, rows: stage.batch };
        pieces.map(|(at, pairs)| self.rows(pairs, padding, block, draw(at))).collect()
    }

    /// The pair at a place in the row of epochs: of several answers one by chance.
    fn at(&self, seed: u64, place: u64) -> &Pair {
        let answers = &self.all[self.order(seed, place)];
        let turn = Random::new(seed, &format!("answer {place}")).bits() % answers.len() as u64;
        &answers[turn as usize]
    }

    fn order(&self, seed: u64, place: u64) -> usize {
        let (epoch, at) = (place / self.len() as u64, (place % self.len() as u64) as usize);
        let mut random = Random::new(seed, &format!("pairs {epoch}"));
        let mut order: Vec<usize> = (0..self.len()).collect();
        for i in 0..=at {
            let j = i + (random.bits() % (order.len() - i) as u64) as usize;
            order.swap(i, j);
        }
        order[at]
    }

    fn rows(&self, pairs: &[&Pair], padding: Padding, block: Option<usize>, draw: Draw) -> MicroBatch {
        let longest = pairs.iter().map(|p| p.prompt.len() + p.response.len()).max().unwrap_or(1);
        let filled = |length: usize| match (padding, block) {
            (Padding::Longest, _) => longest,
            (Padding::Block, Some(block)) => length.next_multiple_of(block),
            (Padding::Block, None) | (Padding::None, _) => length,
        };
        let lengths: Vec<usize> = pairs.iter().map(|p| filled(p.prompt.len() + p.response.len())).collect();
        let columns = lengths.iter().copied().max().unwrap_or(1);
        let (mut inputs, mut kept, mut targets, mut weights, mut shares) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (pair, &length) in pairs.iter().zip(&lengths) {
            let row = inputs.len();
            inputs.extend(pair.prompt.iter().chain(&pair.response));
            inputs.resize(row + columns, self.end);
            let answers = pair.prompt.len()..length;
            kept.extend((0..columns).map(|i| !answers.contains(&i)));
            // Beside it, the next-token loss asks for the response too.
            targets.extend(inputs[row + 1..].iter().copied().chain([self.end]));
            weights.extend((0..columns).map(|i| if answers.contains(&(i + 1)) { 1.0 } else { 0.0 }));
            shares.push(columns as f32 / answers.len().max(1) as f32);
        }
        let uneven = lengths.iter().any(|&length| length < columns);
        MicroBatch {
            rows: pairs.len(),
            inputs,
            targets: targets.into(),
            documents: None,
            weights: Some(weights.into()),
            denominator: (draw.rows * columns) as f32,
            prompt: Some(kept.into()),
            response_share: Some(shares.into()),
            lengths: uneven.then(|| lengths.into()),
            draw,
        }
    }
}

/// What a line holds.
const EXPECTED: &str = "a `prompt` and a `response`, or `messages`";

impl Reader<'_> {
    /// The answers of a line, at least one.
    fn answers(&self, line: &Line) -> Result<Vec<Pair>, String> {
        match (&line.prompt, &line.response, &line.messages) {
            (Some(prompt), Some(response), None) => {
                let prompt = self.tokenizer.encode(prompt, true).map_err(|e| e.to_string())?;
                let mut response = self.behind(&prompt, response)?;
                response.push(self.end);
                Ok(vec![Pair { prompt, response }])
            }
            // Some sets repeat the first question, or the last answer, beside the conversation.
            (None, _, Some(messages)) | (_, None, Some(messages)) => {
                let said = messages.iter().enumerate().filter(|(at, message)| *at > 0 && message.role == "assistant");
                let answers = said.map(|(at, _)| self.answer(messages, at)).collect::<Result<Vec<_>, _>>()?;
                match answers.is_empty() {
                    true => Err("no message answers another; expected one of the role assistant".into()),
                    false => Ok(answers),
                }
            }
            _ => Err(format!("expected {EXPECTED}")),
        }
    }

    /// The message at a place as an answer to those before it.
    fn answer(&self, messages: &[Message], at: usize) -> Result<Pair, String> {
        let Some(template) = &self.template else {
            return Err("has `messages`, but the model has no chat template; expected a `prompt` and a `response`".into());
        };
        let render = |messages: &[Message], open| template.render(messages, open, None).map_err(|e| e.to_string());
        let (before, whole) = (render(&messages[..at], true)?, render(&messages[..=at], false)?);
        let Some(rest) = whole.strip_prefix(&before) else {
            return Err(format!(
                "the model's chat template does not put message {} behind the prompt it opens for it; expected a `prompt` and \
                 a `response`, written out as the model should read them",
                at + 1
            ));
        };
        let prompt = self.tokenizer.encode(&before, false).map_err(|e| e.to_string())?;
        let mut response = self.behind(&prompt, rest)?;
        // What a template puts behind the end of a turn is never written: generation stops there.
        match response.iter().rposition(|token| self.tokenizer.eos_ids().contains(token)) {
            Some(last) => response.truncate(last + 1),
            None => response.push(self.end),
        }
        Ok(Pair { prompt, response })
    }

    fn behind(&self, prompt: &[u32], text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode_continuation(text, prompt.last().copied()).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The pairs of a line.
    fn read(line: &serde_json::Value, tokenizer: &Tokenizer, context: usize) -> Result<Pairs, TrainError> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("pairs.jsonl");
        std::fs::write(&path, line.to_string()).expect("pairs");
        Pairs::open(&[path], tokenizer, context)
    }

    /// A byte is a token; turns as ChatML has them.
    fn chat() -> Tokenizer {
        let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
        Tokenizer::train_bpe(std::iter::empty(), 259, &special).expect("bytes").with_chat_template(
            "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>\n{% endfor %}\
             {% if add_generation_prompt %}<|im_start|>assistant:{% endif %}",
        )
    }

    #[test]
    fn conversations_follow_the_models_template() {
        let tokenizer = chat();
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        let talk = json!({"id": 7, "messages": [turn("user", "hi"), turn("assistant", "ho"), turn("user", "so"),
            turn("assistant", "no")]});
        let pairs = read(&talk, &tokenizer, 200).expect("pairs");
        let told: Vec<[String; 2]> =
            pairs.all[0].iter().map(|pair| [&pair.prompt, &pair.response].map(|ids| tokenizer.decode(ids, false))).collect();
        let first = "<|im_start|>user:hi<|im_end|>\n<|im_start|>assistant:";
        let second = format!("{first}ho<|im_end|>\n<|im_start|>user:so<|im_end|>\n<|im_start|>assistant:");
        assert_eq!(told, [[first, "ho<|im_end|>"], [second.as_str(), "no<|im_end|>"]].map(|pair| pair.map(String::from)));
        // Published sets repeat the first question beside the conversation.
        let mut with_question = talk.clone();
        with_question["prompt"] = json!("hi");
        assert_eq!(read(&with_question, &tokenizer, 200).expect("pairs").fingerprint(), pairs.fingerprint());
        // Either is drawn, as the seed and the place say.
        let drawn: Vec<&Pair> = (0..32).map(|place| pairs.at(5, place)).collect();
        assert!(pairs.all[0].iter().all(|pair| drawn.contains(&pair)) && (0..32).all(|i| pairs.at(5, i) == drawn[i as usize]));
        // An answer that has no room is left out, as long as another has some.
        let room = pairs.all[0][0].prompt.len() + 1;
        assert_eq!(read(&talk, &tokenizer, room).expect("pairs").all[0].len(), 1);
        let plain = Tokenizer::train_bpe(std::iter::empty(), 257, &["<|endoftext|>"]).expect("bytes");
        for (line, tokenizer, context, wanted) in [
            (talk.clone(), &tokenizer, room - 1, "leaves no room"),
            (talk, &plain, 200, "no chat template"),
            (json!({"messages": [turn("user", "hi")]}), &tokenizer, 200, "role assistant"),
            (json!({"prompt": "a"}), &tokenizer, 200, "line 1: expected a `prompt` and a `response`, or `messages`"),
        ] {
            let message = read(&line, tokenizer, context).expect_err(wanted).to_string();
            assert!(message.contains(wanted) && message.contains("pairs.jsonl"), "{message}");
        }
        // A template that opens an answer otherwise than it writes it.
        let other = plain.with_chat_template("{{ messages[-1].content }}{% if add_generation_prompt %}:{% endif %}");
        let line = json!({"messages": [turn("user", "hi"), turn("assistant", "ho")]});
        assert!(read(&line, &other, 200).expect_err("refused").to_string().contains("behind the prompt it opens"));
    }

    /// Some tokenizers put a blank before the first word of a text, which a response is not.
    #[test]
    fn a_response_goes_on_from_its_prompt() {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null, "post_processor": null,
            "added_tokens": [{"id": 0, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, replace]},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"</s>": 0, "\u{2581}": 1, "a": 2, "b": 3, "c": 4}, "merges": []},
        });
        let tokenizer = Tokenizer::from_json_bytes(tokenizer.to_string().as_bytes()).expect("a tokenizer");
        let pairs = read(&json!({"prompt": "ab", "response": "ca"}), &tokenizer, 20).expect("pairs");
        assert_eq!(pairs.all, [[Pair { prompt: vec![1, 2, 3], response: vec![4, 2, 0] }]]);
    }

    fn pairs() -> Pairs {
        let pair = |prompt: &[u32], response: &[u32]| Pair { prompt: prompt.to_vec(), response: response.to_vec() };
        let all = [pair(&[1, 2, 3], &[4, 9]), pair(&[5], &[6, 7, 8, 6, 7, 9]), pair(&[5, 5], &[9])];
        Pairs { all: all.map(|pair| vec![pair]).into(), end: 9 }
    }

    #[test]
    fn padding_is_response_or_unseen() {
        let pairs = pairs();
        let all: Vec<&Pair> = pairs.all.iter().flatten().collect();
        let rows = |padding, block| pairs.rows(&all, padding, block, Draw { rows: 3, ..Draw::default() });
        let longest = rows(Padding::Longest, None);
        assert_eq!(longest.inputs[..7], [1, 2, 3, 4, 9, 9, 9]);
        let prompt = longest.prompt.clone().expect("prompt");
        assert_eq!(prompt[..7], [true, true, true, false, false, false, false]);
        assert_eq!(longest.response_share.as_deref(), Some(&[7.0 / 4.0, 7.0 / 6.0, 7.0 / 5.0][..]));
        assert!(longest.lengths.is_none());
        let none = rows(Padding::None, None);
        assert_eq!(none.lengths.as_deref(), Some(&[5, 7, 3][..]));
        assert_eq!(none.prompt.expect("prompt")[..7], [true, true, true, false, false, true, true]);
        let block = rows(Padding::Block, Some(4));
        assert_eq!(block.lengths.as_deref(), Some(&[8, 8, 4][..]));
        assert_eq!(block.inputs.len(), 24);
    }

    #[test]
    fn an_epoch_reads_every_pair_once() {
        let pairs = pairs();
        for epoch in 0..5 {
            let mut seen: Vec<usize> = (0..3).map(|i| pairs.order(7, epoch * 3 + i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
        }
        assert!((0..8).any(|e| pairs.order(7, e * 3) != pairs.order(7, 0)));
    }
}
