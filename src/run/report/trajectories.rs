//! A picture's trajectories in a form that is small enough for ten thousand of them on one page.

use serde::Serialize;

use super::role::Labels;
use crate::defense::{Outcome, PathOutcome, Reading, Segment, Trajectory};

/// Paths that are shown at most, the consensus included; more cannot be told apart on a page.
const MAX_PATHS: usize = 16;
/// Probes that are shown at most; of longer trajectories and segments every n-th probe is shown.
const MAX_PROBES: usize = 256;
/// Written in place of an infinite PSNR, in dB.
const MOST_DECIBELS: f64 = 99.9;

/// What a report shows of a picture's decision map.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trajectories {
    /// Iterations between checkpoints, and before the first.
    every: u32,
    /// Positions at which segments are probed, in hundredths: 0 at the reconstruction, 100 at the input.
    places: Vec<i32>,
    /// The paths of the restarts, then that of the consensus.
    paths: Vec<ShownPath>,
}

/// One path: its trajectory, and the segment of its on-boundary image, or else its last segment.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ShownPath {
    #[serde(flatten)]
    trajectory: Strip,
    /// PSNR of each reconstruction against the input, in tenths of a dB.
    psnr: Vec<u32>,
    segment: Strip,
    /// The restart's seed; absent for the consensus.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crossing: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    push: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boundary: Option<f64>,
}

/// Probes in order, one character for each.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Strip {
    /// The roles of the labels, as [`Role::letter`](super::role::Role::letter) writes them.
    probes: String,
    /// The labels' probabilities in tenths, rounded down; 9 for a probability of 1.
    sure: String,
}

impl Strip {
    fn new<'a>(readings: impl Iterator<Item = &'a Reading>, labels: &Labels) -> Strip {
        let (mut probes, mut sure) = (String::new(), String::new());
        for reading in readings {
            probes.push(labels.role(reading.label()).letter());
            let tenths = (10.0 * reading.confidence()).clamp(0.0, 9.0);
            sure.push(char::from(b'0' + tenths as u8));
        }
        Strip { probes, sure }
    }
}

impl Trajectories {
    /// The trajectories of an image whose true label is `truth`, from its
    /// [whole map](crate::defense::Options::whole_maps); `None` if nothing was probed.
    pub fn new(outcome: &Outcome, truth: Option<usize>) -> Option<Trajectories> {
        let map = &outcome.map;
        let labels = Labels {
            truth,
            input: map.input_label(),
            recovered: outcome.recovered_label,
        };
        let first = map.trajectories.first()?;
        let interval = first.first()?.iteration;
        let places = map.segments.first()?.last()?.points.iter();
        let all: Vec<&PathOutcome> = paths(outcome).collect();
        let paths = kept(all.len()).map(|path| {
            let segment = shown_segment(outcome, path, all[path]);
            ShownPath::new(&map.trajectories[path], segment, all[path], &labels)
        });
        Some(Trajectories {
            every: interval.saturating_mul(thinning(first.len()) as u32),
            places: thinned(places.map(|point| (100.0 * point.t).round() as i32)),
            paths: paths.collect(),
        })
    }
}

impl ShownPath {
    fn new(
        trajectory: &Trajectory,
        segment: &Segment,
        outcome: &PathOutcome,
        labels: &Labels,
    ) -> ShownPath {
        let shown = thinned(trajectory.iter());
        let tenths = |psnr: f64| (10.0 * psnr.clamp(0.0, MOST_DECIBELS)).round() as u32;
        let points = thinned(segment.points.iter());
        ShownPath {
            trajectory: Strip::new(shown.iter().map(|point| &point.reading), labels),
            psnr: shown.iter().map(|point| tenths(point.psnr)).collect(),
            segment: Strip::new(points.iter().map(|point| &point.reading), labels),
            seed: outcome.seed,
            crossing: outcome.crossing,
            alpha: outcome.alpha.map(|x| thousandths(x.into())),
            push: outcome.push.map(|x| thousandths(x.into())),
            margin: outcome.margin.map(thousandths),
            boundary: outcome.boundary.map(|x| thousandths(x.into())),
        }
    }
}

