//! The DIP networks: what they are, not how a backend runs them.

mod init;
mod spec;

pub use init::{initial_input, initial_parameters};
pub use spec::{
    ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, BN_EPSILON, LEAKY_SLOPE, NetSpec, Padding, Parameter,
    Preset, Upsample,
};
