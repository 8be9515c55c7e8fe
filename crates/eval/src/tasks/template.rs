//! Rendering a task's templates and expressions over the fields of an item.

use std::collections::HashSet;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};

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
        let template = self.environment.template_from_named_str(key, source).map_err(|error| self.wrong(key, &error))?;
        template.render(fields).map_err(|error| self.lacking(key, &error, template.undeclared_variables(false), fields))
    }

    /// Evaluates an expression. `key` names it in errors.
    pub(super) fn evaluate(&self, key: &str, source: &str, fields: &Value) -> Result<Value> {
        let expression = self.environment.compile_expression(source).map_err(|error| self.wrong(key, &error))?;
        expression.eval(fields).map_err(|error| self.lacking(key, &error, expression.undeclared_variables(false), fields))
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

    /// [`Self::wrong`], with those of the names in use that are fields the item has not.
    fn lacking(&self, key: &str, error: &minijinja::Error, used: HashSet<String>, fields: &Value) -> EvalError {
        let is_there = |name: &str| fields.get_attr(name).is_ok_and(|value| !value.is_undefined());
        let mut names: Vec<String> = used
            .into_iter()
            .filter(|name| !is_there(name) && self.environment.globals().all(|(global, _)| global != name))
            .map(|name| format!("`{name}`"))
            .collect();
        names.sort();
        match self.wrong(key, error) {
            EvalError::Task { task, problem } if error.kind() == ErrorKind::UndefinedError && !names.is_empty() => {
                EvalError::Task { task, problem: format!("{problem}; the item has no field {}", names.join(" and no ")) }
            }
            other => other,
        }
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
