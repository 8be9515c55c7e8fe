//! Where a text ends: stop strings, found across the borders of tokens.

/// Passes text on and holds back what may be the beginning of a stop string.
#[derive(Clone, Debug)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What [`StopFilter::push`] lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Text that belongs to the result and cannot become part of a stop string.
    pub text: String,
    /// The stop string that ends the text, if one is complete.
    pub stop: Option<String>,
}

impl StopFilter {
    /// Stops at the first occurrence of any of these; empty strings stop nothing.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece of text. After a stop the filter is empty.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)));
        // Where two begin together the longer one, so that the answer does not depend on their order.
        if let Some((at, stop)) = found.min_by_key(|(at, stop)| (*at, std::cmp::Reverse(stop.len()))) {
            let stop = Some(stop.clone());
            self.held.truncate(at);
            return Passed { text: std::mem::take(&mut self.held), stop };
        }
        let keep = self.pending();
        let rest = self.held.split_off(self.held.len() - keep);
        Passed { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// The end of the text: what was held back belongs to it.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of `held` that begin a stop string.
    fn pending(&self) -> usize {
        let begins = |stop: &String| {
            let longest = (stop.len() - 1).min(self.held.len());
            let fits = |n: &usize| stop.is_char_boundary(*n) && self.held.as_bytes().ends_with(&stop.as_bytes()[..*n]);
            (1..=longest).rev().find(fits).unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_string()).collect();
        let mut filter = StopFilter::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            let passed = filter.push(piece);
            out.push(passed.text);
            if passed.stop.is_some() {
                return (out, passed.stop);
            }
        }
        out.push(filter.finish());
        (out, None)
    }

    #[test]
    fn a_stop_string_over_three_pieces_is_never_shown() {
        let (out, stop) = run(&["\n\nQ:"], &["yes", "\n", "\nQ", ": no"]);
        assert_eq!((out.concat().as_str(), stop.as_deref()), ("yes", Some("\n\nQ:")));
        assert_eq!(out, ["yes", "", "", ""]);
    }

    #[test]
    fn what_only_began_like_one_comes_later() {
        let (out, stop) = run(&["abc"], &["xab", "abd", "ab"]);
        assert_eq!((out, stop), (vec!["x".into(), "ababd".into(), String::new(), "ab".into()], None));
    }

    #[test]
    fn the_earliest_wins_and_characters_stay_whole() {
        let (out, stop) = run(&["c", "bc", "é!"], &["ab", "é", "?bc"]);
        assert_eq!((out.concat().as_str(), stop.as_deref()), ("abé?", Some("bc")));
        // Byte for byte "è" begins like "é", but half a character is not held.
        assert_eq!(run(&["é"], &["è"]).0[0], "è");
        assert_eq!(run(&[""], &["text"]).0.concat(), "text");
    }
}
