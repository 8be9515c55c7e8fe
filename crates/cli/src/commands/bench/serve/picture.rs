//! The figures as a picture that stands alone: speed and state against context, both axes by powers.

use super::Row;
use std::fmt::Write;

const COLOURS: [&str; 6] = ["#0b6b61", "#767c86", "#b4552d", "#4a5fa5", "#8a6d1f", "#8d4a86"];
const PANEL_WIDTH: f64 = 360.0;
const PANEL_HEIGHT: f64 = 250.0;

/// Two panels: tokens/s of the most sequences at a time, and what their states take. A sequence count
/// that does not fit has no point in the first.
pub(super) fn svg(rows: &[Row]) -> String {
    let batch = rows.iter().map(|r| r.batch).max().unwrap_or(1);
    let mut models: Vec<&str> = Vec::new();
    for row in rows {
        if !models.contains(&row.model.as_str()) {
            models.push(&row.model);
        }
    }
    let points = |value: fn(&Row) -> Option<f64>| -> Vec<Vec<(f64, f64)>> {
        let of = |model: &&str| {
            let rows = rows.iter().filter(|r| r.model == **model && r.batch == batch);
            rows.filter_map(|r| Some((r.context as f64, value(r)?))).collect()
        };
        models.iter().map(of).collect()
    };
    let left = Panel { at: 60.0, title: format!("tokens/s of {batch} sequences together"), shown: plain };
    let right = Panel { at: 60.0 + PANEL_WIDTH + 90.0, title: format!("state of {batch} sequences"), shown: bytes };
    let height = PANEL_HEIGHT + 104.0 + 18.0 * models.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 890 {height:.0}\" role=\"img\">\n\
         <title>Speed and state of {batch} sequences against context</title>\n\
         <style>text{{font:13px sans-serif;fill:#444}}.t{{font-weight:600}}.g{{stroke:#ddd}}path{{fill:none;stroke-width:2.2}}</style>\n\
         <rect width=\"890\" height=\"{height:.0}\" fill=\"#fff\"/>\n"
    );
    left.draw(&mut out, &points(|r| r.tokens_per_second));
    right.draw(&mut out, &points(|r| Some(r.state_bytes as f64)));
    for (index, model) in models.iter().enumerate() {
        let (y, colour) = (PANEL_HEIGHT + 96.0 + 18.0 * index as f64, COLOURS[index % COLOURS.len()]);
        let model = model.replace('&', "&amp;").replace('<', "&lt;");
        let _ =
            writeln!(out, "<path d=\"M60 {:.1}h26\" stroke=\"{colour}\"/><text x=\"94\" y=\"{y:.1}\">{model}</text>", y - 4.0);
    }
    out.push_str("</svg>\n");
    out
}

struct Panel {
    at: f64,
    title: String,
    shown: fn(f64) -> String,
}

impl Panel {
    fn draw(&self, out: &mut String, lines: &[Vec<(f64, f64)>]) {
        let all = || lines.iter().flatten().filter(|(x, y)| *x > 0.0 && *y > 0.0);
        let Some((xs, ys)) = powers(all().map(|p| p.0), 2.0).zip(powers(all().map(|p| p.1), 4.0)) else { return };
        let top = 40.0;
        let place = |value: f64, (first, last): (f64, f64)| (value / first).ln() / (last / first).ln();
        let x = |value: f64| self.at + place(value, xs) * PANEL_WIDTH;
        let y = |value: f64| top + (1.0 - place(value, ys)) * PANEL_HEIGHT;
        let (at, bottom) = (self.at, top + PANEL_HEIGHT);
        let _ = writeln!(out, "<text class=\"t\" x=\"{at}\" y=\"22\">{}</text>", self.title);
        let mut tick = ys.0;
        while tick <= ys.1 * 1.01 {
            let (h, shown) = (y(tick), (self.shown)(tick));
            let _ = writeln!(
                out,
                "<line class=\"g\" x1=\"{at}\" x2=\"{:.1}\" y1=\"{h:.1}\" y2=\"{h:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{shown}</text>",
                at + PANEL_WIDTH,
                at - 6.0,
                h + 4.0
            );
            tick *= 4.0;
        }
        let mut tick = xs.0;
        while tick <= xs.1 * 1.01 {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x(tick),
                bottom + 18.0,
                plain(tick)
            );
            tick *= 2.0;
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">tokens that each has read</text>",
            at + PANEL_WIDTH,
            bottom + 35.0
        );
        for (index, line) in lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let mut path = String::new();
            for (px, py) in line {
                let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { 'M' } else { 'L' }, x(*px), y(*py));
                let _ = write!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.4\" fill=\"{colour}\"/>", x(*px), y(*py));
            }
            let _ = writeln!(out, "<path d=\"{path}\" stroke=\"{colour}\"/>");
        }
    }
}

/// The powers of `base` around all values, at least one step apart.
fn powers(values: impl Iterator<Item = f64> + Clone, base: f64) -> Option<(f64, f64)> {
    let least = values.clone().reduce(f64::min)?;
    let most = values.reduce(f64::max)?;
    let first = least.log(base).floor();
    Some((base.powf(first), base.powf(most.log(base).ceil().max(first + 1.0))))
}

fn plain(value: f64) -> String {
    if value >= 1024.0 && value % 1024.0 == 0.0 { format!("{}k", value / 1024.0) } else { format!("{value}") }
}

fn bytes(value: f64) -> String {
    crate::run::bytes(value as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_has_no_point() {
        let row = |model: &str, context, speed| Row {
            model: model.into(),
            context,
            batch: 4,
            tokens_per_second: speed,
            state_bytes: 1 << 20,
            fit_in_16_gib: 9,
        };
        let rows = [row("a<b", 512, Some(3.0)), row("a<b", 2048, None), row("c", 512, Some(60.0)), row("c", 2048, Some(50.0))];
        let svg = svg(&rows);
        assert_eq!(svg.matches("<circle").count(), 3 + 4);
        assert!(svg.contains("a&lt;b") && svg.contains("of 4 sequences") && !svg.contains("NaN"));
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        assert!(svg(&[]).ends_with("</svg>\n"));
    }
}
