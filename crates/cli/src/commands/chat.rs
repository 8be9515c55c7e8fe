//! `recast chat`: a conversation in the terminal.

use super::generate::note_length;
use crate::Global;
use crate::arguments::{Quantize, SamplingArgs};
use crate::output::tell;
use anyhow::Context;
use recast_infer::engine::{Handle, Limits, Message as Answer, Request, Summary};
use recast_infer::samplers::{Event, Finish};
use recast_infer::{Engine, InferError, Loaded, Sampling, Snapshot};
use recast_text::{ChatTemplate, Message};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

/// Arguments of `recast chat`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face folder or GGUF file of a model with a chat template.
    model: PathBuf,
    /// A system turn before the first.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The most tokens an answer may have.
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    quantize: Quantize,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Go on from a conversation that /save wrote.
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
}

const HELP: &str = "\
/save FILE    write the conversation and its state
/load FILE    go on from one
/system TEXT  begin again with this system turn
/reset        begin again
/history      show the conversation
/quit         leave (or Ctrl-D); Ctrl-C ends an answer";

const NOT_TEXT: &str = "expected a line of UTF-8 text, found other bytes: it is left out";

/// A conversation with a model.
struct Chat<'a> {
    args: &'a Args,
    sampling: Sampling,
    engine: Engine,
    template: ChatTemplate,
    messages: Vec<Message>,
    /// The state after the last answer, and what it has read.
    state: Option<Arc<Snapshot>>,
    /// Whether it was said that the conversation may grow beyond the texts of the training.
    noted: bool,
    /// The answer in progress, for Ctrl-C.
    running: Arc<Mutex<Option<Handle>>>,
}

/// Runs the verb. It must not run on the compute pool: it waits while the engine computes there.
///
/// # Errors
/// When the model cannot be used for a chat.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    if global.json {
        let expected = "a verb that ends with one result; `recast generate --chat --json` answers one turn".into();
        return Err(InferError::Setting { name: "--json", expected, found: "chat, which goes on".into() }.into());
    }
    // What is out of range is said before a model is opened.
    args.sampling.sampling()?;
    if let Some(path) = &args.load {
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let device = global.device()?;
    let Loaded { model, tokenizer, .. } = args.quantize.open(&crate::embedded::resolve(&args.model)?, &device)?;
    let template = tokenizer.chat_template()?.with_context(|| {
        format!("{} has no chat template: expected a chat model; `recast generate` continues a text", args.model.display())
    })?;
    let sampling = sampling(&args.sampling, model.config.diffusion.is_some())?;
    let limits = Limits { slots: 1, queue: 1, ..Limits::default() };
    let engine = Engine::start(Arc::new(model), Arc::new(tokenizer), limits)?;
    let running = Arc::new(Mutex::new(None::<Handle>));
    let interrupted = running.clone();
    // An editor takes SIGINT for itself when it is made, and hears of Ctrl-C as a key while it reads a line.
    let editor = std::io::stdin().is_terminal().then(DefaultEditor::new).transpose()?;
    ctrlc::set_handler(move || match interrupted.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(handle) => handle.cancel(),
        // Nothing to end but the program.
        None => std::process::exit(130),
    })?;
    let mut chat = Chat { args, sampling, engine, template, messages: Vec::new(), state: None, noted: false, running };
    chat.begin(args.system.clone());
    if let Some(path) = &args.load {
        chat.load(path)?;
    }
    chat.talk(editor)
}

/// As asked for, and at temperature 0 where nothing is said and the model denoises: as `recast generate` and the server
/// have it.
fn sampling(args: &SamplingArgs, denoises: bool) -> anyhow::Result<Sampling> {
    Ok(if denoises { args.sampling_with(0.0)? } else { args.sampling()? })
}

