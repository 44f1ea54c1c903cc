//! The reference backend: float64, plain loops, one thread, for tests. It is what the others must
//! match.

pub mod classifier;
pub mod dip;

pub use classifier::ReferenceClassifier;
pub use dip::ReferenceDip;
