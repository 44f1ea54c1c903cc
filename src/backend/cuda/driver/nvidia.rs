//! NVIDIA's driver, loaded when it is first asked for: a program without it starts all the same.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError as Refusal};
use cudarc::driver::sys;

use super::{Address, Device, Driver, DriverError, Kernel, Launch, Module, RawArguments, Result};

/// Dynamic shared memory that a block can have without asking, in bytes.
const SHARED_UNASKED: u32 = 48 * 1024;

impl Device {
    /// GPU number `ordinal`, counted from 0.
    ///
    /// # Errors
    /// There is no driver or no such GPU, or this build has no kernels.
    pub fn nvidia(ordinal: usize) -> Result<Device> {
        let driver = Arc::new(Nvidia::open(ordinal)?);
        Ok(Device { driver })
    }
}

/// GPUs of this machine; 0 where there is no driver.
pub fn device_count() -> usize {
    // SAFETY: only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return 0;
    }
    let count = result::init().and_then(|()| result::device::get_count());
    count.map_or(0, |count| count as usize)
}

/// One GPU: its primary context and one stream, in which all work is done in order.
struct Nvidia {
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    loaded: Mutex<Loaded>,
}

// SAFETY: the driver's handles may be used from any thread; every use makes the context current first.
unsafe impl Send for Nvidia {}
// SAFETY: as above; the driver orders concurrent calls itself.
unsafe impl Sync for Nvidia {}

/// Modules and kernels by name, loaded at their first use.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    kernels: HashMap<&'static str, Function>,
    /// The latest launch, which an error that comes to light later is likely about.
    latest: Option<(&'static str, Launch)>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// The most dynamic shared memory it was allowed.
    shared: u32,
}

impl Nvidia {
    fn open(ordinal: usize) -> Result<Self> {
        let device = format!("cuda:{ordinal}");
        let absent = |cause: String| DriverError::NoDevice {
            device: device.clone(),
            cause,
        };
        // SAFETY: only tries to load the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(absent("no CUDA driver on this machine".to_owned()));
        }
        let refused = |refusal| absent(describe(refusal));
        result::init().map_err(refused)?;
        let count = result::device::get_count().map_err(refused)?;
        if ordinal >= count as usize {
            return Err(absent(format!("this machine has {count} GPUs")));
        }
        if super::super::kernels::NVCC.is_none() {
            return Err(DriverError::NoKernels { device });
        }
        let handle = result::device::get(ordinal as c_int).map_err(refused)?;
        let model = result::device::get_name(handle).map_err(refused)?;
        // SAFETY: the device is one; the context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(handle) }.map_err(refused)?;
        let stream = (|| {
            // SAFETY: the context was retained above.
            unsafe { result::ctx::set_current(context) }?;
            result::stream::create(result::stream::StreamKind::NonBlocking)
        })();
        let stream = stream.map_err(|refusal| {
            // SAFETY: retained above, and not used again.
            let _ = unsafe { result::primary_ctx::release(handle) };
            refused(refusal)
        })?;
        Ok(Nvidia {
            name: format!("{device} ({model})"),
            device: handle,
            context,
            stream,
            loaded: Mutex::default(),
        })
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|refusal| self.failed("entering its context", refusal))
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, operation: &str, refusal: Refusal) -> DriverError {
        let operation = match self.loaded().latest {
            Some((kernel, launch)) => format!("{operation} after {kernel} {launch}"),
            None => operation.to_owned(),
        };
        DriverError::Failed {
            device: self.name.clone(),
            operation,
            cause: describe(refusal),
        }
    }

    fn load(&self, module: &Module) -> std::result::Result<sys::CUmodule, String> {
        let image = module.image.ok_or("it is not for GPUs")?;
        // The driver reads 8-byte words.
        let mut aligned = vec![0_u64; image.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut aligned)[..image.len()].copy_from_slice(image);
        // SAFETY: nvcc made the image; it carries its own length.
        unsafe { result::module::load_data(aligned.as_ptr().cast()) }.map_err(describe)
    }

    /// The kernel, allowed as much shared memory as the launch has.
    fn function(
        &self,
        loaded: &mut Loaded,
        kernel: &Kernel,
        shared: u32,
    ) -> std::result::Result<sys::CUfunction, String> {
        let mut function = match loaded.kernels.get(kernel.name) {
            Some(&function) => function,
            None => {
                let module = match loaded.modules.get(kernel.module.name) {
                    Some(&module) => module,
                    None => {
                        let module = self.load(kernel.module)?;
                        loaded.modules.insert(kernel.module.name, module);
                        module
                    }
                };
                let name = CString::new(kernel.name).map_err(|e| e.to_string())?;
                // SAFETY: the module is loaded, and unloaded only with the context.
                let handle =
                    unsafe { result::module::get_function(module, name) }.map_err(describe)?;
                Function {
                    handle,
                    shared: SHARED_UNASKED,
                }
            }
        };
        if shared > function.shared {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module.
            unsafe {
                result::function::set_function_attribute(
                    function.handle,
                    attribute,
                    shared as c_int,
                )
            }
            .map_err(describe)?;
            function.shared = shared;
        }
        loaded.kernels.insert(kernel.name, function);
        Ok(function.handle)
    }

    fn synchronize(&self, operation: &str) -> Result<()> {
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|refusal| self.failed(operation, refusal))
    }
}

/// CUDA's own words, and the name to look them up by.
fn describe(refusal: Refusal) -> String {
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

impl Driver for Nvidia {
    fn name(&self) -> &str {
        &self.name
    }

    fn free_bytes(&self) -> Option<u64> {
        self.enter().ok()?;
        let (free, _) = result::mem_get_info().ok()?;
        Some(free as u64)
    }

    fn shared_limit(&self) -> u32 {
        use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as LIMIT;
        // SAFETY: the device is one.
        let limit = unsafe { result::device::get_attribute(self.device, LIMIT) };
        limit.map_or(SHARED_UNASKED, |bytes| bytes as u32)
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
        let refuse = |cause| DriverError::Launch {
            device: self.name.clone(),
            kernel: kernel.name,
            launch,
            cause,
        };
        let mut loaded = self.loaded();
        let function = self
            .function(&mut loaded, kernel, launch.shared)
            .map_err(refuse)?;
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
        .map_err(|refusal| refuse(describe(refusal)))?;
        loaded.latest = Some((kernel.name, launch));
        Ok(())
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            let loaded = self
                .loaded
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner);
            // SAFETY: all buffers are gone, for they hold the device; work in the stream is waited for.
            unsafe {
                let _ = result::stream::synchronize(self.stream);
                for &module in loaded.modules.values() {
                    let _ = result::module::unload(module);
                }
                let _ = result::stream::destroy(self.stream);
                let _ = result::primary_ctx::release(self.device);
            }
        }
    }
}
