//! A GPU's context, and CUDA's errors in its own words.

use std::ffi::CStr;

use cudarc::driver::result::{self, DriverError as Refusal};
use cudarc::driver::sys;

/// A GPU's primary context, kept as long as this lives.
pub(super) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

impl Context {
    /// The context of a device that `result::device::get` gave.
    pub(super) fn retain(device: sys::CUdevice) -> std::result::Result<Self, Refusal> {
        // SAFETY: the device is one; the context is released when this is dropped.
        let handle = unsafe { result::primary_ctx::retain(device) }?;
        Ok(Context { device, handle })
    }

    /// Makes it this thread's.
    pub(super) fn enter(&self) -> std::result::Result<(), Refusal> {
        // SAFETY: it is retained as long as this lives.
        unsafe { result::ctx::set_current(self.handle) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained by `retain`, and not used again.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// CUDA's own words, and the name to look them up by.
pub(super) fn explain(refusal: Refusal) -> String {
    let text = |text: std::result::Result<&CStr, Refusal>| {
        text.map_or("unknown".to_owned(), |text| {
            text.to_string_lossy().into_owned()
        })
    };
    format!(
        "{} ({})",
        text(refusal.error_string()),
        text(refusal.error_name())
    )
}
