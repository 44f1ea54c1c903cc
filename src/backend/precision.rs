//! How exactly an engine computes.

/// What the factors of a DIP network's wide convolutions are rounded to before they are multiplied.
/// Everything else (weights, activations, sums, gradients and Adam's moments) is float32 in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Nothing is rounded: the reference.
    #[default]
    Float32,
    /// bfloat16, 8 significant bits, for the GPU's tensor cores; the processor rounds the same factors, and
    /// is no faster for it. Convolutions of few channels, and networks that run in the resident step, are as
    /// with float32.
    Bf16,
}

impl Precision {
    /// The fewest inputs and outputs of a convolution whose factors are rounded. Tensor cores multiply 16
    /// inputs at once for 8 outputs or pixels: with fewer, most of their work is on zeros.
    pub const FEWEST_CHANNELS: u32 = 8;
}
