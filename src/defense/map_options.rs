//! How decision maps are drawn and read.

use super::probe::MAX_POINTS;
use super::votes::votes;
use crate::backend::{ImageShape, Viewpoint};
use crate::error::{Error, Result};

/// How the decision map is drawn and read.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MapOptions {
    /// Part of a trajectory, from its start, that does not vote: the prediction has not settled.
    pub warm_up: f64,
    /// Reconstructions of a path whose line to the input is probed, evenly spaced over the settled
    /// part, the last included. The path that votes does so on all of them. The rest is probed of
    /// `adversarial` images alone, of the earlier ones only where the last has no point of the recovered
    /// label.
    pub segments: usize,
    /// Points of a line between the reconstruction and the input.
    pub segment_points: usize,
    /// How far behind the reconstruction, away from the input, a line is probed too, as a part of
    /// the distance between the two. A reconstruction keeps part of the adversarial noise; a step in
    /// the direction that leads away from the input takes that part back.
    pub reach: f32,
    /// Points behind the reconstruction.
    pub reach_points: usize,
    /// Whether points that vote are read in the mirror too, left and right exchanged, and vote with both; and
    /// whether the input's views are mirrored. Not for classifiers of what is another thing there: text,
    /// digits, traffic signs.
    pub mirror: bool,
    /// How far the input's views are moved, as a part of its height and width, in `[0, 0.25]`: the nearest odd
    /// number of pixels. At 0 they are not.
    pub view_shift: f64,
}

impl Default for MapOptions {
    fn default() -> Self {
        MapOptions {
            warm_up: 0.5,
            segments: 3,
            segment_points: 7,
            reach: 0.25,
            reach_points: 2,
            mirror: true,
            view_shift: 0.015,
        }
    }
}

