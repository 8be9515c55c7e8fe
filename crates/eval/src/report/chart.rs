//! Charts as SVG text: lines, bars, a heat map. Sizes are in pixels of the drawing; colours are
//! the page's variables, so that one drawing serves light, dark and print.

use super::html::escape;
use super::number::{Axis, Scale, grouped, short};

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Thin and pale: many noisy points.
    Faint,
    /// The line that matters.
    Strong,
    /// The same, with its points marked: few measurements.
    Marked,
    /// Grey and dashed: what is compared with.
    Reference,
}

impl Style {
    fn class(self) -> &'static str {
        match self {
            Self::Faint => "faint",
            Self::Strong => "strong",
            Self::Marked => "strong marked",
            Self::Reference => "reference",
        }
    }
}

/// One line.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) points: Vec<(f64, f64)>,
}

/// A line chart.
pub(super) struct Lines<'a> {
    /// Prefix of the ids inside; one for each chart of a page.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    pub(super) description: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    pub(super) x_format: fn(f64) -> String,
    pub(super) y_format: fn(f64) -> String,
    pub(super) x_scale: Scale,
    pub(super) y_scale: Scale,
    pub(super) series: &'a [Series],
}

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 262.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 42.0;
/// The most points drawn of one line; more are averaged in runs.
const MOST_POINTS: usize = 320;

fn open(id: &str, class: &str, (width, height): (f64, f64), title: &str, description: &str) -> String {
    format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n\
         <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>\n",
        escape(title),
        escape(description)
    )
}

impl Lines<'_> {
    /// The drawing, or `None` if there is nothing to draw.
    pub(super) fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let shown = || points().filter(|(x, y)| self.x_scale.shows(*x) && self.y_scale.shows(*y));
        let x_ticks = if self.x_scale == Scale::Log2 { 8 } else { 5 };
        let x = Axis::over(shown().map(|p| p.0), self.x_scale, false, x_ticks)?;
        let y = Axis::over(shown().map(|p| p.1), self.y_scale, true, 5)?;
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let at_x = |value: f64| x.place(value).map(|p| LEFT + p * (right - LEFT));
        let at_y = |value: f64| y.place(value).map(|p| bottom - p * (bottom - TOP));

        let mut out = open(self.id, "lines", (WIDTH, HEIGHT), self.title, self.description);
        for tick in &y.ticks {
            let Some(h) = at_y(*tick) else { continue };
            out.push_str(&format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{h:.1}\" y2=\"{h:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 8.0,
                h + 3.8,
                escape(&(self.y_format)(*tick))
            ));
        }
        out.push_str(&format!("<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\n"));
        for tick in &x.ticks {
            let Some(w) = at_x(*tick) else { continue };
            out.push_str(&format!(
                "<line class=\"axis\" x1=\"{w:.1}\" x2=\"{w:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" x=\"{w:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                bottom + 4.0,
                bottom + 17.0,
                escape(&(self.x_format)(*tick))
            ));
        }
        out.push_str(&format!(
            "<text class=\"label\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text class=\"label\" x=\"{:.1}\" y=\"11\">{}</text>\n",
            HEIGHT - 6.0,
            escape(self.x_label),
            2.0,
            escape(self.y_label)
        ));
        for series in self.series {
            out.push_str(&line(series, &at_x, &at_y));
        }
        out.push_str("</svg>");
        Some(out)
    }
}

