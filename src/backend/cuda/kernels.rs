//! The kernels that `build.rs` found: a module for each file of `kernels/`, with a [`Kernel`] for each
//! kernel in it, its name in capitals.

#[cfg(feature = "emulator")]
use std::ffi::c_void;

#[cfg(feature = "emulator")]
use super::driver::emulator::bridge::{Emulated, RawField, RawFields};
use super::driver::kernel::{Kernel, Module};

#[cfg(test)]
mod report;

#[expect(
    dead_code,
    reason = "each build uses some of it: the emulator, the report and the tests the rest"
)]
mod generated {
    use super::*;

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

pub(crate) use self::generated::*;
