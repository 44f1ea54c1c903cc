//! What becomes of an image.

use super::decision_map::DecisionMap;
use super::reading::Reading;
use super::verdict::Verdict;

/// Why the output is not what its verdict asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// The stitched picture lost the recovered label: one path's on-manifold image is shown, of those that
    /// reach the wanted margin the one closest to the input.
    SinglePath,
    /// No path has a point of the recovered label: a reconstruction is shown, changed by at most 8/255 along
    /// the classifier's gradient so that it has the label.
    Nudged,
    /// The same, but the label was not reached.
    Reconstruction,
}

/// What one path, a restart's or their consensus', contributed.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PathOutcome {
    /// The restart's; absent for the consensus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Iteration at which the trajectory of an adversarial picture last crossed from the recovered label to the
    /// input label.
    pub crossing: Option<u32>,
    /// The on-boundary image's place between its pair, from 0 at the recovered side.
    pub alpha: Option<f32>,
    /// β of the step away from the input.
    pub push: Option<f32>,
    /// Margin of the recovered label after it, in logits.
    pub margin: Option<f64>,
    /// The on-boundary image's place between the reconstruction and the input, from 0 at the former;
    /// absent where the pair lies on the trajectory.
    pub boundary: Option<f32>,
}

/// What the defense found and made of one image, with the numbers it decided by.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub input: Reading,
    pub output: Reading,
    /// The output picture, CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    pub verdict: Verdict,
    pub score: f64,
    /// The label that the map supports against the input label.
    pub recovered_label: Option<usize>,
    /// The best supported classes and their support, the input label's included.
    pub support: Vec<(usize, f64)>,
    pub fallback: Option<Fallback>,
    pub restarts: Vec<PathOutcome>,
    /// The mean of the restarts, as one more path; `None` where there is one restart.
    pub consensus: Option<PathOutcome>,
    /// Adam steps, all restarts.
    pub iterations: u64,
    /// The map itself.
    pub map: DecisionMap,
    /// What shorter versions of the method give; `None` unless [`Options::ablations`](super::Options::ablations) asks for it.
    pub ablations: Option<Ablations>,
}

/// A picture as it would be stored, and what the classifier says of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    pub reading: Reading,
}

/// What the method gives where it ends early: each adds a stage to the one before.
#[derive(Clone, Debug)]
pub struct Ablations {
    /// The first restart's last reconstruction.
    pub reconstruction: Shown,
    /// Its reconstruction by the smoothed-PSNR rule: DIPDefend (Dai et al. 2020), probed every
    /// [`probe_interval`](super::ReconstructOptions::probe_interval) iterations.
    pub early_stop: Shown,
    /// By verdict: the consensus' on-boundary image (of another path where it has none), else what the
    /// whole method gives.
    pub boundary: Shown,
    /// The same with that path's on-manifold image.
    pub push: Shown,
}
