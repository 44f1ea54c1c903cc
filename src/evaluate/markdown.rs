//! `evaluation.md`.

use std::fmt::Write;

use super::sheet::{Document, Sheet};

/// A document as Markdown with GitHub's tables.
pub(super) fn render(document: &Document) -> String {
    let mut text = format!("# {}\n", escape(&document.title));
    for paragraph in &document.lead {
        let _ = write!(text, "\n{}\n", escape(paragraph));
    }
    for sheet in document.sheets.iter().filter(|s| !s.rows.is_empty()) {
        let _ = write!(text, "\n## {}\n\n{}\n\n", sheet.title, escape(&sheet.note));
        table(&mut text, sheet);
    }
    let _ = write!(
        text,
        "\n## Configuration\n\n```json\n{}\n```\n",
        // In JSON only strings contain backquotes, and there the escape means the same.
        document.configuration.replace('`', "\\u0060")
    );
    text
}

fn table(text: &mut String, sheet: &Sheet) {
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(&mut sheet.head.iter().map(|name| escape(name)));
    line(&mut sheet.head.iter().map(|_| "---".to_owned()));
    for row in &sheet.rows {
        line(&mut row.iter().map(|entry| escape(&entry.text)));
    }
}

/// Escapes text, so that Markdown shows it unchanged and on one line.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '#' | '&' => {
                safe.extend(['\\', c])
            }
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::sheet::Entry;

    #[test]
    fn markup_in_names_stays_text() {
        let entry = Entry {
            text: "a|b\n<img> `x`".into(),
            number: None,
        };
        let document = Document {
            title: "t".into(),
            lead: vec!["*a*".into()],
            sheets: vec![Sheet {
                title: "S",
                note: String::new(),
                figure: None,
                head: vec!["h".into(), "i_j".into()],
                rows: vec![vec![entry.clone(), entry]],
            }],
            configuration: "{\"x\": \"```\"}".into(),
        };
        let text = render(&document);
        assert!(text.contains("\n\\*a\\*\n"), "{text}");
        assert!(text.contains("| h | i\\_j |\n| --- | --- |\n"), "{text}");
        assert!(text.contains("| a\\|b \\<img\\> \\`x\\` | a\\|b"), "{text}");
        assert_eq!(text.matches("```").count(), 2);
    }
}
