//! NVIDIA's driver, loaded when it is first asked for: a program without it starts all the same.

mod context;
mod describe;
mod events;
mod gpu;
mod graph;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError as Refusal};
use cudarc::driver::sys;

use self::context::explain;
pub use self::describe::{Cuda, Description, Unusable, describe, device_count, usable};
use self::events::Events;
use self::gpu::{Latest, Nvidia};
use super::arguments::{Address, RawArguments};
use super::device::Device;
use super::error::{DriverError, Result};
use super::interface::Driver;
use super::kernel::Kernel;
use super::launch::Launch;
use super::profile::Peak;
use super::recorded::{Executable, Recorded};
use super::timeline::Timeline;

impl Device {
    /// GPU number `ordinal`, counted from 0.
    ///
    /// # Errors
    /// There is no driver or no such GPU, or this build has no kernels.
    pub fn nvidia(ordinal: usize) -> Result<Device> {
        Ok(Device::new(Arc::new(Nvidia::open(ordinal)?)))
    }
}

impl Driver for Nvidia {
    fn name(&self) -> &str {
        &self.name
    }

    fn free_bytes(&self) -> Option<u64> {
        self.enter().ok()?;
        let (free, _) = result::mem_get_info().ok()?;
        Some(free as u64)
    }

    fn multiprocessors(&self) -> u32 {
        self.description.multiprocessors
    }

    fn shared_limit(&self) -> u32 {
        self.description.shared_limit
    }

    fn peak(&self) -> Peak {
        self.description.peak()
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.enter()?;
        // SAFETY: the stream lives as long as this; nobody reads the memory as Rust's.
        match unsafe { result::malloc_async(self.stream, bytes) } {
            Ok(address) => Ok(Address(address)),
            Err(Refusal(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(DriverError::OutOfMemory {
                    device: self.name.clone(),
                    bytes,
                })
            }
            Err(refusal) => Err(self.failed("allocation", refusal)),
        }
    }

    fn free(&self, address: Address) {
        if self.enter().is_ok() {
            // SAFETY: `allocate` gave the address, and its buffer is gone; what still uses it was put into
            // the stream before. Where the driver refuses, the memory stays taken: nothing else to do.
            let _ = unsafe { result::free_async(address.0, self.stream) };
        }
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<()> {
        self.enter()?;
        // SAFETY: the range is in its buffer. From pageable memory the driver has read `bytes` when it
        // returns.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream) }
            .map_err(|refusal| self.failed("upload", refusal))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the range is in its buffer; `bytes` is borrowed until the copy is done.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream) }
            .map_err(|refusal| self.failed("download", refusal))?;
        self.synchronize("download")
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the range is in its buffer.
        unsafe { result::memset_d8_async(at.0, 0, bytes, self.stream) }
            .map_err(|refusal| self.failed("setting memory to zero", refusal))
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Result<()> {
        self.enter()?;
        let mut loaded = self.loaded();
        let function = self
            .function(&mut loaded, kernel, launch.shared)
            .map_err(|cause| self.refused(&loaded, kernel, launch, cause))?;
        let [x, y, z] = launch.grid;
        let mut parameters: [*mut c_void; 1] = [arguments.data.cast_mut()];
        // SAFETY: the arguments are the kernel's (`Device::launch` has compared their names, tests on the
        // emulator their layouts); the driver copies them before it returns.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.block, 1, 1),
                launch.shared,
                self.stream,
                &mut parameters,
            )
        }
        .map_err(|refusal| self.refused(&loaded, kernel, launch, explain(refusal)))?;
        loaded.latest = Some(Latest::Kernel(kernel.name, launch));
        Ok(())
    }

    fn prepare(self: Arc<Self>, launches: &[Recorded]) -> Result<Option<Box<dyn Executable>>> {
        Ok(Some(Box::new(graph::Prepared::new(self, launches)?)))
    }

    fn timeline(self: Arc<Self>) -> Result<Box<dyn Timeline>> {
        Ok(Box::new(Events::new(self)?))
    }
}