impl MapOptions {
    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.warm_up) {
            return Err(Error::invalid(format!(
                "the warm-up must be a part in [0, 1) of the trajectory, not {}",
                self.warm_up
            )));
        }
        if self.segment_points == 0 || self.segments == 0 {
            return Err(Error::invalid("at least 1 segment with 1 point is needed"));
        }
        let most = self.segment_points.max(self.reach_points);
        if most > MAX_POINTS {
            let many = format!("a segment has at most {MAX_POINTS} points, not {most}");
            return Err(Error::invalid(many).hint("lower `segment_points` or `reach_points`"));
        }
        if !(0.0..=Self::MAX_REACH).contains(&self.reach) {
            return Err(Error::invalid(format!(
                "the reach behind the reconstruction must be in [0, {}], not {}",
                Self::MAX_REACH,
                self.reach
            )));
        }
        if !(0.0..=Self::MAX_VIEW_SHIFT).contains(&self.view_shift) {
            return Err(Error::option(
                "view_shift",
                format!(
                    "must be a part in [0, {}] of a picture, not {}",
                    Self::MAX_VIEW_SHIFT,
                    self.view_shift
                ),
            ));
        }
        Ok(())
    }

    /// Beyond this a line's points show little but clipped differences.
    const MAX_REACH: f32 = 4.0;

    /// Beyond this a view shows too much that is not in the picture.
    const MAX_VIEW_SHIFT: f64 = 0.25;

    /// Where the input's views are taken from: up, down, to either side and between, and where it stands,
    /// all in the mirror; without the mirror, all but the input itself.
    pub(super) fn viewpoints(&self, shape: ImageShape) -> Vec<Viewpoint> {
        // An odd number: strides are even, and what is moved by a whole stride is seen as it was.
        let pixels = |n: usize| {
            let odd = 2.0 * ((self.view_shift * n as f64 - 1.0) / 2.0).round() + 1.0;
            let most = n.saturating_sub(1) as i32;
            if self.view_shift > 0.0 {
                (odd.max(1.0) as i32).min(most)
            } else {
                0
            }
        };
        let around = |by: i32| if by == 0 { vec![0] } else { vec![-by, 0, by] };
        let (down, right) = (around(pixels(shape.height)), around(pixels(shape.width)));
        let moved = down.iter().flat_map(|&down| {
            right.iter().map(move |&right| Viewpoint {
                mirrored: self.mirror,
                down,
                right,
            })
        });
        moved.filter(|view| *view != Viewpoint::default()).collect()
    }

    /// Where a line is probed, rising: `t` is 0 at the reconstruction and 1 at the input.
    pub(super) fn positions(&self) -> Vec<f32> {
        let behind = (1..=self.reach_points).rev();
        let behind = behind.map(|i| -self.reach * i as f32 / self.reach_points as f32);
        let between =
            (1..=self.segment_points).map(|i| i as f32 / (self.segment_points + 1) as f32);
        behind.chain([0.0]).chain(between).collect()
    }

    /// Where a line goes on behind its positions, each with the next one towards the input.
    pub(super) fn positions_behind(&self) -> Vec<(f32, f32)> {
        let furthest = self.positions()[0].min(0.0);
        let further = [0.5, 1.0, 2.0].map(|reach: f32| furthest - reach);
        let next = std::iter::once(furthest).chain(further);
        further.into_iter().zip(next).collect()
    }

    /// The positions that vote.
    pub(super) fn voting_positions(&self) -> Vec<f32> {
        self.positions().into_iter().filter(|&t| votes(t)).collect()
    }

    /// First probe that votes, of a trajectory that has `total` probes at its end.
    pub(super) fn first_voting_probe(&self, total: usize) -> usize {
        ((total as f64 * self.warm_up) as usize).min(total - 1)
    }

    /// Probes whose segments are drawn, in order, of a trajectory that ended after `probes` of `total`
    /// probes.
    pub(super) fn segment_probes(&self, probes: usize, total: usize) -> Vec<usize> {
        let settled = probes - self.first_voting_probe(total).min(probes - 1);
        let count = self.segments.min(settled);
        (1..=count)
            .map(|i| probes - settled + (settled * i).div_ceil(count) - 1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_probed_from_behind_the_reconstruction_to_before_the_input() {
        let options = MapOptions {
            reach: 0.5,
            reach_points: 2,
            segment_points: 3,
            ..MapOptions::default()
        };
        assert_eq!(options.positions(), [-0.5, -0.25, 0.0, 0.25, 0.5, 0.75]);
        assert_eq!(options.voting_positions(), [-0.5, -0.25, 0.0]);
        let further = [(-1.0, -0.5), (-1.5, -1.0), (-2.5, -1.5)];
        assert_eq!(options.positions_behind(), further);
        let none = MapOptions {
            reach_points: 0,
            ..options
        };
        assert_eq!(none.positions()[0], 0.0);
    }

    #[test]
    fn views_are_moved_all_round_and_mirrored_where_that_is_asked_for() {
        let options = MapOptions::default();
        let shape = |height, width| ImageShape {
            channels: 3,
            height,
            width,
        };
        let views = options.viewpoints(shape(224, 32));
        assert_eq!(views.len(), 9);
        assert!(views.iter().all(|view| view.mirrored));
        let ends = |of: &dyn Fn(&Viewpoint) -> i32| {
            let moved = views.iter().map(of);
            (moved.clone().min().unwrap(), moved.max().unwrap())
        };
        // The odd number nearest to 3.36.
        assert_eq!(ends(&|view| view.down), (-3, 3));
        // At least a pixel.
        assert_eq!(ends(&|view| view.right), (-1, 1));
        assert_eq!(options.viewpoints(shape(1, 1)), [Viewpoint::MIRROR]);

        let plain = MapOptions {
            mirror: false,
            ..MapOptions::default()
        };
        let views = plain.viewpoints(shape(224, 224));
        assert_eq!(views.len(), 8);
        assert!(!views.contains(&Viewpoint::default()));
        assert!(plain.viewpoints(shape(1, 1)).is_empty());
        let still = MapOptions {
            view_shift: 0.0,
            ..MapOptions::default()
        };
        assert_eq!(still.viewpoints(shape(224, 224)), [Viewpoint::MIRROR]);
        for view_shift in [-0.1, 0.3, f64::NAN] {
            let options = MapOptions {
                view_shift,
                ..MapOptions::default()
            };
            assert!(options.validate().is_err());
        }
    }

    #[test]
    fn segments_are_spread_over_the_settled_part_and_end_with_it() {
        let options = MapOptions {
            warm_up: 0.3,
            segments: 3,
            ..MapOptions::default()
        };
        assert_eq!(options.segment_probes(10, 10), [5, 7, 9]);
        assert_eq!(options.segment_probes(1, 1), [0]);
        // Ended early: the warm-up stays the same.
        assert_eq!(options.segment_probes(6, 10), [3, 4, 5]);
        assert_eq!(options.segment_probes(4, 10), [3]);
        let one = MapOptions {
            segments: 1,
            ..options
        };
        assert_eq!(one.segment_probes(10, 10), [9]);
    }
}
