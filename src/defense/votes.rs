//! Which points of a decision map vote, and which classes the votes support.
//!
//! The points that vote are on the segments of the consensus (of the restart, if there is only one): the
//! reconstructions and the points behind them. Points towards the input do not vote, because the input has
//! the adversarial label by construction. Single restarts do not vote, because their flaws mislead the
//! classifier more than those of their mean.
//!
//! The mirror image of a point votes too, with equal weight
//! ([`MapOptions::mirror`](super::MapOptions::mirror)). Mirroring does not change what a photograph shows,
//! but the adversarial noise left in a reconstruction was made for the unmirrored picture. So does the mirror image
//! with random noise ([`MapOptions::vote_noise`](super::MapOptions::vote_noise)), which covers what adversarial
//! noise is left: it is the better vote under strong attacks, and the worse one of small perturbations.
//!
//! The support is the geometric mean of the votes: a class that one vote almost rules out has little
//! support. It gave fewer false alarms than the arithmetic mean (docs/tuning.md).

use super::{DecisionMap, Reading};

/// Whether the point at position `t` of a segment votes: the reconstruction (0) and what is behind it
/// (below 0) do.
pub(super) fn votes(t: f32) -> bool {
    t <= 0.0
}

/// The classifier's logits for a point that votes, for its mirror image, or for that with noise.
#[derive(Clone, Copy, Debug)]
pub struct Vote<'a> {
    /// Index of the path in the map.
    pub path: usize,
    /// Index of the checkpoint whose reconstruction the segment starts at.
    pub probe: usize,
    /// Position on the segment: 0 at the reconstruction, negative behind it.
    pub t: f32,
    /// Whether the point is mirrored.
    pub mirrored: bool,
    /// Whether it has noise.
    pub noisy: bool,
    /// What the classifier says of the point, or of its mirror image.
    pub reading: &'a Reading,
}

impl DecisionMap {
    /// Whether a path's points vote: those of the last path do, which is the consensus if there is one.
    pub(super) fn votes_on(&self, path: usize) -> bool {
        path + 1 == self.segments.len()
    }

    /// All votes, ordered by segment and by position: each point, its mirror image, and that with noise.
    pub fn votes(&self) -> impl Iterator<Item = Vote<'_>> {
        let last = self.segments.iter().enumerate().next_back().into_iter();
        let lines = last.flat_map(|(path, lines)| lines.iter().map(move |line| (path, line)));
        lines.flat_map(|(path, line)| {
            let points = line.points.iter().filter(|point| votes(point.t));
            points.flat_map(move |point| {
                let vote = move |mirrored, noisy, reading| Vote {
                    path,
                    probe: line.probe,
                    t: point.t,
                    mirrored,
                    noisy,
                    reading,
                };
                let (mirrored, noisy) = (point.mirrored.as_ref(), point.noisy.as_ref());
                [
                    Some(vote(false, false, &point.reading)),
                    mirrored.map(|reading| vote(true, false, reading)),
                    noisy.map(|reading| vote(mirrored.is_some(), true, reading)),
                ]
                .into_iter()
                .flatten()
            })
        })
    }

    /// The natural logarithm of each class's support: the mean of its log-probabilities over the votes.
    pub fn support(&self) -> Vec<f64> {
        support(self.input.classes(), self.votes().map(|vote| vote.reading))
    }
}

/// The natural logarithm of each class's support: the mean of its log-probabilities over the votes.
pub(crate) fn support<'r>(
    classes: usize,
    votes: impl IntoIterator<Item = &'r Reading>,
) -> Vec<f64> {
    let mut support = vec![0.0; classes];
    let mut count = 0;
    for reading in votes {
        for (class, sum) in support.iter_mut().enumerate() {
            *sum += reading.floored_log_probability(class);
        }
        count += 1;
    }
    support.iter().map(|sum| sum / f64::from(count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defense::{Segment, SegmentPoint};

    /// A reading of three classes of these probabilities.
    fn reading(probabilities: [f64; 3]) -> Reading {
        Reading::new(&probabilities.map(|p| p.ln() as f32))
    }

    const INPUT: [f64; 3] = [0.8, 0.1, 0.1];
    const OTHER: [f64; 3] = [0.1, 0.2, 0.7];

    /// A place on a line, and the probabilities of what is there and of its mirror image.
    type Point = (f32, [f64; 3], Option<[f64; 3]>);

    /// The map whose paths have one line each of these points.
    fn map(paths: &[&[Point]]) -> DecisionMap {
        let line = |points: &&[Point]| {
            let point = |&(t, seen, mirrored): &Point| SegmentPoint {
                t,
                reading: reading(seen),
                mirrored: mirrored.map(reading),
                noisy: None,
            };
            vec![Segment {
                probe: 7,
                points: points.iter().map(point).collect(),
            }]
        };
        DecisionMap {
            input: reading(INPUT),
            views: vec![],
            trajectories: paths.iter().map(|_| vec![]).collect(),
            segments: paths.iter().map(line).collect(),
        }
    }

    #[test]
    fn only_the_last_path_s_reconstructions_and_what_is_behind_them_vote() {
        let seen = [0.2, 0.6, 0.2];
        let map = map(&[
            &[(-0.25, OTHER, None), (0.0, OTHER, None)],
            &[(-0.25, seen, None), (0.0, seen, None), (0.25, OTHER, None)],
        ]);
        let support = map.support();
        assert!(support[1] > support[2]);
        for (support, seen) in support.iter().zip(seen) {
            assert!((support - seen.ln()).abs() < 1e-6);
        }
        let votes: Vec<_> = map.votes().map(|v| (v.path, v.probe, v.t)).collect();
        assert_eq!(votes, [(1, 7, -0.25), (1, 7, 0.0)]);
    }

    #[test]
    fn the_support_is_the_geometric_mean_over_points_and_their_mirror_images() {
        let map = map(&[&[
            (-0.25, [0.2, 0.6, 0.2], Some([0.1, 0.1, 0.8])),
            (0.0, [0.3, 0.5, 0.2], Some([0.4, 0.2, 0.4])),
            (0.25, INPUT, None),
        ]]);
        let support = map.support();
        let products = [
            0.2 * 0.1 * 0.3 * 0.4,
            0.6 * 0.1 * 0.5 * 0.2,
            0.2 * 0.8 * 0.2 * 0.4,
        ];
        for (support, product) in support.iter().zip(products) {
            let want = f64::ln(product) / 4.0;
            assert!((support - want).abs() < 1e-6, "{support} for {want}");
        }
        // Without the mirror the other label would be ahead.
        assert!(support[2] > support[1]);
        let votes: Vec<_> = map.votes().map(|v| (v.t, v.mirrored)).collect();
        assert_eq!(
            votes,
            [(-0.25, false), (-0.25, true), (0.0, false), (0.0, true)]
        );
    }
}
