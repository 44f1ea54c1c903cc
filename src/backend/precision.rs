//! How exactly an engine computes.

/// What the factors of a DIP network's wide convolutions are rounded to before they are multiplied.
/// Everything else (weights, activations, sums, gradients and Adam's moments) is float32 in either case.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Nothing is rounded: the reference.
    #[default]
    Float32,
    /// bfloat16, 8 significant bits, for the GPU's tensor cores. Convolutions of few channels, and networks
    /// that run in the resident step, are as with float32.
    Bf16,
}
