//! The text settling: in place on a terminal, line by line elsewhere.

use console::{Style, Term, measure_text_width};
use recast_infer::samplers::denoising::trace::piece;
use recast_infer::samplers::denoising::{Canvas, Denoised, Step};
use recast_text::Tokenizer;
use std::time::{Duration, Instant};

/// Below these probabilities a token was committed with doubt, or with little.
const DOUBT: f32 = 0.3;
const SURE: f32 = 0.7;

/// One position as it is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Mask,
    Ghost(u32),
    Given(u32),
    Token { token: u32, confidence: f32, step: usize },
}

/// What is on the screen.
pub struct Screen<'a> {
    tokenizer: &'a Tokenizer,
    term: Term,
    live: bool,
    prompt: String,
    cells: Vec<Cell>,
    /// Lines drawn last.
    drawn: usize,
    least: Duration,
    last: Option<Instant>,
    slept: Duration,
    forwards: usize,
    step: usize,
}

impl<'a> Screen<'a> {
    /// An empty canvas.
    pub fn new(tokenizer: &'a Tokenizer, canvas: &Canvas, milliseconds: u64) -> Self {
        let term = Term::stderr();
        let start = canvas.prompt();
        let prompt: Vec<u32> = canvas.positions()[..start].iter().flatten().copied().collect();
        let live = term.is_term();
        let screen = Self {
            tokenizer,
            live,
            term,
            prompt: tokenizer.decode(&prompt, true),
            cells: canvas.positions()[start..].iter().map(|p| p.map_or(Cell::Mask, Cell::Given)).collect(),
            drawn: 0,
            least: Duration::from_millis(milliseconds),
            last: None,
            slept: Duration::ZERO,
            forwards: 0,
            step: 0,
        };
        screen.say(&screen.legend());
        screen
    }

    /// Whether it draws in place.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Takes a step in.
    pub fn step(&mut self, step: &Step) {
        for cell in &mut self.cells {
            if matches!(cell, Cell::Ghost(_)) {
                *cell = Cell::Mask;
            }
        }
        for ghost in &step.ghosts {
            self.cells[ghost.index] = Cell::Ghost(ghost.token);
        }
        for change in &step.changes {
            self.cells[change.index] = match change.new {
                Some(token) => Cell::Token { token, confidence: change.confidence, step: step.step },
                None => Cell::Mask,
            };
        }
        (self.forwards, self.step) = (step.forwards, step.step);
        if self.live {
            if let Some(last) = self.last {
                let wait = self.least.saturating_sub(last.elapsed());
                std::thread::sleep(wait);
                self.slept += wait;
            }
            self.draw(Some(step.step));
            self.last = Some(Instant::now());
        } else {
            let changes = step.changes.len();
            self.say(&format!("step {}, pass {}: {changes} changed, {} | {}", step.step, step.forwards, self.count(), self.plain()));
        }
    }

    /// Draws the end. Returns the time that watching took.
    pub fn finish(mut self, text: &Denoised) -> Duration {
        self.cells.truncate(text.tokens.len());
        if self.live {
            self.draw(None);
        }
        self.slept
    }

    fn say(&self, line: &str) {
        // A screen that cannot be written to is nobody's screen.
        let _ = self.term.write_line(line);
    }

    fn legend(&self) -> String {
        if !self.live {
            return "░ a position still unknown; a line a step".into();
        }
        let style = |confidence| self.style(confidence);
        format!(
            "{} unknown   {} a guess   {} sure   {} fairly   {} unsure   {} new",
            Style::new().for_stderr().dim().apply_to("░"),
            Style::new().for_stderr().dim().italic().apply_to("word"),
            style(1.0).apply_to("word"),
            style(0.5).apply_to("word"),
            style(0.1).apply_to("word"),
            style(1.0).reverse().apply_to("word"),
        )
    }

    fn style(&self, confidence: f32) -> Style {
        let style = Style::new().for_stderr();
        match confidence {
            c if c < DOUBT => style.red(),
            c if c < SURE => style.yellow(),
            _ => style.green(),
        }
    }

