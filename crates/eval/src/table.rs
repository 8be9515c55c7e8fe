//! Plain-text tables for a terminal: columns wide enough for every cell as the terminal draws it
//! (wide and combining characters counted), numbers to the right, no colour unless asked for. The same as Markdown.

use unicode_width::UnicodeWidthStr;

/// Side a column's cells stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table: headers and rows of cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
    /// Lines below it, numbered from 1.
    notes: Vec<String>,
}

impl Table {
    /// An empty table with these columns.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Self { columns: columns.iter().map(|(name, align)| (clean(name), *align)).collect(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row; missing cells are empty, cells beyond the columns are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|c| clean(&c)).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Adds a column at the right; missing cells are empty, cells beyond the rows are left out.
    pub fn column(&mut self, name: &str, align: Align, cells: impl IntoIterator<Item = String>) {
        let mut cells = cells.into_iter();
        for row in &mut self.rows {
            row.push(cells.next().map(|cell| clean(&cell)).unwrap_or_default());
        }
        self.columns.push((clean(name), align));
    }

    /// The table without the columns in which no row has anything; one without rows stays as it is.
    #[must_use]
    pub fn without_empty(mut self) -> Self {
        if self.rows.is_empty() {
            return self;
        }
        for index in (0..self.columns.len()).rev() {
            if self.rows.iter().all(|row| row[index].is_empty()) {
                self.columns.remove(index);
                for row in &mut self.rows {
                    row.remove(index);
                }
            }
        }
        self
    }

    /// Columns of the terminal that it takes, without its notes.
    #[must_use]
    pub fn width(&self) -> usize {
        let lines = 2 + self.rows.len();
        self.plain().lines().take(lines).map(|line| line.width()).max().unwrap_or(0)
    }

    /// The table for a terminal of so many columns. Where it is wider, what has no room in its last column stands below as
    /// numbered lines; while that is not enough, so does what the columns `more` hold, one of them after the other.
    #[must_use]
    pub fn within(&self, width: usize, more: &[&str]) -> Self {
        let mut table = self.clone();
        for count in 0..=more.len() {
            if table.width() <= width {
                break;
            }
            table = self.noted(width, &more[..count]);
        }
        table
    }

    fn noted(&self, width: usize, more: &[&str]) -> Self {
        let mut table = self.clone();
        if table.columns.pop().is_none() {
            return table;
        }
        let mut texts: Vec<String> = table.rows.iter_mut().map(|row| row.pop().unwrap_or_default()).collect();
        for name in more {
            let Some(index) = table.columns.iter().position(|(column, _)| column == name) else { continue };
            table.columns.remove(index);
            for (row, text) in table.rows.iter_mut().zip(&mut texts) {
                let cell = row.remove(index);
                if !cell.is_empty() {
                    text.push_str(&format!("{}{name} {cell}", if text.is_empty() { "" } else { ", " }));
                }
            }
        }
        let room = width.saturating_sub(table.width() + 2);
        let mut cells = Vec::with_capacity(texts.len());
        for text in texts {
            if text.width() <= room {
                cells.push(text);
                continue;
            }
            // What is said of several rows is said once.
            let known = table.notes.iter().position(|note| *note == text);
            let number = known.unwrap_or(table.notes.len()) + 1;
            if known.is_none() {
                table.notes.push(text);
            }
            cells.push(number.to_string());
        }
        table.column("", Align::Left, cells);
        table
    }

    /// The table as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        let cell = |text: &String| text.replace('|', "\\|");
        let mut text = line(&mut self.columns.iter().map(|(name, _)| cell(name)));
        let mut sides = self.columns.iter().map(|(_, align)| match align {
            Align::Left => String::from("---"),
            Align::Right => String::from("---:"),
        });
        text.push_str(&line(&mut sides));
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(cell)));
        }
        text
    }

    /// The table as text without any escape sequence.
    #[must_use]
    pub fn plain(&self) -> String {
        self.render(false)
    }

    /// The table as text, the header in bold if `colour`.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| self.rows.iter().map(|row| row[index].width()).chain([self.columns[index].0.width()]).max().unwrap_or(0))
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, width), (_, align)) in cells.zip(&widths).zip(&self.columns) {
                let gap = " ".repeat(width - cell.width());
                match align {
                    Align::Left => line.push_str(&format!("{cell}{gap}  ")),
                    Align::Right => line.push_str(&format!("{gap}{cell}  ")),
                }
            }
            line.trim_end().to_string()
        };
        let mut text = String::new();
        let header = line(&mut self.columns.iter().map(|(name, _)| name.as_str()));
        if colour {
            text.push_str(&format!("\u{1b}[1m{header}\u{1b}[0m\n"));
        } else {
            text.push_str(&header);
            text.push('\n');
        }
        let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        text.push_str(&line(&mut rules.iter().map(String::as_str)));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
            text.push('\n');
        }
        for (index, note) in self.notes.iter().enumerate() {
            text.push_str(&format!("{}  {note}\n", index + 1));
        }
        text
    }
}

