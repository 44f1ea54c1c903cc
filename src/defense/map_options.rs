//! Which points of a decision map are probed.

use super::probe::MAX_POINTS;
use super::votes::votes;
use crate::backend::{ImageShape, Viewpoint};
use crate::error::{Error, Result};

/// Which points of a decision map are probed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MapOptions {
    /// Share of a trajectory, from its start, that does not vote because the classifier's label has not
    /// settled; in `[0, 1)`.
    pub warm_up: f64,
    /// Number of segments of a path, at least 1: of reconstructions evenly spaced after the warm-up, the
    /// last included. All segments of the path that votes are probed at the points that vote. The other
    /// points are probed for `adversarial` images only: on the last segment of each path, and on the earlier
    /// ones if the last has no point of the recovered label.
    pub segments: usize,
    /// Points of a segment between the reconstruction and the input, at least 1.
    pub segment_points: usize,
    /// How far a segment extends behind the reconstruction, as a multiple of the distance between the
    /// reconstruction and the input; in `[0, 4]`. A reconstruction keeps part of the adversarial noise, and a
    /// step away from the input removes some of it.
    pub reach: f32,
    /// Points of a segment behind the reconstruction.
    pub reach_points: usize,
    /// Whether the mirror images (left and right exchanged) of points that vote are probed and vote too, and
    /// whether the input's views are mirrored. Turn it off for classifiers of what mirroring changes: text,
    /// digits, traffic signs.
    pub mirror: bool,
    /// Standard deviation of the noise on each point's third vote, pixels in `[0, 1]`; 0 for no such vote. What is
    /// left of adversarial noise in a reconstruction is small, so random noise covers it.
    pub vote_noise: f32,
    /// How far the input's views are moved, as a share of the input's height and width in `[0, 0.25]`, rounded
    /// to the nearest odd number of pixels; 0 for views that are not moved.
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
            vote_noise: 8.0 / 255.0,
            view_shift: 0.015,
        }
    }
}

impl MapOptions {
    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.warm_up) {
            let wrong = format!(
                "must be a share of the trajectory in [0, 1), not {}",
                self.warm_up
            );
            return Err(Error::option("warm_up", wrong));
        }
        for (option, number) in [
            ("segments", self.segments),
            ("segment_points", self.segment_points),
        ] {
            if number == 0 {
                return Err(Error::option(option, "must be at least 1, not 0"));
            }
        }
        let most = self.segment_points.max(self.reach_points);
        if most > MAX_POINTS {
            let many = format!("a segment has at most {MAX_POINTS} points, not {most}");
            return Err(Error::invalid(many).hint("lower `segment_points` or `reach_points`"));
        }
        if !(0.0..=Self::MAX_REACH).contains(&self.reach) {
            let wrong = format!("must be in [0, {}], not {}", Self::MAX_REACH, self.reach);
            return Err(Error::option("reach", wrong));
        }
        if !(0.0..=1.0).contains(&self.vote_noise) {
            let wrong = format!("must be in [0, 1], not {}", self.vote_noise);
            return Err(Error::option("vote_noise", wrong));
        }
        if !(0.0..=Self::MAX_VIEW_SHIFT).contains(&self.view_shift) {
            return Err(Error::option(
                "view_shift",
                format!(
                    "must be a share of the picture's size in [0, {}], not {}",
                    Self::MAX_VIEW_SHIFT,
                    self.view_shift
                ),
            ));
        }
        Ok(())
    }

    /// Further behind the reconstruction most values are clipped, and the points are no pictures anymore.
    const MAX_REACH: f32 = 4.0;

    /// A view that is moved further shows too much reflected border.
    const MAX_VIEW_SHIFT: f64 = 0.25;

    /// The viewpoints of the input's views: the eight directions (diagonals included) and no move at all,
    /// all mirrored; without `mirror` they are not mirrored, and the input itself is left out.
    pub(crate) fn viewpoints(&self, shape: ImageShape) -> Vec<Viewpoint> {
        // Odd, because strides are even: a picture moved by a whole stride gives the classifier the same
        // features.
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

    /// The positions at which a segment is probed, in rising order.
    pub(super) fn positions(&self) -> Vec<f32> {
        let behind = (1..=self.reach_points).rev();
        let behind = behind.map(|i| -self.reach * i as f32 / self.reach_points as f32);
        let between =
            (1..=self.segment_points).map(|i| i as f32 / (self.segment_points + 1) as f32);
        behind.chain([0.0]).chain(between).collect()
    }

    /// Positions further behind the reconstruction, each with the next position towards the input.
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

    /// Index of the first checkpoint that votes, if a trajectory has `total` checkpoints at its end.
    pub(super) fn first_voting_probe(&self, total: usize) -> usize {
        ((total as f64 * self.warm_up) as usize).min(total - 1)
    }

    /// Indices of the checkpoints whose segments are probed, in rising order, for a trajectory that ended
    /// after `probes` of `total` checkpoints.
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
