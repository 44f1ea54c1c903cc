//! Writes SVG: the few elements that the drawing needs.

use std::fmt::Write;

use crate::markup::escaped;

/// The font of the PNG; a program that shows the SVG without it uses Verdana, which has the same widths.
pub(crate) const FONT: &str = "DejaVu Sans";

/// An SVG file in the making. Coordinates are in pixels, y downward.
#[derive(Debug, Default)]
pub(crate) struct Svg {
    body: String,
}

/// Which part of a text is at its point.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stroke {
    pub color: &'static str,
    pub width: f64,
    pub opacity: f64,
    pub dashed: bool,
}

impl Stroke {
    /// A solid line.
    pub(crate) fn solid(color: &'static str, width: f64) -> Stroke {
        Stroke {
            color,
            width,
            opacity: 1.0,
            dashed: false,
        }
    }

    fn attributes(self) -> String {
        let mut text = format!(
            r#"stroke="{}" stroke-width="{}""#,
            self.color,
            number(self.width)
        );
        if self.opacity < 1.0 {
            let _ = write!(text, r#" stroke-opacity="{}""#, number(self.opacity));
        }
        if self.dashed {
            text.push_str(r#" stroke-dasharray="4 3""#);
        }
        text
    }
}

impl Svg {
    /// A filled rectangle, left, top, width and height.
    pub(crate) fn rect(&mut self, [x, y, width, height]: [f64; 4], fill: &str, opacity: f64) {
        let _ = write!(
            self.body,
            r#"<rect x="{}" y="{}" width="{}" height="{}" fill="{fill}""#,
            number(x),
            number(y),
            number(width.max(0.0)),
            number(height.max(0.0)),
        );
        if opacity < 1.0 {
            let _ = write!(self.body, r#" fill-opacity="{}""#, number(opacity));
        }
        self.body.push_str("/>\n");
    }

    /// A rectangle's outline.
    pub(crate) fn frame(&mut self, [x, y, width, height]: [f64; 4], stroke: Stroke) {
        let corners = [
            (x, y),
            (x + width, y),
            (x + width, y + height),
            (x, y + height),
            (x, y),
        ];
        self.line(&corners, stroke);
    }

    /// A line through points.
    pub(crate) fn line(&mut self, points: &[(f64, f64)], stroke: Stroke) {
        if points.len() < 2 {
            return;
        }
        let _ = writeln!(
            self.body,
            r#"<polyline points="{}" fill="none" stroke-linejoin="round" {}/>"#,
            list(points),
            stroke.attributes()
        );
    }

    /// A filled polygon with a thin white edge, so that it is visible on any background.
    pub(crate) fn polygon(&mut self, points: &[(f64, f64)], fill: &str) {
        let _ = writeln!(
            self.body,
            r##"<polygon points="{}" fill="{fill}" stroke="#ffffff" stroke-width="0.8"/>"##,
            list(points)
        );
    }

    /// A tinted area without an edge.
    pub(crate) fn area(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        let _ = writeln!(
            self.body,
            r#"<polygon points="{}" fill="{fill}" fill-opacity="{}"/>"#,
            list(points),
            number(opacity)
        );
    }

    /// A disc with an edge.
    pub(crate) fn disc(&mut self, (x, y): (f64, f64), radius: f64, fill: &str, stroke: Stroke) {
        let _ = writeln!(
            self.body,
            r#"<circle cx="{}" cy="{}" r="{}" fill="{fill}" {}/>"#,
            number(x),
            number(y),
            number(radius),
            stroke.attributes()
        );
    }

    /// Text, its base line at `y`.
    pub(crate) fn text(
        &mut self,
        (x, y): (f64, f64),
        size: f64,
        anchor: Anchor,
        fill: &str,
        text: &str,
    ) {
        self.text_with((x, y), size, anchor, fill, text, "");
    }

    /// Text that runs upward, its base line at `x`.
    pub(crate) fn upward(&mut self, (x, y): (f64, f64), size: f64, fill: &str, text: &str) {
        let turn = format!(r#" transform="rotate(-90 {} {})""#, number(x), number(y));
        self.text_with((x, y), size, Anchor::Middle, fill, text, &turn);
    }

    fn text_with(
        &mut self,
        (x, y): (f64, f64),
        size: f64,
        anchor: Anchor,
        fill: &str,
        text: &str,
        more: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            r#"<text x="{}" y="{}" font-size="{}" text-anchor="{anchor}" fill="{fill}"{more}>{}</text>"#,
            number(x),
            number(y),
            number(size),
            xml(text)
        );
    }

    /// The complete file, with a white background.
    pub(crate) fn finish(self, width: f64, height: f64, title: &str) -> String {
        let (width, height) = (number(width), number(height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"'{FONT}', Verdana, sans-serif\">\n\
             <title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             {}</svg>\n",
            xml(title),
            self.body
        )
    }
}

fn list(points: &[(f64, f64)]) -> String {
    let points = points
        .iter()
        .map(|&(x, y)| format!("{},{}", number(x), number(y)));
    points.collect::<Vec<_>>().join(" ")
}

/// To a hundredth of a pixel, without needless zeros.
fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

/// Escapes text for XML; characters that XML does not allow are replaced.
fn xml(text: &str) -> String {
    let none = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    escaped(&text.replace(none, "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "</text><script>\"'&\u{1}\n\u{ffff}";
        let mut svg = Svg::default();
        svg.text((1.0, 2.0), 12.0, Anchor::Start, "#000000", hostile);
        let file = svg.finish(10.0, 10.0, hostile);
        let document = roxmltree::Document::parse(&file).unwrap();
        let shown = "</text><script>\"'&\u{fffd}\u{fffd}\u{fffd}";
        for tag in ["title", "text"] {
            let node = document.descendants().find(|node| node.has_tag_name(tag));
            assert_eq!(node.unwrap().text(), Some(shown), "{tag}");
        }
        assert!(
            document
                .descendants()
                .all(|node| !node.has_tag_name("script"))
        );
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [1.0, -0.001, 2.5, 1.0 / 3.0, 100.0, 1200.0].map(number);
        assert_eq!(numbers, ["1", "0", "2.5", "0.33", "100", "1200"]);
    }
}