/// One series: a path for each run of points that can be shown.
fn line(series: &Series, at_x: &dyn Fn(f64) -> Option<f64>, at_y: &dyn Fn(f64) -> Option<f64>) -> String {
    let mut path = String::new();
    let mut marks = String::new();
    let mut pen_down = false;
    let mut count = 0;
    let mut last = (0.0, 0.0);
    for (x, y) in thin(&series.points, MOST_POINTS) {
        let (Some(x), Some(y)) = (at_x(x), at_y(y)) else {
            pen_down = false;
            continue;
        };
        path.push_str(&format!("{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' }));
        pen_down = true;
        count += 1;
        last = (x, y);
        if series.style == Style::Marked && series.points.len() <= 40 {
            marks.push_str(&format!("<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>"));
        }
    }
    if count == 1 {
        marks = format!("<circle class=\"mark\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"/>", last.0, last.1);
    }
    format!("<g class=\"{}\"><path d=\"{path}\"/>{marks}</g>\n", series.style.class())
}

/// At most `most` points, each the mean of a run. A run with a value that is not finite gives
/// one, so that the break shows.
pub(super) fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    points
        .chunks(points.len().div_ceil(most.max(1)))
        .map(|run| {
            let count = run.len() as f64;
            let sum = run.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
            (sum.0 / count, sum.1 / count)
        })
        .collect()
}

/// A legend in HTML: a stroke and a name for each series.
pub(super) fn legend(series: &[Series]) -> String {
    let mut out = String::from("<ul class=\"legend\">");
    for one in series {
        let mark = match one.style {
            Style::Marked => "<circle class=\"mark\" cx=\"11\" cy=\"5\" r=\"2.6\"/>",
            _ => "",
        };
        out.push_str(&format!(
            "<li><svg viewBox=\"0 0 22 10\" width=\"22\" height=\"10\" aria-hidden=\"true\"><g class=\"{}\"><path d=\"M1 5L21 5\"/>{mark}</g></svg>{}</li>",
            one.style.class(),
            escape(&one.name)
        ));
    }
    out.push_str("</ul>");
    out
}

/// One bar.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) shown: String,
    pub(super) accent: bool,
}

/// Horizontal bars from zero, their values at their ends.
pub(super) fn bars(id: &str, title: &str, description: &str, bars: &[Bar]) -> Option<String> {
    let most = bars
        .iter()
        .map(|b| b.value)
        .filter(|v| v.is_finite() && *v >= 0.0)
        .fold(None, |most: Option<f64>, v| Some(most.map_or(v, |m| m.max(v))))?
        .max(f64::MIN_POSITIVE);
    let (row, left, room) = (30.0, 176.0, 212.0);
    let height = row * bars.len() as f64 + 8.0;
    let mut out = open(id, "bars", (WIDTH, height), title, description);
    for (index, bar) in bars.iter().enumerate() {
        let top = index as f64 * row + 6.0;
        let finite = bar.value.is_finite();
        let width = if finite { bar.value.max(0.0) / most * room } else { 0.0 };
        let class = if bar.accent { "bar accent" } else { "bar" };
        out.push_str(&format!(
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{left}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"18\" rx=\"2\"/>\
             <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            left - 10.0,
            top + 13.2,
            escape(&clip(&bar.label, 28)),
            left + width + 8.0,
            top + 13.2,
            escape(&bar.shown)
        ));
    }
    out.push_str("</svg>");
    Some(out)
}

fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// One row of a heat map: its label and its values in time.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A heat map on a logarithmic scale, the last value of each row written out.
pub(super) fn heat_map(id: &str, title: &str, description: &str, x_format: fn(f64) -> String, rows: &[Row]) -> Option<String> {
    const COLUMNS: usize = 56;
    const CELL: f64 = 13.0;
    let (width, left, right, top) = (980.0, 58.0, 96.0, 24.0);
    let all = || rows.iter().flat_map(|r| &r.points);
    let positive = |v: &f64| Scale::Log10.shows(*v);
    let low = all().map(|p| p.1).filter(positive).fold(f64::INFINITY, f64::min);
    let high = all().map(|p| p.1).filter(positive).fold(0.0, f64::max);
    if low > high {
        return None;
    }
    let first = all().map(|p| p.0).filter(|v| v.is_finite()).fold(f64::INFINITY, f64::min);
    let last = all().map(|p| p.0).filter(|v| v.is_finite()).fold(f64::NEG_INFINITY, f64::max);
    let longest = rows.iter().map(|r| r.points.len()).max().unwrap_or(0);
    // As many columns as runs of equal length make.
    let columns = longest.div_ceil(longest.div_ceil(COLUMNS).max(1)).max(1);
    let span = (width - left - right) / columns as f64;
    let height = top + rows.len() as f64 * CELL + 26.0;
    let mut out = open(id, "heat", (width, height), title, description);
    let tone = |value: f64| {
        let share = if high > low { (value / low).ln() / (high / low).ln() } else { 1.0 };
        0.06 + 0.94 * share
    };
    out.push_str(&format!(
        "<text class=\"label\" x=\"2\" y=\"12\">layer</text>\
         <text class=\"label\" x=\"{}\" y=\"12\" text-anchor=\"end\">last value</text>\n",
        width - 2.0
    ));
    for step in 0..40 {
        let share = f64::from(step) / 39.0;
        let x = (width / 2.0 - 60.0).round() + f64::from(step) * 3.0;
        out.push_str(&format!(
            "<rect class=\"cell\" x=\"{x:.0}\" y=\"4\" width=\"3\" height=\"9\" shape-rendering=\"crispEdges\" fill-opacity=\"{:.2}\"/>",
            0.06 + 0.94 * share
        ));
    }
    out.push_str(&format!(
        "<text class=\"tick\" x=\"{:.1}\" y=\"12\" text-anchor=\"end\">{}</text>\
         <text class=\"tick\" x=\"{:.1}\" y=\"12\">{}</text>\n",
        width / 2.0 - 67.0,
        short(low),
        width / 2.0 + 67.0,
        short(high)
    ));
    // The last values share their digits, so that they stand under each other.
    let least = rows.iter().filter_map(|r| Some(r.points.last()?.1)).filter(positive).fold(f64::INFINITY, f64::min);
    let digits = (1.0 - least.log10().floor()).clamp(0.0, 8.0) as usize;
    let every = if rows.len() > 16 { 4 } else { 1 };
    for (index, row) in rows.iter().enumerate() {
        let y = top + index as f64 * CELL;
        let last = rows.len() - 1;
        if index == last || (index % every == 0 && last - index >= every.div_ceil(2)) {
            out.push_str(&format!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 8.0,
                y + 10.0,
                escape(&clip(&row.label, 7))
            ));
        }
        let cells = thin(&row.points, columns);
        for (column, (_, value)) in cells.iter().enumerate() {
            if !positive(value) {
                continue;
            }
            out.push_str(&format!(
                "<rect class=\"cell\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill-opacity=\"{:.2}\"/>",
                left + column as f64 * span,
                span - 0.8,
                CELL - 0.8,
                tone(*value)
            ));
        }
        if let Some((_, value)) = row.points.last() {
            out.push_str(&format!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                width - 2.0,
                y + 10.0,
                escape(&grouped(*value, digits))
            ));
        }
    }
    let base = top + rows.len() as f64 * CELL + 14.0;
    out.push_str(&format!(
        "<text class=\"tick\" x=\"{left}\" y=\"{base:.1}\">{}</text>\
         <text class=\"tick\" x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{} tokens</text></svg>",
        escape(&x_format(first)),
        width - right,
        escape(&x_format(last))
    ));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(points: Vec<(f64, f64)>, y_scale: Scale) -> Option<String> {
        let series = [Series { name: "a".into(), style: Style::Marked, points }];
        Lines {
            id: "c",
            title: "T",
            description: "D",
            x_label: "x",
            y_label: "y",
            x_format: short,
            y_format: short,
            x_scale: Scale::Linear,
            y_scale,
            series: &series,
        }
        .svg()
    }

    #[test]
    fn a_line_goes_from_corner_to_corner_and_breaks_at_nan() {
        let svg = lines(vec![(0.0, 0.0), (5.0, f64::NAN), (10.0, 10.0)], Scale::Linear).unwrap();
        let bottom = HEIGHT - BOTTOM;
        let right = WIDTH - RIGHT;
        let path = format!("<path d=\"M{LEFT:.1} {bottom:.1}M{right:.1} {TOP:.1}\"/>");
        assert!(svg.contains(&path), "{svg}");
        assert!(svg.contains("<title id=\"c-t\">T</title>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn nothing_to_draw_is_none() {
        assert!(lines(vec![], Scale::Linear).is_none());
        assert!(lines(vec![(0.0, f64::NAN)], Scale::Linear).is_none());
        assert!(lines(vec![(0.0, 0.0)], Scale::Log10).is_none());
        assert!(bars("b", "", "", &[]).is_none());
        assert!(heat_map("h", "", "", short, &[]).is_none());
    }

    #[test]
    fn long_curves_are_thinned_to_means() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), 2.0)).collect();
        let thin = thin(&points, 100);
        assert_eq!(thin.len(), 100);
        assert_eq!(thin[0], (4.5, 2.0));
    }
}
