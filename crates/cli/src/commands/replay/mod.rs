//! `recast replay`: a trace as a page that plays the text settling.
//!
//! The page is one file: script, style and trace are inside, and it asks for nothing else.

use crate::Global;
use anyhow::Context;
use recast_infer::samplers::denoising::trace::{NoiseKind, Trace};
use recast_text::files;
use std::io::BufReader;
use std::path::PathBuf;

/// Arguments of `recast replay`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Trace that `recast generate --trace` wrote.
    trace: PathBuf,
    /// Page to write.
    #[arg(long, value_name = "FILE.html")]
    html: PathBuf,
}

#[derive(serde::Serialize)]
struct Result {
    html: PathBuf,
    steps: usize,
    positions: usize,
}

/// Runs the verb.
///
/// # Errors
/// When the trace cannot be read or the page cannot be written.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let shown = args.trace.display();
    let file = std::fs::File::open(&args.trace).with_context(|| format!("cannot read {shown}"))?;
    let trace = Trace::read(BufReader::new(file)).map_err(|reason| anyhow::anyhow!("{shown}: {reason}"))?;
    files::replace(&args.html, page(&trace).as_bytes()).with_context(|| format!("cannot write {}", args.html.display()))?;
    let result = Result { html: args.html.clone(), steps: trace.steps.len(), positions: trace.begin.positions };
    if global.json {
        return crate::output::json(&result);
    }
    let Result { html, steps, positions } = result;
    crate::output::print(format_args!("{}: {steps} steps over {positions} positions; open it in a browser", html.display()))
}

/// How texts are written from masks, and from noise, and what a position is called that is unknown still.
const MASKS: (&str, &str) = (
    "<strong>Every word starts hidden.</strong> In each step it guesses all of them at once, keeps the guesses it is surest of, \
     and guesses the rest again.",
    "hidden",
);
const NOISE: (&str, &str) = (
    "<strong>Every word starts as a random one.</strong> In each step it guesses all of them at once, keeps some of the guesses, \
     and may take back what it kept before.",
    "random",
);

/// The page of a trace.
fn page(trace: &Trace) -> String {
    let data = serde_json::json!({"begin": trace.begin, "steps": trace.steps, "end": trace.end});
    // Inside a script element nothing may look like its end.
    let data = data.to_string().replace('<', "\\u003c");
    let (lead, unknown) = match trace.begin.noise {
        NoiseKind::Mask => MASKS,
        NoiseKind::Uniform => NOISE,
    };
    include_str!("page.html")
        .replace("<!--LEAD-->", lead)
        .replace("<!--UNKNOWN-->", unknown)
        .replace("/*STYLE*/", include_str!("page.css"))
        .replace("/*SCRIPT*/", include_str!("page.js"))
        .replace("{\"data\": \"here\"}", &data)
        .replace("FINAL TEXT", &escaped(&last_text(trace)))
}

/// What stands there at the end, for browsers that run no scripts.
fn last_text(trace: &Trace) -> String {
    let mut pieces = trace.begin.tokens.clone();
    trace.steps.iter().for_each(|step| pieces.extend(step.tokens.clone()));
    let mut cells: Vec<Option<u32>> = vec![None; trace.begin.positions];
    trace.begin.given.iter().for_each(|(index, token)| cells[*index] = Some(*token));
    trace.steps.iter().flat_map(|step| &step.changes).for_each(|change| cells[change.0] = change.2);
    let until = trace.end.as_ref().map_or(cells.len(), |end| end.positions.unwrap_or(end.written).min(cells.len()));
    let text: String =
        cells[..until].iter().map(|cell| cell.and_then(|token| pieces.get(&token)).map_or("░", String::as_str)).collect();
    trace.begin.prompt.clone() + &text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"{"recast_trace":1,"model":"m","prompt":"a </script><b>","positions":3,"trained_block":null,"settings":{},"given":[[2,7]],"tokens":{"7":" end"}}
{"step":0,"block":0,"window":[0,3],"forwards":1,"settled":0,"seconds":0.1,"changes":[[1,null,5,0.9,0.1]],"ghosts":[[0,6,0.2]],"tokens":{"5":" <i>","6":" x"}}
{"step":1,"block":0,"window":[0,3],"forwards":2,"settled":3,"seconds":0.2,"changes":[[0,null,6,0.5,0.7]],"ghosts":[]}
{"done":"length","written":3,"forwards":2,"refreshes":0,"seconds":0.2}
"#;

    #[test]
    fn a_page_holds_the_trace_and_nothing_that_breaks_out_of_it() {
        let trace = Trace::read(TRACE.as_bytes()).unwrap();
        assert_eq!((trace.steps.len(), trace.end.as_ref().map(|e| e.forwards)), (2, Some(2)));
        let page = page(&trace);
        assert!(!page.contains("</script><b>") && !page.contains("<i>"));
        assert!(page.contains("a &lt;/script&gt;&lt;b&gt; x &lt;i&gt; end"));
        assert!(!page.contains("/*SCRIPT*/") && !page.contains("/*STYLE*/") && !page.contains("data\": \"here"));
        // Nothing is fetched.
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("));
    }

    #[test]
    fn a_page_says_what_the_text_began_as() {
        let page = |text: &str| page(&Trace::read(text.as_bytes()).unwrap());
        let masks = page(TRACE);
        assert!(masks.contains("Every word starts hidden") && masks.contains("still hidden") && !masks.contains("<!--"));
        let noise = page(&TRACE.replacen("\"positions\"", "\"noise\":\"uniform\",\"positions\"", 1));
        assert!(noise.contains("starts as a random one") && noise.contains("still random"));
        assert!(!noise.contains("starts hidden") && !noise.contains("still hidden"));
    }

    #[test]
    fn what_was_given_is_part_of_the_text_and_not_of_what_was_written() {
        let new = TRACE.replace("\"written\":3", "\"written\":2,\"positions\":3");
        for text in [TRACE, new.as_str()] {
            assert_eq!(last_text(&Trace::read(text.as_bytes()).unwrap()), "a </script><b> x <i> end");
        }
    }

    #[test]
    fn what_is_no_trace_is_refused_by_its_line() {
        let read = |text: &str| Trace::read(text.as_bytes()).unwrap_err();
        assert!(read("").contains("empty"));
        assert!(read("hello\n").starts_with("line 1"));
        assert!(read(&TRACE.replace("\"recast_trace\":1", "\"recast_trace\":9")).contains("version 9"));
        assert!(read(&TRACE.replace("[[0,6,0.2]]", "[[9,6,0.2]]")).contains("step 0 names a position outside the 3"));
        assert!(read(&TRACE.replace("\"ghosts\":[]", "\"ghosts\":3")).starts_with("line 3"));
    }
}
