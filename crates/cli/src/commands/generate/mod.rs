//! `recast generate`: continues a prompt, or fills the holes of one with a model that denoises.

pub mod arguments;
mod denoise;
mod watch;

use crate::Global;
use crate::arguments::{Quantize, SamplingArgs};
use crate::output::tell;
use anyhow::Context;
use arguments::DenoisingArgs;
use recast_infer::samplers::Finish;
use recast_infer::{Event, Generator, Loaded, Options, Snapshot};
use recast_models::Model;
use recast_text::{Message, Tokenizer};
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Arguments of `recast generate`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face folder or GGUF file.
    model: PathBuf,
    /// Text to continue; without it, --prompt and --prompt-file, standard input (less one line break
    /// at its end).
    #[arg(conflicts_with_all = ["prompt", "prompt_file"])]
    text: Option<String>,
    /// The same by name, for a text that begins with a dash.
    #[arg(long, allow_hyphen_values = true, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// File with the text to continue, less one line break at its end.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Put the prompt as a user's turn into the model's chat template.
    #[arg(long)]
    chat: bool,
    /// A system turn before it.
    #[arg(long, requires = "chat", value_name = "TEXT")]
    system: Option<String>,
    /// The most tokens to write.
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    quantize: Quantize,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    denoising: DenoisingArgs,
    /// Read the prompt so many times before writing: recurrent models recall better what they have
    /// read twice.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repeat_context: u16,
    /// Go on from this state (see --save-state): the prompt, which may be empty, follows what was read and written.
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    load_state: Option<PathBuf>,
    /// Write the state after the last token read, and the last token written, to this file.
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// End the text before this string; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

#[derive(serde::Serialize)]
struct Result {
    text: String,
    tokens: Vec<u32>,
    finish: Finish,
    prompt_tokens: usize,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: Option<f64>,
    state_bytes: usize,
    seed: u64,
}

/// What a state's file says beside the state.
#[derive(serde::Serialize, serde::Deserialize)]
struct Note {
    /// Tokens that were written and that the state has not read: a text goes on by reading them.
    unread: Vec<u32>,
}

/// Runs the verb.
///
/// # Errors
/// When the model or the prompt cannot be used, or an option is out of range.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let options = Options {
        // Before a large model is read.
        sampling: args.sampling.sampling()?,
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        ..Options::default()
    };
    if let Some(path) = &args.load_state {
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    if let Some(path) = &args.save_state {
        crate::output::check_file("--save-state", path)?;
    }
    // A link and what is no file, such as standard output, are written where they lead.
    if let Some(path) = &args.denoising.trace
        && !path.is_symlink()
        && (!path.exists() || path.is_dir() || path.is_file())
    {
        crate::output::check_file("--trace", path)?;
    }
    let prompt = prompt(args)?;
    let device = global.device()?;
    let Loaded { model, tokenizer, .. } = args.quantize.open(&crate::embedded::resolve(&args.model)?, &device)?;
    if model.config.diffusion.is_some() {
        return denoise::run(args, global, &model, &tokenizer, prompt);
    }
    if let Some(name) = args.denoising.given() {
        let found = format!("a next-token model ({})", model.config.family);
        let expected = "a model that denoises, whose option this is; its config.json names a mask token".into();
        return Err(recast_infer::InferError::Setting { name, expected, found }.into());
    }
    let (tokens, mut before) = match &args.load_state {
        Some(path) => {
            let (before, note) = Snapshot::load_with(&model, path)?;
            // The note of a conversation (`recast chat`) is another.
            let mut tokens = serde_json::from_str(&note).map_or_else(|_| Vec::new(), |note: Note| note.unread);
            let last = tokens.last().or(before.tokens.last()).copied();
            // In the middle of a text stands no begin token, nor the blank that some put before a first word.
            tokens.extend(tokenizer.encode_continuation(&repeated(prompt, args), last)?);
            (tokens, before)
        }
        None => (encode(&tokenizer, prompt, args)?, Snapshot { tokens: Vec::new(), state: model.new_state() }),
    };
    if tokens.is_empty() {
        let why = if args.load_state.is_some() { "the state has read all that there is" } else { "the model has no begin token" };
        return Err(crate::output::wrong("prompt", format!("some text ({why})"), "none").into());
    }
    note_length(&model, (before.tokens.len() + tokens.len()).saturating_add(args.max_tokens));
    let generator = Generator::new(&model, &tokenizer, options)?;
    let state = &mut before.state;
    let mut failed = None;
    let written = generator.resume(state, &tokens, &mut |event| match event {
        Event::Text(piece) if !global.json => match show(&piece) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
        _ => ControlFlow::Continue(()),
    })?;
    if let Some(error) = failed {
        return Err(error).context("cannot write to standard output");
    }
    let result = Result {
        prefill_tokens_per_second: written.prefill_tokens_per_second(),
        decode_tokens_per_second: written.decode_tokens_per_second(),
        state_bytes: before.state.bytes(),
        text: written.text,
        tokens: written.tokens,
        finish: written.finish,
        prompt_tokens: written.prompt_tokens,
        seed: args.sampling.seed,
    };
    // Written, told, and only then failed: neither a full disk nor a reader that has seen enough takes the other along.
    let saved = args.save_state.as_ref().map_or(Ok(()), |path| -> anyhow::Result<()> {
        // The last token was written and not read.
        let (read, unread) = result.tokens.split_at(result.tokens.len().saturating_sub(1));
        before.tokens.extend(tokens.iter().chain(read));
        let note = serde_json::to_string(&Note { unread: unread.to_vec() })?;
        Ok(before.save_with(&model, path, &note)?)
    });
    if global.json {
        crate::output::json(&result)?;
    } else {
        show("\n").context("cannot write to standard output")?;
        let decode = result.decode_tokens_per_second.map_or_else(|| "-".into(), |x| format!("{x:.1}"));
        tell(format_args!(
            "prompt {} tokens at {:.1} tokens/s; wrote {} at {decode} tokens/s; state {} bytes; seed {}",
            result.prompt_tokens,
            result.prefill_tokens_per_second,
            result.tokens.len(),
            result.state_bytes,
            result.seed,
        ));
    }
    saved
}

