//! The panel of the decision map: iteration × position on the segment, colored by class.

use super::style::{Sign, TracedPath, color, strength};
use super::subject::Trace;
use crate::defense::{Reading, Segment};
use crate::plot::{Anchor, INK, LINE, Panel, SMALL, SOFT, Scale, Stroke, Svg};
use crate::run::report::trajectories::thinned;

/// Width of the column of reconstructions, in positions of the segment.
const COLUMN: f64 = 0.035;

pub(super) fn draw(svg: &mut Svg, panel: Panel, trace: &Trace<'_>, paths: &[TracedPath<'_>]) {
    panel.title(
        svg,
        "Decision map: iteration × position on the segment to the input",
    );
    let first = paths.iter().find_map(|path| path.segment.points.first());
    let behind = first.map_or(0.0, |point| f64::from(point.t).min(0.0));
    let x = Scale {
        domain: (behind - 0.06, 1.06),
        range: (panel.left, panel.right),
    };
    let pitch = (panel.bottom - panel.top) / paths.len() as f64;
    let last = paths.iter().filter_map(|path| path.trajectory.last());
    let last = last.map(|point| point.iteration).max().unwrap_or(1);
    for (row, path) in paths.iter().enumerate() {
        let top = panel.top + row as f64 * pitch;
        let y = Scale {
            domain: (0.0, f64::from(last)),
            range: (top + 1.0, top + pitch - 3.0),
        };
        block(svg, trace, path, &x, &y);
        if pitch >= 9.0 {
            let at = (panel.left - 7.0, top + pitch / 2.0 + 4.0);
            svg.text(at, SMALL, Anchor::End, SOFT, &path.name);
        }
    }
    panel.x_axis(
        svg,
        &x,
        "position t: 0 reconstruction, 1 input, below 0 behind the reconstruction",
    );
}

/// One path: iterations downward, its trajectory a column at 0, its segments across.
fn block(svg: &mut Svg, trace: &Trace<'_>, path: &TracedPath<'_>, x: &Scale, y: &Scale) {
    let labels = trace.labels();
    let (top, bottom) = y.range;
    let (left, right) = x.range;
    svg.line(
        &[(left, bottom + 1.5), (right, bottom + 1.5)],
        Stroke::solid(LINE, 1.0),
    );
    let mut above = top;
    for point in &path.trajectory {
        let below = y.at(f64::from(point.iteration));
        let cell = [
            x.at(-COLUMN),
            above,
            x.at(COLUMN) - x.at(-COLUMN),
            below - above,
        ];
        let fill = color(labels.role(point.reading.label()));
        svg.rect(cell, fill, strength(&point.reading));
        above = below;
    }
    let tall = (0.8 * (bottom - top) / path.segments.len() as f64).min(9.0);
    for segment in path.segments {
        let Some(iteration) = trace.iteration(segment.probe) else {
            continue;
        };
        let middle = y
            .at(f64::from(iteration))
            .clamp(top + tall / 2.0, bottom - tall / 2.0);
        for (from, to, reading) in cells(segment, &trace.outcome.input) {
            let cell = [
                x.at(from),
                middle - tall / 2.0,
                x.at(to) - x.at(from) - 0.5,
                tall,
            ];
            svg.rect(cell, color(labels.role(reading.label())), strength(reading));
        }
        if segment.probe == path.segment.probe {
            marks(svg, trace, path, x, middle, tall);
        }
    }
}

/// Draws the cross-boundary pair, the on-boundary image, and the push to the on-manifold image, which is further
/// along the same line.
fn marks(
    svg: &mut Svg,
    trace: &Trace<'_>,
    path: &TracedPath<'_>,
    x: &Scale,
    middle: f64,
    tall: f64,
) {
    let Some(boundary) = path.outcome.boundary.map(f64::from) else {
        return;
    };
    let all: Vec<_> = cells(path.segment, &trace.outcome.input).collect();
    let recovered = |reading: &Reading| Some(reading.label()) == trace.outcome.recovered_label;
    if let Some(first) = all.iter().rposition(|(_, _, reading)| recovered(reading)) {
        let end = all.get(first + 1).unwrap_or(&all[first]).1;
        let (from, to) = (x.at(all[first].0), x.at(end));
        let frame = [from, middle - tall / 2.0 - 1.5, to - from, tall + 3.0];
        svg.frame(frame, Stroke::solid(INK, 1.2));
    }
    if let Some(push) = path.outcome.push.map(f64::from).filter(|push| *push > 0.0) {
        // x_m = x_b + β·(x_b − x), in positions of the segment.
        let pushed = boundary - push * (1.0 - boundary);
        let pushed = x.at(pushed).clamp(x.range.0, x.range.1);
        svg.line(
            &[(x.at(boundary), middle), (pushed, middle)],
            Stroke::solid(INK, 1.5),
        );
        Sign::Pushed.draw(svg, (pushed, middle));
    }
    Sign::Boundary.draw(svg, (x.at(boundary), middle));
}

/// The cells of a segment: where each starts and ends, and the reading in it; the last cell is the input.
fn cells<'a>(
    segment: &'a Segment,
    input: &'a Reading,
) -> impl Iterator<Item = (f64, f64, &'a Reading)> {
    let points = thinned(segment.points.iter()).into_iter();
    let points = points.map(|point| (f64::from(point.t), &point.reading));
    let places: Vec<_> = points.chain([(1.0, input)]).collect();
    let half = |i: usize| (places[i + 1].0 - places[i].0) / 2.0;
    let cells: Vec<_> = (0..places.len())
        .map(|i| {
            let (t, reading) = places[i];
            // A cell reaches halfway to its neighbors; at the ends it is symmetric.
            let before = if i > 0 { half(i - 1) } else { half(0) };
            let after = if i + 1 < places.len() {
                half(i)
            } else {
                before
            };
            (t - before, t + after, reading)
        })
        .collect();
    cells.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::report::test_outcome::outcome;

    #[test]
    fn cells_meet_and_end_with_the_input() {
        let outcome = outcome(&[("oT", "TTAA")]);
        let segment = &outcome.map.segments[0][0];
        let cells: Vec<_> = cells(segment, &outcome.input).collect();
        assert_eq!(cells.len(), 5);
        assert_eq!((cells[0].0, cells[0].1), (-0.375, -0.125));
        assert!(cells.windows(2).all(|pair| pair[0].1 == pair[1].0));
        assert_eq!((cells[4].0, cells[4].2.label()), (0.75, 0));
    }
}
