//! The defense's result for one image.

use super::decision_map::DecisionMap;
use super::reading::Reading;
use super::verdict::Verdict;

/// Why the output is not what its verdict asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// The stitched picture does not reach the recovered label with the wanted margin, not even nudged by 8/255. The
    /// output is one path's on-manifold image, which does: of those that reach the margin before they are rounded the
    /// one closest to the input, else the one with the largest margin, nudged if need be.
    SinglePath,
    /// Neither the stitched picture nor one path's image reaches the recovered label with the wanted margin, not even
    /// nudged by 8/255. The output is the one with the larger margin.
    Short,
    /// No path has a point of the recovered label. The output is a reconstruction, nudged by at most 8/255
    /// along the classifier's gradient so that it has the label with the wanted margin.
    Nudged,
    /// No path has a point of the recovered label, and nudging a reconstruction did not reach the label with the
    /// wanted margin. The output is the nudged reconstruction.
    Reconstruction,
}

/// What one path contributed: that of a restart, or of the consensus.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PathOutcome {
    /// The restart's seed; absent for the consensus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Iteration at which the trajectory of an adversarial picture last crossed from the recovered label to the
    /// input label.
    pub crossing: Option<u32>,
    /// Where the on-boundary image lies between its pair: 0 at the point of the recovered label, 1 at the
    /// other.
    pub alpha: Option<f32>,
    /// Strength β of the push: its length in distances of the on-boundary image from the input.
    pub push: Option<f32>,
    /// Margin of the recovered label at the on-manifold image, in logits.
    pub margin: Option<f64>,
    /// Position of the on-boundary image on its segment: 0 at the reconstruction, 1 at the input. Absent if
    /// there is no pair, or if the pair is two reconstructions of the trajectory.
    pub boundary: Option<f32>,
}

/// What the defense found and made of one image, with the numbers it decided by.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the classifier says of the input.
    pub input: Reading,
    /// What the classifier says of the output picture.
    pub output: Reading,
    /// The output picture, CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    /// Whether the input is held to be adversarial.
    pub verdict: Verdict,
    /// How strongly the evidence speaks for the recovered label against the input label, in `[0, 1]`.
    pub score: f64,
    /// The label, other than the input label, with the most evidence; `None` if the classifier has only one
    /// class.
    pub recovered_label: Option<usize>,
    /// The five classes with the most support, and their support from 0 to 1, by falling support.
    pub support: Vec<(usize, f64)>,
    /// Why the output is not what the verdict asks for; `None` where it is.
    pub fallback: Option<Fallback>,
    /// By how many levels of an 8-bit picture the output was nudged along the classifier's gradient, so that it has
    /// the recovered label with the wanted margin; 0 to 8.
    pub nudge_steps: usize,
    /// What each restart contributed, in the restarts' order.
    pub restarts: Vec<PathOutcome>,
    /// What the consensus contributed; `None` if there is only one restart.
    pub consensus: Option<PathOutcome>,
    /// Iterations of all restarts together.
    pub iterations: u64,
    /// The decision map, as far as it was probed.
    pub map: DecisionMap,
    /// The outputs of the method's ablations; `None` unless
    /// [`Options::ablations`](super::Options::ablations) asks for them.
    pub ablations: Option<Ablations>,
}

/// A picture as it is stored, and its reading.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The picture, CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    /// What the classifier says of the picture.
    pub reading: Reading,
}

/// The outputs of shorter versions of the method.
#[derive(Clone, Debug)]
pub struct Ablations {
    /// The first restart's last reconstruction.
    pub reconstruction: Shown,
    /// The first restart's reconstruction that DIPDefend's rule selects (Dai et al. 2020), of those every
    /// [`probe_interval`](super::ReconstructOptions::probe_interval) iterations.
    pub early_stop: Shown,
    /// If the verdict is `adversarial`, the on-boundary image of the consensus, or of another path if the
    /// consensus has none; the whole method's output if there is no on-boundary image.
    pub boundary: Shown,
    /// Like `boundary`, with the same path's on-manifold image.
    pub push: Shown,
}
