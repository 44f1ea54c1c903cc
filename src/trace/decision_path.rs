//! The panels of the path through the decision space: the recovered label against the input label.

use super::style::{Sign, TracedPath, at_place, color, strength};
use super::subject::Trace;
use crate::defense::{Reading, Segment};
use crate::plot::{Anchor, INK, LINE, Panel, SMALL, SOFT, Scale, Stroke, Svg, extent};
use crate::run::report::role::Role;

const NO_OTHER: &str = "the classifier has no other label";

/// Share of the first panel's width for the trajectories.
const ITERATIONS: f64 = 0.62;

/// The recovered label's logit less the input label's: along the trajectories, then along the segments.
pub(super) fn margins(svg: &mut Svg, panel: Panel, trace: &Trace<'_>, paths: &[TracedPath<'_>]) {
    panel.title(
        svg,
        "Margin: recovered label's logit less the input label's",
    );
    let Some(labels) = trace.principal_labels() else {
        return panel.nothing(svg, NO_OTHER);
    };
    let lead = |reading: &Reading| labels.lead(reading);
    let input = &trace.outcome.input;
    let along = |segment: &Segment| -> Vec<(f64, f64)> {
        let points = segment.points.iter();
        let points = points.map(|point| (f64::from(point.t), lead(&point.reading)));
        let points = points.chain([(1.0, lead(input))]);
        points.filter(|(_, lead)| lead.is_finite()).collect()
    };
    let leads = paths.iter().flat_map(|path| {
        let trajectory = path.trajectory.iter().map(|point| lead(&point.reading));
        let segment = along(path.segment).into_iter().map(|(_, lead)| lead);
        trajectory.chain(segment).collect::<Vec<_>>()
    });
    let y = Scale {
        domain: extent(leads.chain([0.0])),
        range: (panel.bottom, panel.top),
    };
    let last = paths.iter().filter_map(|path| path.trajectory.last());
    let last = last.map(|point| point.iteration).max().unwrap_or(1);
    let width = panel.right - panel.left;
    let iterations = Scale {
        domain: (0.0, f64::from(last)),
        range: (panel.left, panel.left + ITERATIONS * width),
    };
    let first = paths.iter().find_map(|path| path.segment.points.first());
    let behind = first.map_or(0.0, |point| f64::from(point.t).min(0.0));
    let positions = Scale {
        domain: (behind, 1.0),
        range: (panel.left + (ITERATIONS + 0.06) * width, panel.right),
    };
    let zero = y.at(0.0);
    let area = |top: f64, bottom: f64| {
        [
            (panel.left, top),
            (panel.right, top),
            (panel.right, bottom),
            (panel.left, bottom),
        ]
    };
    svg.area(&area(panel.top, zero), labels.recovered_color, 0.07);
    svg.area(&area(zero, panel.bottom), labels.input_color, 0.07);
    panel.y_axis(svg, &y, panel.right, "logits");
    svg.line(
        &[(panel.left, zero), (panel.right, zero)],
        Stroke::solid(INK, 1.0),
    );
    svg.text(
        (panel.left + 6.0, zero - 5.0),
        SMALL,
        Anchor::Start,
        INK,
        "boundary",
    );
    for path in paths {
        let points = path.trajectory.iter();
        let points = points.map(|p| (f64::from(p.iteration), lead(&p.reading)));
        let points = points.filter(|(_, lead)| lead.is_finite());
        let points: Vec<_> = points
            .map(|(i, lead)| (iterations.at(i), y.at(lead)))
            .collect();
        svg.line(&points, path.stroke());
        let points = along(path.segment).into_iter();
        let points: Vec<_> = points
            .map(|(t, lead)| (positions.at(t), y.at(lead)))
            .collect();
        svg.line(&points, path.stroke());
    }
    for path in paths {
        if let Some(boundary) = path.outcome.boundary.map(f64::from) {
            let lead = at_place(path.segment, input, boundary, lead);
            if lead.is_finite() {
                Sign::Boundary.draw(svg, (positions.at(boundary), y.at(lead)));
            }
        }
    }
    panel.x_axis(svg, &iterations, "iteration of the trajectory");
    panel.x_axis(svg, &positions, "position t on the segment");
}

