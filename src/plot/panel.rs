//! A panel: its place on the drawing, its title and its axes.

use super::scale::{Scale, label};
use super::svg::{Anchor, Stroke, Svg};

pub(crate) const INK: &str = "#1c2026";
pub(crate) const SOFT: &str = "#626a76";
pub(crate) const LINE: &str = "#dfe3e8";

/// Font size of the axes' numbers and names, in pixels.
pub(crate) const SMALL: f64 = 11.5;

/// The part of the drawing for a panel's data; its title and axes are around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Panel {
    pub(crate) fn new(left: f64, top: f64, width: f64, height: f64) -> Panel {
        Panel {
            left,
            top,
            right: left + width,
            bottom: top + height,
        }
    }

    pub(crate) fn title(&self, svg: &mut Svg, title: &str) {
        svg.text(
            (self.left, self.top - 16.0),
            14.0,
            Anchor::Start,
            INK,
            title,
        );
    }

    /// Writes why there is nothing to draw.
    pub(crate) fn nothing(&self, svg: &mut Svg, why: &str) {
        let middle = (
            (self.left + self.right) / 2.0,
            (self.top + self.bottom) / 2.0,
        );
        svg.text(middle, SMALL, Anchor::Middle, SOFT, why);
    }

    /// A horizontal axis at the panel's lower edge, between two pixels.
    pub(crate) fn x_axis(&self, svg: &mut Svg, axis: &Scale, name: &str) {
        let ticks: Vec<_> = axis
            .ticks(5)
            .into_iter()
            .map(|tick| (tick, label(tick)))
            .collect();
        self.x_axis_of(svg, axis, &ticks, name);
    }

    /// A horizontal axis with these ticks.
    pub(crate) fn x_axis_of(
        &self,
        svg: &mut Svg,
        axis: &Scale,
        ticks: &[(f64, String)],
        name: &str,
    ) {
        let (from, to) = axis.range;
        svg.line(
            &[(from, self.bottom), (to, self.bottom)],
            Stroke::solid(SOFT, 1.0),
        );
        for (tick, label) in ticks {
            let x = axis.at(*tick);
            svg.line(
                &[(x, self.bottom), (x, self.bottom + 4.0)],
                Stroke::solid(SOFT, 1.0),
            );
            svg.text((x, self.bottom + 17.0), SMALL, Anchor::Middle, SOFT, label);
        }
        svg.text(
            ((from + to) / 2.0, self.bottom + 34.0),
            SMALL,
            Anchor::Middle,
            SOFT,
            name,
        );
    }

    /// A vertical axis at the panel's left edge, with lines across to `right`.
    pub(crate) fn y_axis(&self, svg: &mut Svg, axis: &Scale, right: f64, name: &str) {
        for tick in axis.ticks(5) {
            let y = axis.at(tick);
            svg.line(&[(self.left, y), (right, y)], Stroke::solid(LINE, 1.0));
            svg.text(
                (self.left - 7.0, y + 4.0),
                SMALL,
                Anchor::End,
                SOFT,
                &label(tick),
            );
        }
        let (from, to) = axis.range;
        svg.upward((self.left - 46.0, (from + to) / 2.0), SMALL, SOFT, name);
    }
}