    fn known(&self) -> usize {
        self.cells.iter().filter(|c| matches!(c, Cell::Token { .. } | Cell::Given(_))).count()
    }

    fn count(&self) -> String {
        let known = self.known();
        let written = self.cells.iter().filter(|c| matches!(c, Cell::Token { .. })).count();
        let rate = written as f64 / self.forwards.max(1) as f64;
        format!("{known} of {} positions, {} forward passes, {rate:.1} tokens a pass", self.cells.len(), self.forwards)
    }

    /// The text with `░` for what is unknown.
    fn plain(&self) -> String {
        let one = |cell: &Cell| match cell {
            Cell::Mask | Cell::Ghost(_) => "░".to_owned(),
            Cell::Given(token) | Cell::Token { token, .. } => piece(self.tokenizer, *token),
        };
        self.cells.iter().map(one).collect::<String>().replace('\n', "↵")
    }

    fn draw(&mut self, now: Option<usize>) {
        let (rows, columns) = self.term.size();
        let (rows, columns) = ((rows as usize).max(6), (columns as usize).max(20) - 1);
        let mut page = Page { columns, lines: vec![String::new()], width: 0 };
        page.add(&self.prompt, &Style::new().for_stderr().bold());
        for cell in &self.cells {
            match cell {
                Cell::Mask => page.add("░", &Style::new().for_stderr().dim()),
                Cell::Ghost(token) => page.add(&piece(self.tokenizer, *token), &Style::new().for_stderr().dim().italic()),
                Cell::Given(token) => page.add(&piece(self.tokenizer, *token), &Style::new().for_stderr().bold()),
                Cell::Token { token, confidence, step } => {
                    let style = self.style(*confidence);
                    let style = if Some(*step) == now { style.reverse() } else { style };
                    page.add(&piece(self.tokenizer, *token), &style);
                }
            }
        }
        let share = self.known() as f64 / self.cells.len().max(1) as f64;
        let full = (share * 20.0).round() as usize;
        let bar = format!("{}{}", "█".repeat(full), "░".repeat(20 - full));
        let progress = format!("{bar} step {} · {}", self.step, self.count());
        let mut progress: String = progress.chars().take(columns).collect();
        progress = Style::new().for_stderr().dim().apply_to(progress).to_string();
        // The end of a long text is where it is written.
        let skip = (page.lines.len() + 2).saturating_sub(rows);
        let lines: Vec<String> = page.lines.into_iter().skip(skip).chain([progress]).collect();
        let _ = self.term.clear_last_lines(self.drawn);
        self.drawn = lines.len();
        self.say(&lines.join("\n"));
    }
}

/// Styled text broken into lines of a width.
struct Page {
    columns: usize,
    lines: Vec<String>,
    width: usize,
}

impl Page {
    fn add(&mut self, text: &str, style: &Style) {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.lines.push(String::new());
                self.width = 0;
            }
            let mut run = String::new();
            for letter in line.chars().map(|c| if c.is_control() { ' ' } else { c }) {
                let wide = measure_text_width(letter.encode_utf8(&mut [0; 4]));
                if self.width + wide > self.columns {
                    self.put(&mut run, style);
                    self.lines.push(String::new());
                    self.width = 0;
                }
                run.push(letter);
                self.width += wide;
            }
            self.put(&mut run, style);
        }
    }

    fn put(&mut self, run: &mut String, style: &Style) {
        if !run.is_empty()
            && let Some(line) = self.lines.last_mut()
        {
            line.push_str(&style.apply_to(std::mem::take(run)).to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_the_width_and_at_line_breaks() {
        let mut page = Page { columns: 5, lines: vec![String::new()], width: 0 };
        let style = Style::new().force_styling(false);
        page.add("abcdefg", &style);
        page.add("h\ni", &style);
        page.add("日本語", &style);
        assert_eq!(page.lines, ["abcde", "fgh", "i日本", "語"]);
    }
}
