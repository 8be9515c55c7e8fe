//! Rendering a task's templates and expressions over the fields of an item.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value};

use super::{Prompt, Task};
use crate::error::{EvalError, Result};

/// The templates of one task.
pub(super) struct Templates {
    task: Arc<Task>,
    environment: Environment<'static>,
}

impl Templates {
    pub(super) fn new(task: &Task) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()
            .map_err(|error| EvalError::Task { task: task.name.clone(), problem: error.to_string() })?;
        environment.set_syntax(syntax);
        // A field that is not there is an error, never an empty string in a prompt.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        Ok(Self { task: Arc::new(task.clone()), environment })
    }

    /// Compiles everything once, so that a mistake shows before any data is read.
    pub(super) fn check(&self) -> Result<()> {
        let (templates, expressions): (Vec<_>, Vec<_>) = match &self.task.prompt {
            Prompt::MultipleChoice { description, context, continuation, choices, gold } => (
                vec![("description", description), ("context", context), ("continuation", continuation)],
                vec![("choices", choices), ("gold", gold)],
            ),
            Prompt::LastWord { context, target } => (vec![("context", context), ("target", target)], vec![]),
            Prompt::MinimalPair { good, bad } => (vec![("good", good), ("bad", bad)], vec![]),
            Prompt::Perplexity { text, .. } => (vec![("text", text)], vec![]),
            Prompt::Generate { description, context, solution, answers, .. } => {
                (vec![("description", description), ("context", context), ("solution", solution)], vec![("answers", answers)])
            }
        };
        for (key, source) in templates {
            self.environment.template_from_named_str(key, source).map_err(|error| self.wrong(key, &error))?;
        }
        let optional = [
            ("id", self.task.data.id.as_ref()),
            ("group", self.task.data.group.as_ref()),
            ("match", self.task.shots.as_ref().and_then(|s| s.matching.as_ref())),
        ];
        let optional = optional.into_iter().filter_map(|(k, v)| Some((k, v?)));
        for (key, source) in expressions.into_iter().chain(optional) {
            self.environment.compile_expression(source).map_err(|error| self.wrong(key, &error))?;
        }
        Ok(())
    }

    /// Renders a template. `key` names it in errors.
    pub(super) fn render(&self, key: &str, source: &str, fields: &Value) -> Result<String> {
        self.environment.render_named_str(key, source, fields).map_err(|error| self.wrong(key, &error))
    }

    /// Evaluates an expression. `key` names it in errors.
    pub(super) fn evaluate(&self, key: &str, source: &str, fields: &Value) -> Result<Value> {
        self.environment
            .compile_expression(source)
            .and_then(|expression| expression.eval(fields))
            .map_err(|error| self.wrong(key, &error))
    }

    /// Evaluates an expression that gives a list of strings.
    pub(super) fn strings(&self, key: &str, source: &str, fields: &Value) -> Result<Vec<String>> {
        let value = self.evaluate(key, source, fields)?;
        let list: Option<Vec<String>> = match value.kind() {
            minijinja::value::ValueKind::Seq | minijinja::value::ValueKind::Iterable => {
                value.try_iter().ok().map(|items| items.map(|item| item.as_str().map(String::from)).collect()).unwrap_or_default()
            }
            _ => None,
        };
        list.filter(|list| !list.is_empty()).ok_or_else(|| EvalError::Task {
            task: self.task.name.clone(),
            problem: format!("`{key}`: expected a list of strings, found {value:?}"),
        })
    }

    fn wrong(&self, key: &str, error: &minijinja::Error) -> EvalError {
        let mut problem = format!("`{key}`: {error}");
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            problem.push_str(": ");
            problem.push_str(&inner.to_string());
            cause = inner.source();
        }
        EvalError::Task { task: self.task.name.clone(), problem }
    }
}
