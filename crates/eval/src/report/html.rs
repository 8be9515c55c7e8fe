//! Writing HTML in which no text of a run can be anything but text.

/// Text made safe inside an element or a quoted attribute. Control characters that HTML does not
/// allow become the replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// A cell: already HTML, with its class.
pub(super) struct Cell {
    html: String,
    class: &'static str,
}

/// A cell of text.
pub(super) fn text(value: &str) -> Cell {
    Cell { html: escape(value), class: "" }
}

/// A cell of a number, set to the right in figures of one width.
pub(super) fn number(value: &str) -> Cell {
    Cell { html: escape(value), class: "num" }
}

/// A cell of HTML that the caller made safe.
pub(super) fn html(html: String, class: &'static str) -> Cell {
    Cell { html, class }
}

/// A table with a caption; the first cell of each row is its header. Column heads with a leading
/// `#` are of numbers.
pub(super) fn table(caption: &str, heads: &[&str], rows: &[(&'static str, Vec<Cell>)]) -> String {
    let mut out = format!("<div class=\"scroll\"><table>\n<caption>{}</caption>\n<thead><tr>", escape(caption));
    for head in heads {
        let (class, label) = head.strip_prefix('#').map_or(("", *head), |label| (" class=\"num\"", label));
        out.push_str(&format!("<th scope=\"col\"{class}>{}</th>", escape(label)));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (class, cells) in rows {
        out.push_str(&format!("<tr class=\"{class}\">"));
        for (index, cell) in cells.iter().enumerate() {
            let tag = if index == 0 { "th scope=\"row\"" } else { "td" };
            let end = if index == 0 { "th" } else { "td" };
            out.push_str(&format!("<{tag} class=\"{}\">{}</{end}>", cell.class, cell.html));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

/// A list of labels and values, empty values left out.
pub(super) fn facts<'a>(items: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::from("<dl class=\"facts\">\n");
    for (label, value) in items {
        if !value.is_empty() {
            out.push_str(&format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(label), escape(value)));
        }
    }
    out.push_str("</dl>\n");
    out
}
