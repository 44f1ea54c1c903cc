//! `evaluation.html`: one file that needs no network.

use std::fmt::Write;

use super::sheet::{Document, Entry, Sheet};
use crate::markup::escaped;

/// The page around the tables.
const PAGE: &str = include_str!("page.html");

/// A document as a page whose tables are sorted by a click on a column.
pub(super) fn render(document: &Document) -> String {
    let mut body = format!("<h1>{}</h1>\n", escaped(&document.title));
    for paragraph in &document.lead {
        let _ = writeln!(body, "<p>{}</p>", escaped(paragraph));
    }
    for sheet in document.sheets.iter().filter(|s| !s.rows.is_empty()) {
        table(&mut body, sheet);
    }
    let _ = writeln!(
        body,
        "<details><summary>Configuration</summary><pre>{}</pre></details>",
        escaped(&document.configuration)
    );
    let (head, tail) = PAGE.split_once("{body}").unwrap_or((PAGE, ""));
    let head = head.replace("{title}", &escaped(&document.title));
    format!("{head}{body}{tail}")
}

fn table(body: &mut String, sheet: &Sheet) {
    let _ = writeln!(
        body,
        "<section><h2>{}</h2>\n<p>{}</p>\n{}<div><table><thead><tr>",
        escaped(sheet.title),
        escaped(&sheet.note),
        figure(sheet)
    );
    for name in &sheet.head {
        let _ = write!(body, "<th scope=\"col\">{}</th>", escaped(name));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for row in &sheet.rows {
        body.push_str("<tr>");
        row.iter().for_each(|entry| cell(body, entry));
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody></table></div></section>\n");
}

/// A sheet's plot. Within a page SVG needs no name of its namespace, which looks like an address.
fn figure(sheet: &Sheet) -> String {
    let svg = sheet.figure.as_deref().unwrap_or_default();
    let svg = svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
    match svg.is_empty() {
        true => svg,
        false => format!("<div>{svg}</div>\n"),
    }
}

fn cell(body: &mut String, entry: &Entry) {
    let class = match entry.text.as_str() {
        "RAISED" => " class=\"raised\"",
        _ => "",
    };
    let _ = match entry.number {
        Some(number) => write!(body, "<td data-number=\"{number}\">"),
        None => write!(body, "<td{class}>"),
    };
    let _ = write!(body, "{}</td>", escaped(&entry.text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::Svg;

    fn document(text: &str) -> Document {
        Document {
            title: text.into(),
            lead: vec![text.into()],
            sheets: vec![Sheet {
                title: "S",
                note: text.into(),
                figure: Some(Svg::default().finish(10.0, 10.0, text)),
                head: vec![text.into()],
                rows: vec![vec![
                    Entry {
                        text: text.into(),
                        number: None,
                    },
                    Entry {
                        text: "1".into(),
                        number: Some(0.5),
                    },
                ]],
            }],
            configuration: text.into(),
        }
    }

    #[test]
    fn markup_in_names_stays_text() {
        let plain = render(&document("x"));
        let hostile = render(&document("</pre><script>alert(1)</script>\"'&{body}"));
        assert_eq!(
            hostile.matches("<script").count(),
            plain.matches("<script").count()
        );
        assert_eq!(hostile.matches("</pre>").count(), 1);
        assert!(hostile.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;"));
        assert_eq!(hostile.matches("<table>").count(), 1);
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let text = render(&document("x"));
        for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!text.contains(outside), "{outside}");
        }
        assert!(text.contains("data-number=\"0.5\""));
        assert!(text.contains("<svg width=\"10\""));
    }
}