/// What each path of the map contributed, in the map's order.
pub fn paths(outcome: &Outcome) -> impl Iterator<Item = &PathOutcome> {
    outcome.restarts.iter().chain(&outcome.consensus)
}

/// The segment of a path's on-boundary image, or else the path's last segment.
pub fn shown_segment<'a>(outcome: &'a Outcome, path: usize, of: &PathOutcome) -> &'a Segment {
    let segments = &outcome.map.segments[path];
    let pair = outcome
        .recovered_label
        .filter(|_| of.boundary.is_some())
        .and_then(|label| outcome.map.pair(path, label));
    let found = pair.and_then(|pair| segments.iter().find(|s| s.probe == pair.probe));
    found
        .or(segments.last())
        .expect("a whole map has a segment of each path")
}

/// Indices of the paths that are shown: if there are too many, the last restarts are left out, but not the
/// consensus at the end.
pub fn kept(paths: usize) -> impl Iterator<Item = usize> {
    (0..paths).filter(move |&path| path + 1 == paths || path < MAX_PATHS - 1)
}

/// The n for which every n-th of `probes` probes is shown.
fn thinning(probes: usize) -> usize {
    probes.div_ceil(MAX_PROBES).max(1)
}

/// Every n-th of `all`, so that at most `MAX_PROBES` remain.
pub fn thinned<T>(all: impl ExactSizeIterator<Item = T>) -> Vec<T> {
    let every = thinning(all.len());
    all.skip(every - 1).step_by(every).collect()
}

/// Rounded to three decimals.
fn thousandths(x: f64) -> f64 {
    (1000.0 * x).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::report::test_outcome::outcome;

    #[test]
    fn strips_are_letters_and_tenths() {
        let outcome = outcome(&[("oTAT", "TTAA"), ("ooTT", "TTTA")]);
        let made = Trajectories::new(&outcome, None).unwrap();
        let json = serde_json::to_value(&made).unwrap();
        assert_eq!(json["every"], 20);
        assert_eq!(json["places"], serde_json::json!([-25, 0, 25, 50]));
        let [first, consensus] = &json["paths"].as_array().unwrap()[..] else {
            panic!("{json}");
        };
        assert_eq!(
            (&first["probes"], &first["sure"]),
            (&"orir".into(), &"5898".into())
        );
        assert_eq!(first["psnr"], serde_json::json!([200, 210, 220, 230]));
        assert_eq!(first["segment"]["probes"], "rrii");
        assert_eq!(
            (&first["seed"], &first["crossing"]),
            (&0.into(), &40.into())
        );
        assert_eq!(
            (&first["alpha"], &first["boundary"]),
            (&0.5.into(), &0.125.into())
        );
        assert_eq!(consensus.get("seed"), None);
        // The true label's color goes before all others.
        let known = Trajectories::new(&outcome, Some(1)).unwrap();
        assert_eq!(known.paths[0].trajectory.probes, "otit");
        assert_eq!(known.paths[0].trajectory.sure, "5898");
    }

    #[test]
    fn long_runs_are_thinned_out_and_many_paths_cut() {
        let long = "oT".repeat(MAX_PROBES);
        let paths: Vec<_> = (0..2 * MAX_PATHS).map(|_| (&*long, "TTTA")).collect();
        let made = Trajectories::new(&outcome(&paths), None).unwrap();
        assert_eq!((made.every, made.paths.len()), (40, MAX_PATHS));
        assert!(
            made.paths
                .iter()
                .all(|p| p.trajectory.probes == "r".repeat(MAX_PROBES))
        );
        let seeds: Vec<_> = made.paths.iter().map(|path| path.seed).collect();
        assert_eq!((seeds[0], seeds[MAX_PATHS - 2]), (Some(0), Some(14)));
        assert_eq!(seeds[MAX_PATHS - 1], None);
    }

    #[test]
    fn what_is_equal_to_the_input_has_a_number() {
        let mut outcome = outcome(&[("TT", "TTTA")]);
        outcome.map.trajectories[0][1].psnr = f64::INFINITY;
        let made = Trajectories::new(&outcome, None).unwrap();
        assert_eq!(made.paths[0].psnr, [200, 999]);
    }
}
