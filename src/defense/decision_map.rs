//! The probes of one image, and where they cross the decision boundary.

use super::reading::Reading;
use super::trajectory::{Trajectory, TrajectoryPoint};

/// A segment that was probed: the line from behind a reconstruction to the input.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Index of the reconstruction's checkpoint, from 0.
    pub probe: usize,
    /// The points by rising position: from the one furthest behind the reconstruction to the one closest to the
    /// input, or to the reconstruction if only the votes were needed.
    pub points: Vec<SegmentPoint>,
}

/// A point of a [`Segment`].
#[derive(Clone, Debug)]
pub struct SegmentPoint {
    /// Position: 0 at the reconstruction, 1 at the input, negative behind the reconstruction.
    pub t: f32,
    /// What the classifier says of the point.
    pub reading: Reading,
    /// What the classifier says of the point's mirror image; only for points that vote, if
    /// [`MapOptions::mirror`](super::MapOptions::mirror) asks for it.
    pub mirrored: Option<Reading>,
    /// What the classifier says of the point with noise, mirrored if `mirrored` is there; only for points that vote, if
    /// [`MapOptions::vote_noise`](super::MapOptions::vote_noise) asks for it.
    pub noisy: Option<Reading>,
}

/// The decision map: all probes of one image.
///
/// The votes are always there. Other points are there if the boundary was searched for, or if
/// [`whole_maps`](super::Options::whole_maps) asks for them.
#[derive(Clone, Debug)]
pub struct DecisionMap {
    /// What the classifier says of the input.
    pub input: Reading,
    /// What the classifier says of each of the input's views, which are mirrored, or moved by a few pixels, or
    /// both. [`MapOptions::mirror`](super::MapOptions::mirror) and
    /// [`MapOptions::view_shift`](super::MapOptions::view_shift) determine how many there are.
    pub views: Vec<Reading>,
    /// The trajectory of each path: those of the restarts, then that of the consensus. Empty if only the votes
    /// were needed.
    pub trajectories: Vec<Trajectory>,
    /// The segments of each path, by rising checkpoint.
    pub segments: Vec<Vec<Segment>>,
}

/// A cross-boundary pair: two neighboring points of one line, the first of the recovered label, the second of
/// another label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Index of the checkpoint whose reconstruction the line starts at.
    pub probe: usize,
    /// The line's end.
    pub towards: Towards,
    /// Positions of the two points: 0 at the line's start, 1 at its end.
    pub span: (f32, f32),
}

/// The end of a [`Pair`]'s line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// The next reconstruction of the trajectory.
    NextProbe,
    /// The input.
    Input,
}

impl Segment {
    /// Index of the point of label `label` closest to the input.
    pub(super) fn last_of(&self, label: usize) -> Option<usize> {
        self.points
            .iter()
            .rposition(|point| point.reading.label() == label)
    }
}

impl DecisionMap {
    /// A map with the readings of the input and its views, and no probes of its paths.
    pub(super) fn new(input: Reading, views: Vec<Reading>, paths: usize) -> Self {
        DecisionMap {
            input,
            views,
            trajectories: vec![vec![]; paths],
            segments: vec![vec![]; paths],
        }
    }

    /// Those of `positions` that were not probed on the segment of a path's checkpoint `probe`.
    pub(super) fn missing(&self, path: usize, probe: usize, positions: &[f32]) -> Vec<f32> {
        let drawn = self.segments[path].iter().find(|line| line.probe == probe);
        let drawn = drawn.map_or(&[][..], |line| &line.points);
        let missing = |t: &f32| drawn.iter().all(|point| point.t != *t);
        positions.iter().copied().filter(missing).collect()
    }

    /// The reading of the segment's point at `t`, if that point is a reconstruction of the path's trajectory.
    pub(super) fn on_trajectory(&self, path: usize, probe: usize, t: f32) -> Option<&Reading> {
        let point = self.trajectories[path].get(probe);
        point.filter(|_| t == 0.0).map(|point| &point.reading)
    }

    /// Adds points to the segment of a path's checkpoint `probe`.
    pub(super) fn add(&mut self, path: usize, probe: usize, points: Vec<SegmentPoint>) {
        let segments = &mut self.segments[path];
        let at = segments.partition_point(|segment| segment.probe < probe);
        if segments
            .get(at)
            .is_none_or(|segment| segment.probe != probe)
        {
            segments.insert(
                at,
                Segment {
                    probe,
                    points: vec![],
                },
            );
        }
        let all = &mut segments[at].points;
        all.extend(points);
        all.sort_by(|a, b| a.t.total_cmp(&b.t));
    }

    /// The input label.
    pub fn input_label(&self) -> usize {
        self.input.label()
    }

    /// Iteration of the last crossing of a path's trajectory from `label` to the input label.
    pub fn crossing(&self, path: usize, label: usize) -> Option<u32> {
        let trajectory = &self.trajectories[path];
        let crossing = self.trajectory_crossing(path, label)?;
        Some(trajectory[crossing].iteration)
    }

