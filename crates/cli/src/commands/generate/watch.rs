//! The text settling: in place on a terminal, line by line elsewhere.

use console::{Style, Term, measure_text_width};
use recast_infer::samplers::denoising::trace::piece;
use recast_infer::samplers::denoising::{Canvas, Denoised, Step};
use recast_text::Tokenizer;
use std::time::{Duration, Instant};

/// Below these probabilities a token was committed with doubt, or with little.
const DOUBT: f32 = 0.3;
const SURE: f32 = 0.7;

/// The most cells of the bar.
const BAR: usize = 20;

/// A position that is still unknown.
const MASK: char = '░';

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
    /// Steps so far.
    steps: usize,
}

impl<'a> Screen<'a> {
    /// An empty canvas.
    pub fn new(tokenizer: &'a Tokenizer, canvas: &Canvas, milliseconds: u64) -> Self {
        let term = Term::stderr();
        let start = canvas.prompt();
        let prompt: Vec<u32> = canvas.positions()[..start].iter().flatten().copied().collect();
        let live = crate::output::redraws();
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
            steps: 0,
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
        (self.forwards, self.steps) = (step.forwards, step.step + 1);
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
            self.say(&format!(
                "step {}, pass {}: {changes} changed, {} | {}",
                self.steps,
                self.forwards,
                self.count(),
                self.plain()
            ));
        }
    }

    /// Draws the end, whole however long it is. Returns the time that watching took.
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
            return format!("{MASK} a position still unknown; a line a step");
        }
        let style = |confidence| self.style(confidence);
        format!(
            "{} unknown   {} a guess   {} sure   {} fairly   {} unsure   {} new",
            Style::new().for_stderr().dim().apply_to(MASK),
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
        let passes = if self.forwards == 1 { "pass" } else { "passes" };
        format!("{known} of {} positions, {} {passes}, {rate:.1} tokens a pass", self.cells.len(), self.forwards)
    }

    /// The text with `░` for what is unknown.
    fn plain(&self) -> String {
        let one = |cell: &Cell| match cell {
            Cell::Mask | Cell::Ghost(_) => MASK.to_string(),
            Cell::Given(token) | Cell::Token { token, .. } => piece(self.tokenizer, *token),
        };
        self.cells.iter().map(one).collect::<String>().replace('\n', "↵")
    }

    fn draw(&mut self, now: Option<usize>) {
        let (rows, columns) = self.term.size();
        let lines = self.lines((rows as usize).max(6), (columns as usize).max(20) - 1, now);
        let _ = self.term.clear_last_lines(self.drawn);
        self.drawn = lines.len();
        self.say(&lines.join("\n"));
    }

    /// What is drawn in a step, as much of it as fits the screen, or at the end, all of it.
    fn lines(&self, rows: usize, columns: usize, now: Option<usize>) -> Vec<String> {
        let mut page = Page::new(columns);
        page.add(&self.prompt, &Style::new().for_stderr().bold());
        for cell in &self.cells {
            match cell {
                Cell::Mask => page.add(MASK.encode_utf8(&mut [0; 4]), &Style::new().for_stderr().dim()),
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
        let progress = status(columns, share, &format!("step {} · {}", self.steps, self.count()));
        let progress = Style::new().for_stderr().dim().apply_to(progress).to_string();
        // The end of a long text is where it is written. What is finished is drawn over no more, and may scroll away.
        let lines = page.into_lines();
        let skip = if now.is_some() { (lines.len() + 2).saturating_sub(rows) } else { 0 };
        lines.into_iter().skip(skip).chain([progress]).collect()
    }
}

/// A line of at most so many columns: a bar as long as the words leave room for, and the words, whose letters are all of
/// one column.
fn status(columns: usize, share: f64, words: &str) -> String {
    let room = columns.saturating_sub(words.chars().count() + 1).min(BAR);
    let full = (share.clamp(0.0, 1.0) * room as f64).round() as usize;
    let bar = match room {
        0 => String::new(),
        room => format!("{}{} ", "█".repeat(full), "░".repeat(room - full)),
    };
    format!("{bar}{words}").chars().take(columns).collect()
}

/// Styled text broken into lines of a width: between words, inside one that is longer than a line, and
/// beside letters of double width, most of whose scripts are written without spaces.
struct Page {
    columns: usize,
    lines: Vec<String>,
    width: usize,
    /// The word at the end, which may still go on in another style, and its width.
    word: Vec<(String, Style)>,
    word_width: usize,
    /// Whether it is a letter that lines may break behind.
    alone: bool,
}

impl Page {
    fn new(columns: usize) -> Self {
        Self { columns, lines: vec![String::new()], width: 0, word: Vec::new(), word_width: 0, alone: false }
    }

    fn add(&mut self, text: &str, style: &Style) {
        for letter in text.chars() {
            match letter {
                '\n' => {
                    self.end_word();
                    self.end_line();
                }
                letter if letter.is_whitespace() && !matches!(letter, '\u{a0}' | '\u{202f}') || letter.is_control() => {
                    self.end_word();
                    // Between lines there is no need for a space.
                    if self.width < self.columns {
                        self.letter(' ', 1, style);
                        self.end_word();
                    }
                }
                letter => {
                    let wide = measure_text_width(letter.encode_utf8(&mut [0; 4]));
                    // A mark of no width stays with the letter before it.
                    let alone = wide > 1 || letter == MASK;
                    if wide > 0 && (alone || self.alone || self.word_width + wide > self.columns) {
                        self.end_word();
                    }
                    self.letter(letter, wide, style);
                    self.alone |= alone;
                }
            }
        }
    }

    fn letter(&mut self, letter: char, wide: usize, style: &Style) {
        match self.word.last_mut() {
            Some((run, of)) if of == style => run.push(letter),
            _ => self.word.push((letter.into(), style.clone())),
        }
        self.word_width += wide;
    }

    fn end_word(&mut self) {
        if self.width + self.word_width > self.columns {
            self.end_line();
        }
        self.width += std::mem::take(&mut self.word_width);
        self.alone = false;
        let line = self.lines.last_mut().expect("a page begins with a line");
        for (run, style) in self.word.drain(..) {
            line.push_str(&style.apply_to(run).to_string());
        }
    }

    fn end_line(&mut self) {
        self.lines.push(String::new());
        self.width = 0;
    }

    fn into_lines(mut self) -> Vec<String> {
        self.end_word();
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> Vec<String> {
        let mut page = Page::new(5);
        let style = Style::new().force_styling(false);
        pieces.iter().for_each(|piece| page.add(piece, &style));
        page.into_lines()
    }

    #[test]
    fn lines_break_between_words_and_at_line_breaks() {
        assert_eq!(lines(&["to the", " st", "one\nbri", "dge"]), ["to ", "the ", "stone", "bridg", "e"]);
        assert_eq!(lines(&["abcdefg", "h\ni", "日本語"]), ["abcde", "fgh", "i日本", "語"]);
        assert_eq!(lines(&["ab", "░░░░", " c"]), ["ab░░░", "░ c"]);
        assert_eq!(lines(&["日本", "が\u{3099}x"]), ["日本", "が\u{3099}x"], "a mark stays with its letter");
    }

    #[test]
    fn the_status_fits_whole_into_80_columns_and_is_cut_only_by_narrower_ones() {
        let tokenizer = crate::scorer::tests::tokenizer();
        let mut screen = Screen::new(&tokenizer, &Canvas::after(&[1], 1024), 0);
        screen.live = false;
        let step = |step, forwards| Step { step, forwards, ..Step::default() };
        screen.step(&step(0, 1));
        assert_eq!((screen.steps, screen.count().as_str()), (1, "0 of 1024 positions, 1 pass, 0.0 tokens a pass"));
        for cell in &mut screen.cells {
            *cell = Cell::Token { token: 1, confidence: 1.0, step: 1023 };
        }
        screen.step(&step(1023, 1024));
        let words = format!("step {} · {}", screen.steps, screen.count());
        assert!(words.starts_with("step 1024 · 1024 of 1024 positions, 1024 passes"), "{words}");
        // One column less than the terminal has.
        let line = status(79, 0.5, &words);
        assert!(line.ends_with(&words) && line.starts_with("██████░░░░░░ step"), "{line}");
        assert_eq!(status(200, 0.5, &words).chars().filter(|c| "█░".contains(*c)).count(), BAR);
        for columns in 20..200 {
            assert!(measure_text_width(&status(columns, 0.3, &words)) <= columns, "{columns}");
        }
        assert_eq!(status(20, 1.0, &words), "step 1024 · 1024 of ");
    }

    #[test]
    fn a_finished_text_that_is_taller_than_the_screen_is_drawn_whole() {
        let tokenizer = crate::scorer::tests::tokenizer();
        let mut screen = Screen::new(&tokenizer, &Canvas::after(&[1], 1024), 0);
        screen.prompt = "one two three four ".repeat(20);
        let (part, whole) = (screen.lines(6, 20, Some(0)), screen.lines(6, 20, None));
        assert_eq!(part.len(), 5, "one row is left to the cursor");
        assert!(whole.len() > 20 && whole[0].contains("one"), "{} lines from {:?}", whole.len(), whole[0]);
        assert_eq!(part[..4], whole[whole.len() - 5..whole.len() - 1]);
    }

    #[test]
    fn a_style_change_inside_a_word_does_not_break_it() {
        let mut page = Page::new(8);
        page.add("near the St", &Style::new().force_styling(true).green());
        page.add("one", &Style::new().force_styling(true).red());
        let widths: Vec<usize> = page.into_lines().iter().map(|line| measure_text_width(line)).collect();
        assert_eq!(widths, [8, 5], "`near the`, and `Stone` without the space between lines");
    }
}