/// The plane of the two logits, with every path through it.
pub(super) fn plane(svg: &mut Svg, panel: Panel, trace: &Trace<'_>, paths: &[TracedPath<'_>]) {
    panel.title(svg, "Path through the decision space: two logits");
    let Some(labels) = trace.principal_labels() else {
        return panel.nothing(svg, NO_OTHER);
    };
    let outcome = trace.outcome;
    let logits = |reading: &Reading| {
        let of = |label: usize| f64::from(reading.logits()[label]);
        (of(labels.input), of(labels.recovered))
    };
    let segment = |path: &TracedPath<'_>| -> Vec<(f64, f64)> {
        let points = path.segment.points.iter().filter(|point| point.t >= 0.0);
        let points = points.map(|point| logits(&point.reading));
        points.chain([logits(&outcome.input)]).collect()
    };
    let all = paths.iter().flat_map(|path| {
        let trajectory = path.trajectory.iter().map(|point| logits(&point.reading));
        trajectory.chain(segment(path)).collect::<Vec<_>>()
    });
    let all: Vec<_> = all.chain([logits(&outcome.output)]).collect();
    let x = Scale {
        domain: extent(all.iter().map(|logits| logits.0)),
        range: (panel.left, panel.right),
    };
    let y = Scale {
        domain: extent(all.iter().map(|logits| logits.1)),
        range: (panel.bottom, panel.top),
    };
    let on_panel = |(a, b): (f64, f64)| {
        let finite = a.is_finite() && b.is_finite();
        finite.then(|| (x.at(a), y.at(b)))
    };
    let frame = [
        panel.left,
        panel.top,
        panel.right - panel.left,
        panel.bottom - panel.top,
    ];
    svg.rect(frame, labels.input_color, 0.07);
    panel.y_axis(svg, &y, panel.right, "recovered label's logit");
    svg.frame(frame, Stroke::solid(LINE, 1.0));
    boundary(svg, &x, &y, labels.recovered_color);
    for path in paths {
        let trajectory = path.trajectory.iter().map(|point| logits(&point.reading));
        let line: Vec<_> = trajectory.filter_map(on_panel).collect();
        let thin = Stroke {
            width: 0.6 * path.stroke().width,
            ..path.stroke()
        };
        svg.line(&line, thin);
        let line: Vec<_> = segment(path).into_iter().filter_map(on_panel).collect();
        let dashed = Stroke {
            dashed: true,
            ..thin
        };
        svg.line(&line, dashed);
        for point in &path.trajectory {
            if let Some((px, py)) = on_panel(logits(&point.reading)) {
                let fill = color(trace.labels().role(point.reading.label()));
                let size = if path.principal { 5.0 } else { 3.0 };
                let dot = [px - size / 2.0, py - size / 2.0, size, size];
                svg.rect(dot, fill, strength(&point.reading));
            }
        }
    }
    for path in paths {
        if let Some(t) = path.outcome.boundary.map(f64::from) {
            let of = |value: fn((f64, f64)) -> f64| {
                at_place(path.segment, &outcome.input, t, |reading| {
                    value(logits(reading))
                })
            };
            if let Some(at) = on_panel((of(|logits| logits.0), of(|logits| logits.1))) {
                Sign::Boundary.draw(svg, at);
            }
        }
    }
    let middle = (panel.left + panel.right) / 2.0;
    for (reading, name) in [(&outcome.input, "input"), (&outcome.output, "output")] {
        if let Some((px, py)) = on_panel(logits(reading)) {
            let fill = color(trace.labels().role(reading.label()));
            svg.disc((px, py), 6.0, fill, Stroke::solid(INK, 1.5));
            let (dx, anchor) = match px > middle {
                true => (-10.0, Anchor::End),
                false => (10.0, Anchor::Start),
            };
            svg.text((px + dx, py + 4.0), SMALL + 0.5, anchor, INK, name);
        }
    }
    panel.x_axis(svg, &x, "input label's logit");
}

/// The line where both logits are equal, and a tint above it.
fn boundary(svg: &mut Svg, x: &Scale, y: &Scale, tint: &str) {
    let ((x0, x1), (y0, y1)) = (x.domain, y.domain);
    let (from, to) = (x0.max(y0), x1.min(y1));
    let at = |a: f64, b: f64| (x.at(a), y.at(b));
    if from < to {
        // The part of the panel above the line.
        let corners = [
            at(from, from),
            at(x0, from),
            at(x0, y1),
            at(to, y1),
            at(to, to),
        ];
        svg.area(&corners, tint, 0.09);
        svg.line(&[at(from, from), at(to, to)], Stroke::solid(SOFT, 1.0));
    } else if y0 >= x1 {
        svg.area(
            &[at(x0, y0), at(x0, y1), at(x1, y1), at(x1, y0)],
            tint,
            0.09,
        );
    }
}

/// The recovered label and the input label, which are the plane's two axes.
#[derive(Clone, Copy)]
pub struct PrincipalLabels {
    pub input: usize,
    pub recovered: usize,
    pub input_color: &'static str,
    pub recovered_color: &'static str,
}

impl PrincipalLabels {
    /// The recovered label's logit less the input label's.
    pub fn lead(&self, reading: &Reading) -> f64 {
        let of = |label: usize| f64::from(reading.logits()[label]);
        of(self.recovered) - of(self.input)
    }
}

impl Trace<'_> {
    /// The recovered and the input label; `None` if the classifier has only one class.
    pub fn principal_labels(&self) -> Option<PrincipalLabels> {
        let labels = self.labels();
        let recovered = labels.recovered?;
        let of = |label: usize, role: Role| match labels.role(label) {
            Role::True => color(Role::True),
            _ => color(role),
        };
        Some(PrincipalLabels {
            input: labels.input,
            recovered,
            input_color: of(labels.input, Role::Input),
            recovered_color: of(recovered, Role::Recovered),
        })
    }
}
