//! From an item to the texts a model sees.

use minijinja::value::Serde;
use minijinja::{Value, context};
use sha2::{Digest, Sha256};

use super::template::Templates;
use super::{Item, Prompt, Task};
use crate::error::{EvalError, Result};

/// What a model is asked about one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Score each (context, continuation); `gold` is the right one. A last word is one pair, a
    /// minimal pair is (good, bad).
    Pairs {
        /// Context and continuation.
        pairs: Vec<(String, String)>,
        /// Index of the right one.
        gold: usize,
    },
    /// Score a whole document.
    Text(String),
    /// Write on after this.
    Generate {
        /// What stands before the answer.
        context: String,
        /// Accepted answers.
        answers: Vec<String>,
    },
}

/// An item put to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompted {
    /// The item's id.
    pub id: String,
    /// Its group, if the task has them.
    pub group: Option<String>,
    /// What is asked.
    pub body: Body,
}

impl Prompted {
    /// Hash of every text the model sees for this item, and of what else its answer depends on.
    pub(crate) fn hash(&self, settings: &[u64], until: &[String]) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match &self.body {
            Body::Pairs { pairs, .. } => {
                for (context, continuation) in pairs {
                    add(context.as_bytes());
                    add(continuation.as_bytes());
                }
            }
            Body::Text(text) => add(text.as_bytes()),
            Body::Generate { context, .. } => add(context.as_bytes()),
        }
        for setting in settings {
            add(&setting.to_le_bytes());
        }
        for stop in until {
            add(stop.as_bytes());
        }
        recast_text::files::hex(&hash.finalize()[..8])
    }

    /// Bytes of text, for ordering by length.
    pub(crate) fn bytes(&self) -> usize {
        match &self.body {
            Body::Pairs { pairs, .. } => pairs.iter().map(|(a, b)| a.len() + b.len()).sum(),
            Body::Text(text) => text.len(),
            Body::Generate { context, .. } => context.len(),
        }
    }
}

/// Builds the prompts of a task, with its solved examples at hand.
pub(super) struct Builder<'a> {
    task: &'a Task,
    templates: Templates,
    /// Match value and text of every solved example.
    shots: Vec<(Option<String>, String)>,
    count: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(task: &'a Task, examples: &[Item], count: usize) -> Result<Self> {
        let mut builder = Self { task, templates: Templates::new(task)?, shots: Vec::new(), count };
        for example in examples {
            let fields = Value::from(Serde(&example.fields));
            let matching = builder.matching(&fields)?;
            let text = builder.solved(&fields)?;
            builder.shots.push((matching, text));
        }
        Ok(builder)
    }

    /// Prompt of one item.
    pub(super) fn build(&self, item: &Item) -> Result<Prompted> {
        let fields = Value::from(Serde(&item.fields));
        let text = |key, source: &Option<String>| match source {
            None => Ok(None),
            Some(source) => self.templates.evaluate(key, source, &fields).map(|value| Some(value.to_string())),
        };
        Ok(Prompted {
            id: text("id", &self.task.data.id)?.unwrap_or_else(|| format!("line-{}", item.line)),
            group: text("group", &self.task.data.group)?,
            body: self.body(&fields)?,
        })
    }

    fn body(&self, fields: &Value) -> Result<Body> {
        let render = |key, source: &str| self.templates.render(key, source, fields);
        Ok(match &self.task.prompt {
            Prompt::MultipleChoice { description, .. } => {
                let head = self.head(description, fields)?;
                let (choices, gold) = self.choices(fields)?;
                let pairs = choices
                    .iter()
                    .enumerate()
                    .map(|(index, choice)| {
                        let (context, continuation) = self.choice(fields, index, choice)?;
                        Ok((format!("{head}{context}"), continuation))
                    })
                    .collect::<Result<_>>()?;
                Body::Pairs { pairs, gold }
            }
            Prompt::LastWord { context, target } => {
                Body::Pairs { pairs: vec![(render("context", context)?, render("target", target)?)], gold: 0 }
            }
            Prompt::MinimalPair { good, bad } => {
                Body::Pairs { pairs: vec![(String::new(), render("good", good)?), (String::new(), render("bad", bad)?)], gold: 0 }
            }
            Prompt::Perplexity { text, .. } => Body::Text(render("text", text)?),
            Prompt::Generate { description, context, answers, .. } => Body::Generate {
                context: self.head(description, fields)? + &render("context", context)?,
                answers: self.templates.strings("answers", answers, fields)?,
            },
        })
    }

    /// Description and solved examples.
    fn head(&self, description: &str, fields: &Value) -> Result<String> {
        let mut head = self.templates.render("description", description, fields)?;
        let Some(shots) = self.task.shots.as_ref().filter(|_| self.count > 0) else {
            return Ok(head);
        };
        let wanted = self.matching(fields)?;
        let mut found = 0;
        for (_, text) in self.shots.iter().filter(|(matching, _)| *matching == wanted).take(self.count) {
            head.push_str(text);
            head.push_str(&shots.separator);
            found += 1;
        }
        if found < self.count {
            return Err(EvalError::Setting(format!(
                "task `{}`: expected {} solved examples{} in {}, found {found}",
                self.task.name,
                self.count,
                wanted.map(|w| format!(" for `{w}`")).unwrap_or_default(),
                shots.file
            )));
        }
        Ok(head)
    }

    fn solved(&self, fields: &Value) -> Result<String> {
        match &self.task.prompt {
            Prompt::MultipleChoice { .. } => {
                let (choices, gold) = self.choices(fields)?;
                let (context, continuation) = self.choice(fields, gold, &choices[gold])?;
                Ok(context + &continuation)
            }
            Prompt::Generate { context, solution, .. } => {
                Ok(self.templates.render("context", context, fields)? + &self.templates.render("solution", solution, fields)?)
            }
            _ => Ok(String::new()),
        }
    }

    fn matching(&self, fields: &Value) -> Result<Option<String>> {
        match self.task.shots.as_ref().and_then(|s| s.matching.as_ref()) {
            None => Ok(None),
            Some(source) => {
                let value = self.templates.evaluate("match", source, fields)?;
                Ok(Some(value.to_string()))
            }
        }
    }

    fn choices(&self, fields: &Value) -> Result<(Vec<String>, usize)> {
        let Prompt::MultipleChoice { choices, gold, .. } = &self.task.prompt else {
            return Ok((Vec::new(), 0));
        };
        let choices = self.templates.strings("choices", choices, fields)?;
        let value = self.templates.evaluate("gold", gold, fields)?;
        match value.as_usize().filter(|gold| *gold < choices.len()) {
            Some(gold) => Ok((choices, gold)),
            None => Err(EvalError::Task {
                task: self.task.name.clone(),
                problem: format!("`gold`: expected an index below {}, found {value:?}", choices.len()),
            }),
        }
    }

    fn choice(&self, fields: &Value, index: usize, choice: &str) -> Result<(String, String)> {
        let Prompt::MultipleChoice { context, continuation, .. } = &self.task.prompt else {
            return Ok(Default::default());
        };
        let fields = context! { index, choice, ..fields.clone() };
        Ok((self.templates.render("context", context, &fields)?, self.templates.render("continuation", continuation, &fields)?))
    }
}
