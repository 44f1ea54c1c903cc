//! The style that all panels share: paths, roles' colors, signs.

use crate::defense::{PathOutcome, Reading, Segment, TrajectoryPoint};
use crate::plot::{INK, SOFT, Scale, Stroke, Svg};
use crate::run::report::role::Role;

/// One path of the decision map, as the panels show it.
pub(super) struct TracedPath<'a> {
    pub name: String,
    /// Whether this is the consensus or the only restart.
    pub principal: bool,
    pub outcome: &'a PathOutcome,
    pub trajectory: Vec<&'a TrajectoryPoint>,
    pub segments: &'a [Segment],
    /// The segment of the on-boundary image, or else the last segment.
    pub segment: &'a Segment,
}

impl TracedPath<'_> {
    /// How its lines are drawn.
    pub(super) fn stroke(&self) -> Stroke {
        match self.principal {
            true => Stroke::solid(INK, 1.8),
            false => Stroke {
                opacity: 0.65,
                ..Stroke::solid(SOFT, 1.0)
            },
        }
    }
}

/// A path's name.
pub(super) fn path_name(path: &PathOutcome) -> String {
    path.seed
        .map_or("consensus".to_owned(), |seed| format!("seed {seed}"))
}

/// A role's color, from the palette of Okabe and Ito 2008, which color-blind readers can tell apart.
pub(super) fn color(role: Role) -> &'static str {
    match role {
        Role::True => "#009e73",
        Role::Input => "#d55e00",
        Role::Recovered => "#0072b2",
        Role::Other => "#aeb4bd",
    }
}

/// Opacity of a reading's color: fainter for a lower confidence.
pub(super) fn strength(reading: &Reading) -> f64 {
    0.35 + 0.65 * reading.confidence()
}

/// What a marked point is.
#[derive(Clone, Copy)]
pub(super) enum Sign {
    /// The trajectory's last crossing from the recovered to the input label.
    Crossing,
    /// The on-boundary image.
    Boundary,
    /// The on-manifold image.
    Pushed,
}

impl Sign {
    pub(super) fn draw(self, svg: &mut Svg, (x, y): (f64, f64)) {
        let corners: &[(f64, f64)] = match self {
            Sign::Crossing => &[(0.0, -5.0), (5.0, 4.5), (-5.0, 4.5)],
            Sign::Boundary => &[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)],
            Sign::Pushed => {
                return svg.disc((x, y), 4.0, "#ffffff", Stroke::solid(INK, 1.8));
            }
        };
        let corners: Vec<_> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        svg.polygon(&corners, INK);
    }
}

/// `value` at a position of a segment, interpolated linearly between the segment's points.
pub(super) fn at_place(
    segment: &Segment,
    input: &Reading,
    t: f64,
    value: impl Fn(&Reading) -> f64,
) -> f64 {
    let points = segment.points.iter();
    let points = points.map(|point| (f64::from(point.t), value(&point.reading)));
    let points: Vec<_> = points.chain([(1.0, value(input))]).collect();
    let after = points.iter().position(|(at, _)| *at >= t);
    match after {
        None => points[points.len() - 1].1,
        Some(0) => points[0].1,
        Some(after) => {
            let [(t0, v0), (t1, v1)] = [points[after - 1], points[after]];
            let scale = Scale {
                domain: (t0, t1),
                range: (v0, v1),
            };
            scale.at(t)
        }
    }
}
