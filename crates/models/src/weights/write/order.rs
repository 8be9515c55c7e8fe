//! The order of tensors in a file: that of their names, with numbers as numbers.

use std::cmp::Ordering;

/// Compares names so that layer 2 comes before layer 10. Names that differ never compare equal.
pub(super) fn by_name(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    while let (Some(&p), Some(&q)) = (x.first(), y.first()) {
        let ordering = if p.is_ascii_digit() && q.is_ascii_digit() {
            let (m, n) = (digits(&mut x), digits(&mut y));
            m.len().cmp(&n.len()).then_with(|| m.cmp(n))
        } else {
            x = &x[1..];
            y = &y[1..];
            p.cmp(&q)
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    // "01" and "1" have met as equal numbers; the text decides.
    x.len().cmp(&y.len()).then_with(|| a.cmp(b))
}

/// Takes the leading digits, and gives them without leading zeros.
fn digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    let zeros = number.iter().take_while(|b| **b == b'0').count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = vec!["l.10.a", "l.2.b", "l.2", "k", "l.02.a", "l.2.a", "l.1", "", "l.x"];
        names.sort_by(|a, b| by_name(a, b));
        assert_eq!(names, ["", "k", "l.1", "l.2", "l.02.a", "l.2.a", "l.2.b", "l.10.a", "l.x"]);
    }
}