/// Says where a text of so many tokens would be longer than those that the model was trained on. Whether it was said.
pub fn note_length(model: &Model, most: usize) -> bool {
    let trained = model.config.max_positions;
    if most > trained {
        tell(format_args!("note: up to {most} tokens, and the model was trained on sequences of {trained}"));
    }
    most > trained
}

fn show(piece: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(piece.as_bytes())?;
    out.flush()
}

fn prompt(args: &Args) -> anyhow::Result<String> {
    if let Some(prompt) = args.text.as_ref().or(args.prompt.as_ref()) {
        return Ok(prompt.clone());
    }
    let mut text = String::new();
    if let Some(path) = &args.prompt_file {
        text = std::fs::read_to_string(path).with_context(|| format!("cannot read {} as UTF-8 text", path.display()))?;
    } else {
        let mut input = std::io::stdin();
        if input.is_terminal() {
            tell("type the prompt and end it with Ctrl-D");
        }
        input.read_to_string(&mut text).context("cannot read the prompt from standard input as UTF-8 text")?;
    }
    // Editors and `echo` end a file with a line break that nobody means as a prompt.
    let end = text.strip_suffix('\n').map_or(text.len(), |rest| rest.strip_suffix('\r').unwrap_or(rest).len());
    text.truncate(end);
    Ok(text)
}

fn repeated(prompt: String, args: &Args) -> String {
    vec![prompt; usize::from(args.repeat_context)].join("\n")
}

/// The tokens of a prompt that begins a text: of an empty one what stands before a text, where the model knows such a token.
fn encode(tokenizer: &Tokenizer, prompt: String, args: &Args) -> anyhow::Result<Vec<u32>> {
    let prompt = repeated(prompt, args);
    if !args.chat {
        let mut tokens = tokenizer.encode(&prompt, true)?;
        if tokens.is_empty() {
            tokens.extend(tokenizer.bos().or_else(|| tokenizer.document_separator()));
        }
        return Ok(tokens);
    }
    let template = tokenizer
        .chat_template()?
        .with_context(|| format!("{} has no chat template: expected a chat model; leave out --chat", args.model.display()))?;
    let system = args.system.iter().map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.chain([Message::new("user", prompt)]).collect();
    Ok(tokenizer.encode(&template.render(&messages, true, None)?, false)?)
}
