//! `strftime_now` for templates that print today's date, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// The present moment in a `strftime` format.
pub(super) fn now(format: &str) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    at(format, seconds)
}

/// Year, month (1 to 12), day (1 to 31) of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March put the leap day last; 400 of them have 146,097 days, and the
    // count starts on 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn at(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let weekday = DAYS[((days + 4) % 7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let (code, padded) = match letters.next() {
            Some('-') => (letters.next(), false),
            code => (code, true),
        };
        let number = |value: u64| {
            if padded { format!("{value:02}") } else { value.to_string() }
        };
        text += &match code {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100),
            Some('m') => number(month),
            Some('d') => number(day),
            Some('H') => number(hour),
            Some('I') => number(twelve),
            Some('M') => number(minute),
            Some('S') => number(second % 60),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('%') => "%".to_owned(),
            other => {
                let shown = other.map_or_else(|| "%".to_owned(), |code| format!("%{code}"));
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: {shown} is not supported; expected one of YymdHIMSpBbAaFT%"),
                ));
            }
        };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::at;

    #[test]
    fn dates_are_right_at_the_edges() {
        let full = "%A %d %B %Y %H:%M:%S";
        assert_eq!(at(full, 0).unwrap(), "Thursday 01 January 1970 00:00:00");
        assert_eq!(at(full, 951_782_399).unwrap(), "Monday 28 February 2000 23:59:59");
        assert_eq!(at(full, 951_782_400).unwrap(), "Tuesday 29 February 2000 00:00:00");
        assert_eq!(at("%d %b %Y, %-d/%-m, %I %p", 1_721_952_000).unwrap(), "26 Jul 2024, 26/7, 12 AM");
        assert!(at("%Q", 0).unwrap_err().to_string().contains("%Q"));
        assert!(at("%", 0).is_err());
    }
}
