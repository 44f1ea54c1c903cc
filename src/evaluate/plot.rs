//! The plot of accuracy against the size of attacks: a panel for each attack.

use super::case::fraction;
use super::row::{BACKSTITCH, NONE};
use super::sizes::{Curve, CurvePoint};
use super::statistics::Proportion;
use crate::plot::{Anchor, INK, Panel, SMALL, SOFT, Scale, Stroke, Svg};

/// Panels side by side.
const COLUMNS: usize = 2;
/// Width and height of a panel with its title and axes, in pixels.
const CELL: (f64, f64) = (460.0, 260.0);
/// Height of the legend above the panels, in pixels.
const LEGEND: f64 = 40.0;
/// Least distance between two numbers below an axis, in pixels.
const APART: f64 = 26.0;

/// What is shown of each attack, with colors of the palette of Okabe and Ito 2008.
const SHOWN: [(&str, &str, Stroke); 2] = [
    (
        NONE,
        "no defense",
        Stroke {
            color: "#d55e00",
            width: 1.8,
            opacity: 1.0,
            dashed: true,
        },
    ),
    (
        BACKSTITCH,
        "backstitch",
        Stroke {
            color: "#0072b2",
            width: 1.8,
            opacity: 1.0,
            dashed: false,
        },
    ),
];

/// The curves as an SVG file, with the 95% intervals tinted; `None` without curves.
pub(super) fn svg(curves: &[Curve]) -> Option<String> {
    let mut sizes: Vec<f32> = curves
        .iter()
        .flat_map(|curve| &curve.points)
        .map(|point| point.eps)
        .collect();
    sizes.sort_by(f32::total_cmp);
    sizes.dedup();
    let smallest = *sizes.iter().find(|eps| **eps > 0.0)?;
    let largest = *sizes.last()?;
    // The clean pictures stand where the size half as large as the smallest would.
    let place = |eps: f32| f64::from(if eps > 0.0 { eps } else { smallest / 2.0 }).log2();
    let mut svg = Svg::default();
    for (i, (_, name, stroke)) in SHOWN.iter().enumerate() {
        let x = 58.0 + 130.0 * i as f64;
        svg.line(&[(x, 22.0), (x + 26.0, 22.0)], *stroke);
        svg.text((x + 32.0, 26.0), SMALL, Anchor::Start, INK, name);
    }
    for (i, curve) in curves.iter().enumerate() {
        let (left, top) = (
            CELL.0 * (i % COLUMNS) as f64,
            LEGEND + CELL.1 * (i / COLUMNS) as f64,
        );
        let panel = Panel::new(left + 58.0, top + 34.0, CELL.0 - 78.0, CELL.1 - 84.0);
        svg.text(
            (panel.left, panel.top - 14.0),
            SMALL,
            Anchor::Start,
            INK,
            &curve.title,
        );
        let x = Scale {
            domain: (place(0.0), place(largest)),
            range: (panel.left, panel.right),
        };
        let y = Scale {
            domain: (0.0, 100.0),
            range: (panel.bottom, panel.top),
        };
        panel.y_axis(&mut svg, &y, panel.right, "right (%)");
        let mut ticks: Vec<(f64, String)> = Vec::new();
        for &eps in &sizes {
            let at = place(eps);
            if ticks
                .last()
                .is_none_or(|(last, _)| x.at(at) - x.at(*last) >= APART)
            {
                ticks.push((at, fraction(eps).trim_end_matches("/255").to_owned()));
            }
        }
        panel.x_axis_of(&mut svg, &x, &ticks, "L∞ size ε, of 255; 0: clean");
        for (defense, _, stroke) in SHOWN {
            let ends = |of: fn(&Proportion) -> Option<f64>| -> Vec<(f64, f64)> {
                let end = |point: &CurvePoint| {
                    let share = of(point.right.get(defense)?)?;
                    Some((x.at(place(point.eps)), y.at(100.0 * share)))
                };
                curve.points.iter().filter_map(end).collect()
            };
            let mut interval = ends(|right| right.low);
            interval.extend(ends(|right| right.high).into_iter().rev());
            svg.area(&interval, stroke.color, 0.1);
            let points = ends(|right| right.share);
            svg.line(&points, stroke);
            for point in points {
                svg.disc(point, 2.8, stroke.color, Stroke::solid("#ffffff", 0.8));
            }
        }
    }
    let rows = curves.len().div_ceil(COLUMNS) as f64;
    svg.text(
        (CELL.0 * COLUMNS as f64 - 20.0, 26.0),
        SMALL,
        Anchor::End,
        SOFT,
        "tinted: 95% intervals",
    );
    Some(svg.finish(
        CELL.0 * COLUMNS as f64,
        LEGEND + CELL.1 * rows,
        "Accuracy against ε",
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn curve(title: &str, rights: &[(f32, usize, usize)]) -> Curve {
        let point = |&(levels, none, ours): &(f32, usize, usize)| CurvePoint {
            eps: levels / 255.0,
            attacks: Vec::new(),
            right: BTreeMap::from([
                (NONE.to_owned(), Proportion::new(none, 4)),
                (BACKSTITCH.to_owned(), Proportion::new(ours, 4)),
            ]),
        };
        Curve {
            title: title.into(),
            points: rights.iter().map(point).collect(),
        }
    }

    #[test]
    fn every_curve_has_a_panel_with_both_lines() {
        let curves = [
            curve("<FGSM>", &[(0.0, 4, 4), (1.0, 2, 4), (4.0, 0, 1)]),
            curve("PGD", &[(0.0, 4, 4), (2.0, 0, 3)]),
        ];
        let file = svg(&curves).unwrap();
        let document = roxmltree::Document::parse(&file).unwrap();
        let of = |tag| {
            document
                .descendants()
                .filter(move |node| node.has_tag_name(tag))
        };
        let texts: Vec<&str> = of("text").filter_map(|node| node.text()).collect();
        for text in ["<FGSM>", "PGD", "no defense", "backstitch", "0", "1", "4"] {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
        assert_eq!(of("circle").count(), 2 * 3 + 2 * 2);
        let line = |color| {
            let mut lines =
                of("polyline").filter(move |line| line.attribute("stroke") == Some(color));
            // The first is the legend's.
            let points = lines.nth(1).unwrap().attribute("points").unwrap();
            let point = |point: &str| point.split(',').map(|x| x.parse().unwrap()).collect();
            points.split(' ').map(point).collect::<Vec<Vec<f64>>>()
        };
        let (none, ours) = (line("#d55e00"), line("#0072b2"));
        // 1/255 stands one step of three from the clean pictures, and 4/255 at the end: factors of two.
        let width = none[2][0] - none[0][0];
        assert!((none[1][0] - none[0][0] - width / 3.0).abs() < 0.02);
        assert_eq!(none[0], ours[0]);
        // Half right is half way down.
        assert!((none[1][1] - (none[0][1] + none[2][1]) / 2.0).abs() < 0.02);
        assert!(ours[2][1] < none[2][1]);
    }

    #[test]
    fn nothing_is_drawn_of_no_curves() {
        assert_eq!(svg(&[]), None);
    }
}