    /// Index of the checkpoint before the trajectory's last crossing from `label` to the input label.
    fn trajectory_crossing(&self, path: usize, label: usize) -> Option<usize> {
        let trajectory = &self.trajectories[path];
        let crosses = |pair: &[TrajectoryPoint]| {
            pair[0].reading.label() == label && pair[1].reading.label() == self.input_label()
        };
        trajectory.windows(2).rposition(crosses)
    }

    /// The cross-boundary pair of a path; `None` if the path has no point of label `label`. It is the first
    /// of these that exists:
    ///
    /// 1. on the latest segment with a point of the label, the one closest to the input and its neighbor
    ///    towards the input;
    /// 2. the two reconstructions at the trajectory's last crossing from the label to the input label;
    /// 3. the trajectory's last reconstruction of the label, and the input.
    ///
    /// Segments come first because their on-boundary images are the closest to the input.
    pub fn pair(&self, path: usize, label: usize) -> Option<Pair> {
        for segment in self.segments[path].iter().rev() {
            let points = &segment.points;
            let Some(last) = segment.last_of(label) else {
                continue;
            };
            return Some(Pair {
                probe: segment.probe,
                towards: Towards::Input,
                span: (
                    points[last].t,
                    points.get(last + 1).map_or(1.0, |next| next.t),
                ),
            });
        }
        if let Some(probe) = self.trajectory_crossing(path, label) {
            return Some(Pair {
                probe,
                towards: Towards::NextProbe,
                span: (0.0, 1.0),
            });
        }
        let mut points = self.trajectories[path].iter();
        let probe = points.rposition(|point| point.reading.label() == label)?;
        Some(Pair {
            probe,
            towards: Towards::Input,
            span: (0.0, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading of `label` with probability about `p`, the rest even over four other classes.
    fn reading(label: usize, p: f64) -> Reading {
        let mut logits = [((1.0 - p) / 4.0).ln() as f32; 5];
        logits[label] = p.ln() as f32;
        Reading::new(&logits)
    }

    /// A map drawn as in the documentation: one string a trajectory, one a segment, from the
    /// reconstruction to the input; `A` is the input label (class 0), `T` class 1, `o` class 2.
    fn map(restarts: &[(&str, &str)]) -> DecisionMap {
        let read = |c: char| match c {
            'A' => reading(0, 0.9),
            'T' => reading(1, 0.8),
            _ => reading(2, 0.5),
        };
        DecisionMap {
            input: read('A'),
            views: vec![],
            trajectories: restarts
                .iter()
                .map(|(trajectory, _)| {
                    let point = |(i, c)| TrajectoryPoint {
                        iteration: 10 * (i as u32 + 1),
                        reading: read(c),
                        psnr: 20.0,
                        least_tile_psnr: 15.0,
                    };
                    trajectory.chars().enumerate().map(point).collect()
                })
                .collect(),
            segments: restarts
                .iter()
                .map(|(trajectory, segment)| {
                    // The second point is the reconstruction.
                    let point = |(i, c)| SegmentPoint {
                        t: 0.25 * i as f32 - 0.25,
                        reading: read(c),
                        mirrored: None,
                        noisy: None,
                    };
                    let points = segment.chars().enumerate().map(point).collect();
                    vec![Segment {
                        probe: trajectory.len() - 1,
                        points,
                    }]
                })
                .collect(),
        }
    }

    #[test]
    fn the_pair_is_the_label_s_last_point_before_the_input() {
        let map = map(&[
            ("oTTT", "TTTAA"),
            ("oTAA", "TTATA"),
            ("oTAT", "ATAAA"),
            ("oTTT", "TTTTT"),
            ("oTAA", "AAAAA"),
            ("oToA", "AAAAA"),
        ]);
        let span = |path| map.pair(path, 1).map(|p| (p.towards, p.span));
        assert_eq!(span(0), Some((Towards::Input, (0.25, 0.5))));
        // Not monotone: the later boundary.
        assert_eq!(span(1), Some((Towards::Input, (0.5, 0.75))));
        // Only the reconstruction itself has the label.
        assert_eq!(span(2), Some((Towards::Input, (0.0, 0.25))));
        // All probed points have it: the boundary lies before the input.
        assert_eq!(span(3), Some((Towards::Input, (0.75, 1.0))));
        // The line never has it, the trajectory had.
        assert_eq!(span(4), Some((Towards::NextProbe, (0.0, 1.0))));
        assert_eq!(map.pair(4, 1).map(|p| p.probe), Some(1));
        // It had it, and went over to a third label.
        assert_eq!(span(5), Some((Towards::Input, (0.0, 1.0))));
        assert_eq!(map.pair(5, 1).map(|p| p.probe), Some(1));
        assert_eq!(map.pair(4, 4), None);
    }

    #[test]
    fn crossings_are_reported_only_where_the_trajectory_has_them() {
        let map = map(&[("oTTT", "TTAA"), ("TATA", "AAAA")]);
        assert_eq!(map.crossing(0, 1), None);
        assert_eq!(map.crossing(1, 1), Some(30));
    }
}
