//! An outcome to draw, without a device.

use crate::defense::{
    DecisionMap, Outcome, PathOutcome, Reading, Segment, SegmentPoint, TrajectoryPoint, Verdict,
};

/// A reading of `label` with probability `p`, the rest even over three other classes.
fn reading(label: usize, p: f64) -> Reading {
    let mut logits = [((1.0 - p) / 3.0).ln() as f32; 4];
    logits[label] = p.ln() as f32;
    Reading::new(&logits)
}

/// An adversarial picture's: one string a trajectory, one a segment from behind the reconstruction to
/// the input. `A` is the input label (class 0), `T` the recovered one (class 1), `o` class 2. Probes are
/// 20 iterations apart, from 20 dB rising by 1; segments start a quarter behind the reconstruction. The
/// last of several paths is the consensus.
pub(crate) fn outcome(paths: &[(&str, &str)]) -> Outcome {
    let read = |c: char| match c {
        'A' => reading(0, 0.95),
        'T' => reading(1, 0.85),
        _ => reading(2, 0.55),
    };
    let trajectory = |(probes, _): &(&str, &str)| {
        let point = |(i, c)| TrajectoryPoint {
            iteration: 20 * (i as u32 + 1),
            reading: read(c),
            psnr: 20.0 + i as f64,
            least_tile_psnr: 15.0,
        };
        probes.chars().enumerate().map(point).collect()
    };
    let segment = |(probes, points): &(&str, &str)| {
        let point = |(i, c)| SegmentPoint {
            t: 0.25 * i as f32 - 0.25,
            reading: read(c),
            mirrored: None,
            noisy: None,
        };
        vec![Segment {
            probe: probes.len() - 1,
            points: points.chars().enumerate().map(point).collect(),
        }]
    };
    let map = DecisionMap {
        input: read('A'),
        views: vec![],
        trajectories: paths.iter().map(trajectory).collect(),
        segments: paths.iter().map(segment).collect(),
    };
    let path = |path: usize| PathOutcome {
        seed: Some(path as u64),
        crossing: map.crossing(path, 1),
        alpha: Some(0.5),
        push: Some(0.25),
        margin: Some(3.1),
        boundary: Some(0.125),
    };
    let mut restarts: Vec<PathOutcome> = (0..paths.len()).map(path).collect();
    let consensus = (paths.len() > 1).then(|| PathOutcome {
        seed: None,
        ..restarts.pop().expect("there are several")
    });
    Outcome {
        input: read('A'),
        output: read('T'),
        pixels: vec![0.5; 3],
        verdict: Verdict::Adversarial,
        score: 0.93,
        recovered_label: Some(1),
        support: vec![(1, 0.8), (0, 0.1)],
        fallback: None,
        nudge_steps: 0,
        restarts,
        consensus,
        iterations: 1200,
        map,
        ablations: None,
    }
}
