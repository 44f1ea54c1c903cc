//! Stage C: the decision map, what it supports, and where it crosses the boundary.

use crate::backend::{At, Backend, Blend};
use crate::error::{Error, Result};

use super::{Prober, Reading, ReconstructOptions, ReconstructionId, Reconstructions, Trajectory};

/// How the decision map is drawn and read.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MapOptions {
    /// Part of a trajectory, from its start, that does not vote: the prediction has not settled.
    pub warm_up: f64,
    /// Points of a segment between the reconstruction and the input.
    pub segment_points: usize,
    /// Reconstructions of a restart whose segment to the input is probed, evenly spaced over the
    /// settled part, the last included.
    pub segments: usize,
}

impl Default for MapOptions {
    fn default() -> Self {
        MapOptions {
            warm_up: 0.3,
            segment_points: 15,
            segments: 2,
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
        Ok(())
    }

    /// First probe that votes.
    fn settled(&self, probes: usize) -> usize {
        ((probes as f64 * self.warm_up) as usize).min(probes - 1)
    }

    /// Probes whose segments are drawn, in order.
    fn segment_probes(&self, probes: usize) -> Vec<usize> {
        let settled = probes - self.settled(probes);
        let count = self.segments.min(settled);
        (1..=count)
            .map(|i| probes - settled + (settled * i).div_ceil(count) - 1)
            .collect()
    }
}

/// The segment from a reconstruction to the input, probed.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The reconstruction's place on its trajectory.
    pub probe: usize,
    /// Readings at `t = i / (points + 1)`, `i` from 1, `t` from 0 at the reconstruction to 1 at the
    /// input.
    pub readings: Vec<Reading>,
}

impl Segment {
    /// `t` of the `i`-th reading, or of the end points where `i` is −1 or the number of readings.
    fn t(&self, i: isize) -> f32 {
        (i + 1) as f32 / (self.readings.len() + 1) as f32
    }
}

/// Everything probed of one image.
#[derive(Clone, Debug)]
pub struct DecisionMap {
    pub input: Reading,
    /// One a restart.
    pub trajectories: Vec<Trajectory>,
    /// One list a restart.
    pub segments: Vec<Vec<Segment>>,
    /// First probe of a trajectory that votes.
    pub settled: usize,
}

/// A cross-boundary pair: two points of one line, the first of the recovered label, the second of
/// another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Where the line starts: a reconstruction, as its place on the trajectory.
    pub probe: usize,
    /// Where the line ends.
    pub towards: Towards,
    /// Part of the line between the two points.
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