/// A number with so many digits after the point, from a million on as `1.1e74`; `-` for what is not finite.
#[must_use]
pub fn fixed(value: f64, digits: usize) -> String {
    match value.abs() {
        size if size < 1e6 => format!("{value:.digits$}"),
        size if size.is_finite() => format!("{value:.1e}"),
        _ => "-".into(),
    }
}

/// `0.612 ± 0.014`.
#[must_use]
pub fn with_error(value: f64, std_error: Option<f64>, digits: usize) -> String {
    match std_error {
        Some(error) => format!("{} ± {}", fixed(value, digits), fixed(error, digits)),
        None => fixed(value, digits),
    }
}

/// Control characters (line breaks, escape sequences of a hostile name) become spaces.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_drawn_width() {
        let mut table = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["日本".into(), "7".into()]);
        table.row(["e\u{301}".into(), "1234".into()]);
        table.row(["x\u{1b}[31m\ny".into()]);
        assert_eq!(
            table.plain(),
            "name         n\n\
             ────────  ────\n\
             日本         7\n\
             e\u{301}         1234\n\
             x [31m y\n"
        );
        assert!(table.render(true).starts_with("\u{1b}[1mname"));
        assert!(!table.plain().contains('\u{1b}'));
    }

    #[test]
    fn columns_without_anything_are_left_out() {
        let columns = [("context", Align::Right), ("student", Align::Right), ("teacher", Align::Right), ("note", Align::Left)];
        let mut table = Table::new(&columns);
        assert_eq!(table.clone().without_empty(), table, "one without rows");
        table.row(["1024".into(), "7".into()]);
        table.row(["8192".into(), String::new(), String::new(), "a|b".into()]);
        table.column("more", Align::Left, ["日本".into()]);
        let table = table.without_empty();
        assert_eq!(
            table.plain(),
            "context  student  note  more\n\
             ───────  ───────  ────  ────\n   \
             1024        7        日本\n   \
             8192           a|b\n"
        );
        assert_eq!(table.width(), 28);
        assert_eq!(
            table.markdown(),
            "| context | student | note | more |\n\
             | ---: | ---: | --- | --- |\n\
             | 1024 | 7 |  | 日本 |\n\
             | 8192 |  | a\\|b |  |\n"
        );
    }

    #[test]
    fn a_table_too_wide_says_below_what_has_no_room() {
        let columns = [("task", Align::Left), ("chance", Align::Right), ("value", Align::Right), ("conditions", Align::Left)];
        let mut table = Table::new(&columns);
        for (task, chance, said) in
            [("PIQA", "0.5", "0-shot, 906 items"), ("LAMBADA", "", "0-shot, 906 items"), ("home", "", "12 items")]
        {
            table.row([task.into(), chance.into(), "0.61".into(), said.into()]);
        }
        assert_eq!(table.within(table.width(), &["chance"]), table);
        assert_eq!(
            table.within(32, &["chance"]).plain(),
            "task     chance  value\n\
             ───────  ──────  ─────  ────────\n\
             PIQA        0.5   0.61  1\n\
             LAMBADA           0.61  1\n\
             home              0.61  12 items\n\
             1  0-shot, 906 items\n"
        );
        assert_eq!(
            table.within(24, &["absent", "chance"]).plain(),
            "task     value\n\
             ───────  ─────  ────────\n\
             PIQA      0.61  1\n\
             LAMBADA   0.61  2\n\
             home      0.61  12 items\n\
             1  0-shot, 906 items, chance 0.5\n\
             2  0-shot, 906 items\n"
        );
        assert_eq!(Table::new(&[]).within(0, &["chance"]), Table::new(&[]));
    }

    #[test]
    fn numbers_that_are_none_or_long() {
        assert_eq!(fixed(f64::NAN, 2), "-");
        assert_eq!(fixed(-f64::INFINITY, 2), "-");
        assert_eq!(fixed(-999_999.5, 1), "-999999.5");
        assert_eq!(fixed(1.0623e74, 3), "1.1e74");
        assert_eq!(with_error(0.5, Some(0.25), 2), "0.50 ± 0.25");
        assert_eq!(with_error(0.5, None, 1), "0.5");
    }
}
