//! The devices that run kernels, behind one small interface: [`Device`] and [`Buffer`].
//!
//! Three drivers stand behind it: [`nvidia`] (feature `cuda`) and, with feature `emulator`, [`emulator`], which
//! runs the kernels' sources, and [`ptx`], which runs what nvcc made of them. All work of a device is done in
//! the order in which it is asked for; launches and uploads may return before they are done, downloads do
//! not. Launches that are repeated are recorded once, as a [`Graph`]; what a device spends its time with is
//! told by a [`Profile`].
//!
//! Device memory is not Rust's: a kernel that is given a wrong address or length fails, or computes
//! wrong numbers, but breaks no guarantee of the language. So launching is safe here.

mod arguments;
mod device;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
mod graph;
mod interface;
pub(super) mod kernel;
mod launch;
mod lock;
#[cfg(feature = "cuda")]
pub mod nvidia;
#[cfg(feature = "cuda")]
mod nvtx;
mod profile;
mod profiler;
mod profiling;
#[cfg(feature = "emulator")]
pub mod ptx;
mod recorded;
mod recording;
mod tally;
#[cfg(test)]
mod testing;
#[cfg(all(test, feature = "emulator"))]
mod tests;
mod timeline;

pub(crate) use self::arguments::arguments;
pub use self::arguments::{Address, Arguments, Field, Layout};
pub use self::device::{Buffer, Device};
pub use self::error::{DriverError, Result};
pub use self::graph::Graph;
pub use self::kernel::{Kernel, Module};
pub use self::launch::{Launch, Work, shared_bytes};
pub use self::profile::{ActivityKind, Peak, PhaseTotal, Profile, Total};
pub use self::profiling::{Phase, Profiling};
#[cfg(test)]
pub(crate) use self::testing::test_devices;
#[cfg(all(test, feature = "emulator"))]
pub(crate) use self::testing::{assert_mirrored, mirror};