/// Draws the maps of a wave: probes the segments and joins them with the trajectories.
pub fn draw<B: Backend>(
    prober: &mut Prober<'_, B>,
    backend: &B,
    options: &MapOptions,
    reconstruct: &ReconstructOptions,
    inputs: &[(At<'_, B::Images>, Reading)],
    reconstructions: &Reconstructions<B::Images>,
    trajectories: Vec<Vec<Trajectory>>,
) -> Result<Vec<DecisionMap>> {
    let probes = options.segment_probes(reconstruct.probes());
    let points = options.segment_points;
    // One image at a time, so that the reconstructions at the segments' ends stay few.
    let mut ends = backend.allocate(prober.shape(), reconstruct.restarts * probes.len())?;
    let mut maps = Vec::with_capacity(inputs.len());
    for (image, ((input, reading), trajectories)) in inputs.iter().zip(trajectories).enumerate() {
        let mut jobs = Vec::new();
        for restart in 0..reconstruct.restarts {
            for (i, &probe) in probes.iter().enumerate() {
                let id = ReconstructionId {
                    image,
                    restart,
                    probe,
                };
                reconstructions.assemble(backend, id, &mut ends, restart * probes.len() + i)?;
            }
        }
        for end in 0..reconstruct.restarts * probes.len() {
            jobs.extend((1..=points).map(|i| Blend {
                from: At::new(&ends, end),
                to: *input,
                t: i as f32 / (points + 1) as f32,
            }));
        }
        let mut readings = prober.blends(&jobs)?.into_iter();
        let segments = (0..reconstruct.restarts)
            .map(|_| {
                let of_probe = |&probe| Segment {
                    probe,
                    readings: readings.by_ref().take(points).collect(),
                };
                probes.iter().map(of_probe).collect()
            })
            .collect();
        maps.push(DecisionMap {
            input: reading.clone(),
            trajectories,
            segments,
            settled: options.settled(reconstruct.probes()),
        });
    }
    Ok(maps)
}

impl DecisionMap {
    /// The input label.
    pub fn input_label(&self) -> usize {
        self.input.label()
    }

    /// Readings of one restart that vote: the settled trajectory, then the segments.
    fn votes(&self, restart: usize) -> impl Iterator<Item = &Reading> {
        let trajectory = self.trajectories[restart][self.settled..]
            .iter()
            .map(|p| &p.reading);
        trajectory.chain(self.segments[restart].iter().flat_map(|s| &s.readings))
    }

    /// Each class's mean probability over the points of one restart that vote.
    fn restart_support(&self, restart: usize) -> Vec<f64> {
        let mut support = vec![0.0; self.input.classes()];
        let mut count = 0;
        for reading in self.votes(restart) {
            for (class, sum) in support.iter_mut().enumerate() {
                *sum += reading.probability(class);
            }
            count += 1;
        }
        support.iter().map(|sum| sum / f64::from(count)).collect()
    }

    /// Each class's support: its mean probability over the points that vote, all restarts.
    pub fn support(&self) -> Vec<f64> {
        let restarts = self.trajectories.len();
        let mut support = vec![0.0; self.input.classes()];
        for restart in 0..restarts {
            for (sum, x) in support.iter_mut().zip(self.restart_support(restart)) {
                *sum += x / restarts as f64;
            }
        }
        support
    }

    /// The best supported class other than the input label; `None` where the classifier has but one.
    pub fn recovered_label(&self, support: &[f64]) -> Option<usize> {
        let input = self.input_label();
        let others = support
            .iter()
            .enumerate()
            .filter(|(class, _)| *class != input);
        others
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)))
            .map(|(class, _)| class)
    }

    /// Iteration of the last crossing of a restart's trajectory from `label` to the input label.
    pub fn crossing(&self, restart: usize, label: usize) -> Option<u32> {
        let trajectory = &self.trajectories[restart];
        let crossing = self.trajectory_crossing(restart, label)?;
        Some(trajectory[crossing].iteration)
    }

    /// Probe before the trajectory's last crossing from `label` to the input label.
    fn trajectory_crossing(&self, restart: usize, label: usize) -> Option<usize> {
        let trajectory = &self.trajectories[restart];
        let crosses = |pair: &[super::TrajectoryPoint]| {
            pair[0].reading.label() == label && pair[1].reading.label() == self.input_label()
        };
        trajectory.windows(2).rposition(crosses)
    }

    /// The cross-boundary pair of a restart: the point of class `label` closest to the input on the
    /// latest segment that has one, and its neighbour towards the input; else the trajectory's last
    /// crossing.
    ///
    /// The segment comes first because its boundary point is the picture closest to the input that
    /// this restart can give.
    pub fn pair(&self, restart: usize, label: usize) -> Option<Pair> {
        let is_label = |reading: &Reading| reading.label() == label;
        for segment in self.segments[restart].iter().rev() {
            let last = match segment.readings.iter().rposition(is_label) {
                Some(i) => i as isize,
                None if is_label(&self.trajectories[restart][segment.probe].reading) => -1,
                None => continue,
            };
            return Some(Pair {
                probe: segment.probe,
                towards: Towards::Input,
                span: (segment.t(last), segment.t(last + 1)),
            });
        }
        let probe = self.trajectory_crossing(restart, label)?;
        Some(Pair {
            probe,
            towards: Towards::NextProbe,
            span: (0.0, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defense::TrajectoryPoint;

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
                    let readings = segment.chars().map(read).collect();
                    vec![Segment {
                        probe: trajectory.len() - 1,
                        readings,
                    }]
                })
                .collect(),
            settled: 2,
        }
    }

    #[test]
    fn support_leaves_the_warm_up_and_the_input_label_out() {
        // The warm-up is all `o`, which settled points rarely are.
        let map = map(&[("ooTToT", "TTAA"), ("ooTTTT", "TAAA")]);
        let support = map.support();
        assert_eq!(map.recovered_label(&support), Some(1));
        assert!((support.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_pair_is_the_label_s_last_point_before_the_input() {
        let map = map(&[
            ("oTTT", "TTAA"),
            ("oTAA", "TATA"),
            ("oTAT", "AAAA"),
            ("oTAA", "AAAA"),
        ]);
        let span = |restart| map.pair(restart, 1).map(|p| (p.towards, p.span));
        assert_eq!(span(0), Some((Towards::Input, (0.4, 0.6))));
        // Not monotone: the later boundary.
        assert_eq!(span(1), Some((Towards::Input, (0.6, 0.8))));
        // Only the reconstruction itself has the label.
        assert_eq!(span(2), Some((Towards::Input, (0.0, 0.2))));
        // The segment never has it, the trajectory had.
        assert_eq!(span(3), Some((Towards::NextProbe, (0.0, 1.0))));
        assert_eq!(map.pair(3, 1).map(|p| p.probe), Some(1));
        assert_eq!(map.pair(3, 4), None);
    }

    #[test]
    fn crossings_are_reported_only_where_the_trajectory_has_them() {
        let map = map(&[("oTTT", "TTAA"), ("TATA", "AAAA")]);
        assert_eq!(map.crossing(0, 1), None);
        assert_eq!(map.crossing(1, 1), Some(30));
    }

    #[test]
    fn segments_are_spread_over_the_settled_part_and_end_with_it() {
        let options = MapOptions {
            warm_up: 0.3,
            segment_points: 1,
            segments: 3,
        };
        assert_eq!(options.segment_probes(10), [5, 7, 9]);
        assert_eq!(options.segment_probes(1), [0]);
        let one = MapOptions {
            segments: 1,
            ..options
        };
        assert_eq!(one.segment_probes(10), [9]);
    }
}
