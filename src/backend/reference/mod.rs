//! The reference backend: float64, plain loops, one thread, for tests. It is what the others must
//! match.

mod dip;
pub(crate) mod ops;

pub use dip::ReferenceDip;
