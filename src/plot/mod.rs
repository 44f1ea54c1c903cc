//! Drawing with axes as SVG: what the drawing of a trace and the plots of an evaluation share.

mod panel;
mod scale;
mod svg;

pub(crate) use panel::{INK, LINE, Panel, SMALL, SOFT};
pub(crate) use scale::{Scale, extent};
#[cfg(feature = "draw")]
pub(crate) use svg::FONT;
pub(crate) use svg::{Anchor, Stroke, Svg};