impl Chat<'_> {
    fn begin(&mut self, system: Option<String>) {
        self.messages = system.map(|text| Message::new("system", text)).into_iter().collect();
        (self.state, self.noted) = (None, false);
    }

    /// To the end of the conversation: line by line of an editor, or of standard input without one.
    fn talk(&mut self, editor: Option<DefaultEditor>) -> anyhow::Result<()> {
        let Some(mut editor) = editor else { return self.read() };
        tell("/help lists commands");
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    if !self.turn(&line)? {
                        return Ok(());
                    }
                }
                Err(ReadlineError::Interrupted) => tell("Ctrl-D or /quit leaves"),
                Err(ReadlineError::Eof) => return Ok(()),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => tell(NOT_TEXT),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        for line in std::io::stdin().lock().split(b'\n') {
            let Ok(line) = String::from_utf8(line.context("cannot read standard input")?) else {
                tell(NOT_TEXT);
                continue;
            };
            if !self.turn(&line)? {
                break;
            }
        }
        Ok(())
    }

    /// One line: a command or something said. Whether the conversation goes on.
    fn turn(&mut self, line: &str) -> anyhow::Result<bool> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let path = Path::new(rest.trim());
        let done = match word {
            "" => Ok(()),
            "/quit" | "/exit" => return Ok(false),
            "/help" => {
                tell(HELP);
                Ok(())
            }
            "/reset" => {
                let system = self.messages.first().filter(|m| m.role == "system").map(|m| m.content.clone());
                self.begin(system);
                Ok(())
            }
            "/system" => {
                self.begin(Some(rest.trim().to_owned()).filter(|text| !text.is_empty()));
                Ok(())
            }
            "/history" => {
                self.messages.iter().for_each(|m| tell(format_args!("{}: {}", m.role, m.content)));
                Ok(())
            }
            "/save" | "/load" if rest.trim().is_empty() => Err(anyhow::anyhow!("{word}: expected the name of a file")),
            "/save" => self.save(path),
            "/load" => self.load(path),
            _ if word.starts_with('/') => Err(anyhow::anyhow!("{word} is no command; /help lists them")),
            _ => self.say(line),
        };
        match done {
            // Answers that cannot be written are not worth going on for: nothing else that a line does ends in this kind.
            Err(error) if error.is::<std::io::Error>() => return Err(error),
            // A slip does not end a conversation.
            Err(error) => tell(format_args!("{error:#}")),
            Ok(()) => {}
        }
        Ok(true)
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        match self.answer() {
            Ok(answer) => {
                self.messages.push(Message::new("assistant", answer));
                Ok(())
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let tokenizer = self.engine.tokenizer();
        let prompt = tokenizer.encode(&self.template.render(&self.messages, true, None)?, false)?;
        self.noted = self.noted || note_length(self.engine.model(), prompt.len().saturating_add(self.args.max_tokens));
        // From the state of a loaded conversation; otherwise the engine itself finds where the last
        // turn ended.
        let state = self.state.take().filter(|s| s.tokens.len() < prompt.len() && prompt.starts_with(&s.tokens));
        let read = state.as_ref().map_or(0, |s| s.tokens.len());
        let request = Request {
            prompt: prompt[read..].to_vec(),
            state,
            sampling: self.sampling.clone(),
            max_tokens: self.args.max_tokens,
            // A text that settles leaves no state between its turns; the engine keeps prefixes itself.
            keep_state: self.engine.model().config.diffusion.is_none(),
            ..Request::default()
        };
        let (send, receive) = channel();
        let listener = move |message| if send.send(message).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let handle = self.engine.submit(request, Box::new(listener))?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        let mut text = String::new();
        let mut end = None;
        for message in receive {
            match message {
                Answer::Event(Event::Text(piece)) => {
                    let mut out = std::io::stdout().lock();
                    out.write_all(piece.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")?;
                    text.push_str(&piece);
                }
                Answer::End(result) => end = Some(result),
                Answer::Event(_) | Answer::Prompt(_) => {}
            }
        }
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        writeln!(std::io::stdout()).context("cannot write to standard output")?;
        let summary = end.context("the engine stopped")??;
        self.report(&summary);
        self.state = summary.state;
        Ok(text)
    }

    fn report(&self, summary: &Summary) {
        let decode = summary.first_token_seconds.map_or(0.0, |first| summary.total_seconds - first);
        let speed = summary.completion_tokens.saturating_sub(1) as f64 / decode.max(f64::MIN_POSITIVE);
        let ended = match &summary.finish {
            Finish::Length => "; cut at --max-tokens",
            Finish::Cancelled => "; ended by Ctrl-C",
            _ => "",
        };
        let line = format!(
            "[{} tokens, {speed:.1} a second; read {} of the prompt; state {}{ended}]",
            summary.completion_tokens,
            summary.prompt_tokens - summary.reused_tokens,
            recast_eval::report::bytes(summary.state_bytes as f64),
        );
        tell(console::style(line).for_stderr().dim());
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let state = self.state.as_ref().context("nothing was said yet: there is no state to save")?;
        let note = serde_json::to_string(&self.messages)?;
        state.save_with(self.engine.model(), path, &note)?;
        tell(format_args!("saved {} turns and the state after {} tokens", self.messages.len(), state.tokens.len()));
        Ok(())
    }

    fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let (state, note) = Snapshot::load_with(self.engine.model(), path)?;
        let messages: Vec<Message> =
            serde_json::from_str(&note).with_context(|| format!("{} holds a state and no conversation", path.display()))?;
        tell(format_args!("loaded {} turns and the state after {} tokens", messages.len(), state.tokens.len()));
        (self.messages, self.state, self.noted) = (messages, Some(Arc::new(state)), false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn temperature(line: &[&str], denoises: bool) -> f32 {
        sampling(&Line::parse_from(line).sampling, denoises).expect("in range").temperature
    }

    #[test]
    fn models_that_denoise_are_surest_unless_told_otherwise() {
        assert_eq!((temperature(&["chat"], false), temperature(&["chat"], true)), (0.7, 0.0));
        let asked = ["chat", "--temperature", "0.5"];
        assert_eq!((temperature(&asked, false), temperature(&asked, true)), (0.5, 0.5));
    }
}
