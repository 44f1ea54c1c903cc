//! The kernels that `build.rs` found: a module for each file of `kernels/`, with a [`Kernel`] for each
//! kernel in it, its name in capitals.

#[cfg(feature = "emulator")]
use std::ffi::c_void;

#[cfg(feature = "emulator")]
use super::driver::emulator::bridge::{Emulated, RawField, RawFields};
use super::driver::kernel::{Kernel, Module};

#[cfg(all(test, feature = "emulator"))]
mod report;
#[cfg(all(feature = "emulator", any(feature = "cli", test)))]
pub(crate) mod uses;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "generated for all builds, of which each uses a part"
)]
mod generated {
    use super::*;

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

pub(crate) use self::generated::*;
