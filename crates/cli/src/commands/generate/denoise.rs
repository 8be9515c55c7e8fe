//! Writing with a model that denoises.

use super::arguments::infilling;
use super::watch::Screen;
use super::{Args, encode, show};
use crate::Global;
use crate::output::tell;
use anyhow::Context;
use recast_infer::samplers::Finish;
use recast_infer::samplers::denoising::trace::Recorder;
use recast_infer::samplers::denoising::{Canvas, Counters, Denoiser, Denoising, Filler, Masked};
use recast_infer::{Event, InferError};
use recast_models::Model;
use recast_text::{Tokenizer, files};
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use tempfile::NamedTempFile;

#[derive(serde::Serialize)]
struct Result {
    /// What was written; of holes that are filled the whole text.
    text: String,
    /// From the first hole on.
    tokens: Vec<u32>,
    /// Those of `tokens` that were not given: what the rates count.
    written: usize,
    confidences: Vec<f32>,
    finish: Finish,
    prompt_tokens: usize,
    counters: Counters,
    tokens_per_forward: f64,
    tokens_per_second: f64,
    prefill_seconds: f64,
    decode_seconds: f64,
    settings: Denoising,
}

/// Where a trace is written.
enum Place {
    /// Beside its place until it is whole: an older one stays as long as it is the only one.
    Beside(NamedTempFile),
    /// In it: a new file, which can be read as far as it goes; a link, a device or a pipe, which no file is renamed into.
    There(File),
}

impl Place {
    fn open(path: &Path) -> std::io::Result<Self> {
        match path.is_file() && !path.is_symlink() {
            true => Ok(Self::Beside(files::beside(path)?)),
            false => Ok(Self::There(File::create(path)?)),
        }
    }

    fn file(&self) -> std::io::Result<File> {
        match self {
            Self::Beside(file) => file.as_file().try_clone(),
            Self::There(file) => file.try_clone(),
        }
    }

    fn done(self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Beside(file) => files::put(file, path),
            Self::There(_) => Ok(()),
        }
    }
}

/// Denoises and tells of it.
pub fn run(args: &Args, global: &Global, model: &Model, tokenizer: &Tokenizer, prompt: String) -> anyhow::Result<()> {
    let refuse = |name| InferError::Setting {
        name,
        expected: "a next-token model, whose option this is".into(),
        found: "a model that denoises".into(),
    };
    if let Some(name) = args.sampling.given_for_next_token() {
        return Err(refuse(name).into());
    }
    for (name, given) in [("--load-state", args.load_state.is_some()), ("--save-state", args.save_state.is_some())] {
        if given {
            return Err(refuse(name).into());
        }
    }
    let sampling = args.sampling.sampling_with(0.0)?;
    let settings = args.denoising.settings(sampling.temperature, sampling.top_p, sampling.seed)?;
    // Holes are filled in a text, which is told from its beginning.
    let before = match prompt.split_once("[[") {
        Some((before, _)) if args.denoising.infill => before.to_owned(),
        _ => String::new(),
    };
    let mut untold = before.clone();
    let canvas = if args.denoising.infill {
        infilling(&prompt, tokenizer)?
    } else {
        Canvas::after(&encode(tokenizer, prompt, args)?, args.max_tokens)
    };
    let masked = Masked::new(model)?;
    canvas.check(&masked.shape(), &settings)?;
    let name =
        args.model.file_name().map_or_else(|| args.model.display().to_string(), |name| name.to_string_lossy().into_owned());
    let unwritten = || args.denoising.trace.as_ref().map_or_else(String::new, |path| format!("cannot write {}", path.display()));
    let mut place = None;
    let mut recorder = match &args.denoising.trace {
        Some(path) => {
            let file = place.insert(Place::open(path).with_context(unwritten)?).file().map(BufWriter::new);
            let begin = |file: BufWriter<File>| Recorder::begin(file, tokenizer, &name, &canvas, masked.shape(), &settings);
            Some(file.and_then(begin).with_context(unwritten)?)
        }
        None => None,
    };
    // A trace that cannot be written takes no text along: it is told first.
    let mut untraced = None;
    let mut screen = args.denoising.watch.then(|| Screen::new(tokenizer, &canvas, args.denoising.watch_ms));
    // What was watched in place need not be told again.
    let on_screen = screen.as_ref().is_some_and(Screen::is_live) && std::io::stdout().is_terminal();
    let filler = Filler::new(&masked, tokenizer, settings.clone(), args.stop.clone())?;
    let mut failed = None;
    let mut written = filler.fill(&canvas, &mut |event| {
        let told = match &event {
            Event::Step(step) => {
                if let Some(screen) = &mut screen {
                    screen.step(step);
                }
                if let Some(Err(error)) = recorder.as_mut().map(|recorder| recorder.step(step)) {
                    (untraced, recorder) = (Some(error), None);
                }
                Ok(())
            }
            Event::Text(piece) => {
                untold.push_str(piece);
                // In place, the text is shown when it is done.
                if global.json || screen.is_some() { Ok(()) } else { show(&std::mem::take(&mut untold)) }
            }
            _ => Ok(()),
        };
        match told {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    let shown = screen.map(|screen| screen.finish(&written));
    written.decode_seconds = (written.decode_seconds - shown.unwrap_or_default().as_secs_f64()).max(0.0);
    // Whole, whatever becomes of standard output.
    let mut traced = untraced.map_or(Ok(()), Err);
    if let (Some(recorder), Some(place), Some(path)) = (recorder, place, &args.denoising.trace) {
        traced = recorder.end(&written).and_then(|()| place.done(path));
    }
    if let Some(error) = failed {
        return Err(error).context("cannot write to standard output");
    }
    if !global.json && !on_screen {
        show(&untold).context("cannot write to standard output")?;
    }
    let (tokens_per_forward, tokens_per_second) = (written.tokens_per_forward(), written.tokens_per_second());
    let counters = written.counters;
    if global.json {
        crate::output::json(&Result {
            text: before + &written.text,
            tokens: written.tokens,
            written: written.written,
            confidences: written.confidences,
            finish: written.finish,
            prompt_tokens: written.prompt_tokens,
            counters,
            tokens_per_forward,
            tokens_per_second,
            prefill_seconds: written.prefill_seconds,
            decode_seconds: written.decode_seconds,
            settings,
        })?;
        return traced.with_context(unwritten);
    }
    if !on_screen {
        writeln!(std::io::stdout()).context("cannot write to standard output")?;
    }
    tell(format_args!(
        "prompt {} tokens; wrote {} in {} forward passes ({} of them to read finished blocks), {tokens_per_forward:.2} tokens a pass; \
         {tokens_per_second:.1} tokens/s; {} revised; seed {}",
        written.prompt_tokens, written.written, counters.forwards, counters.refreshes, counters.revised, settings.seed,
    ));
    traced.with_context(unwritten)?;
    if let Some(path) = &args.denoising.trace {
        tell(format_args!("trace in {}; see it with: recast replay {} --html out.html", path.display(), path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_trace_is_read_as_it_grows_and_an_older_one_stays_until_then() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trace.jsonl");
        let begin = |line: &[u8]| {
            let place = Place::open(&path).expect("opens");
            place.file().expect("a file").write_all(line).expect("writes");
            place
        };
        let read = || std::fs::read_to_string(&path).expect("reads");
        let first = begin(b"first\n");
        assert_eq!(read(), "first\n");
        first.done(&path).expect("is there");
        drop(begin(b"second\n"));
        assert_eq!(read(), "first\n");
        begin(b"third\n").done(&path).expect("puts it there");
        assert_eq!(read(), "third\n");
        assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1);
    }
}
