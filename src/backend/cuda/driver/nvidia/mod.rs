//! NVIDIA's driver, loaded when it is first asked for: a program without it starts all the same.

mod describe;
mod events;
mod graph;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError as Refusal};
use cudarc::driver::sys;

pub use self::describe::{Cuda, Description, Unusable, describe, device_count, usable};
use self::events::Events;
use super::graph::{Executable, Recorded};
use super::profiler::Timeline;
use super::{
    Address, Device, Driver, DriverError, Kernel, Launch, Module, Peak, RawArguments, Result, lock,
};

/// Dynamic shared memory that a block can have without asking, in bytes.
const SHARED_UNASKED: u32 = 48 * 1024;

impl Device {
    /// GPU number `ordinal`, counted from 0.
    ///
    /// # Errors
    /// There is no driver or no such GPU, or this build has no kernels.
    pub fn nvidia(ordinal: usize) -> Result<Device> {
        Ok(Device::new(Arc::new(Nvidia::open(ordinal)?)))
    }
}

/// A GPU's primary context, kept as long as this lives.
struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
}

impl Context {
    /// The context of a device that `result::device::get` gave.
    fn retain(device: sys::CUdevice) -> std::result::Result<Self, Refusal> {
        // SAFETY: the device is one; the context is released when this is dropped.
        let handle = unsafe { result::primary_ctx::retain(device) }?;
        Ok(Context { device, handle })
    }

    /// Makes it this thread's.
    fn enter(&self) -> std::result::Result<(), Refusal> {
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

/// One GPU: its primary context and one stream, in which all work is done in order.
struct Nvidia {
    name: String,
    context: Context,
    stream: sys::CUstream,
    description: Description,
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
    /// What was launched last, which an error that comes to light later is likely about.
    latest: Option<Latest>,
}

enum Latest {
    Kernel(&'static str, Launch),
    /// What it holds.
    Graph(Arc<str>),
}

impl fmt::Display for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Latest::Kernel(name, launch) => write!(f, "{name} {launch}"),
            Latest::Graph(kernels) => f.write_str(kernels),
        }
    }
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
        let count = usable().map_err(|why| match why {
            Unusable::NoKernels => DriverError::NoKernels {
                device: device.clone(),
            },
            why => absent(why.to_string()),
        })?;
        if ordinal >= count {
            return Err(absent(format!("this machine has {count} GPUs")));
        }
        let refused = |refusal| absent(explain(refusal));
        let handle = result::device::get(ordinal as c_int).map_err(refused)?;
        let context = Context::retain(handle).map_err(refused)?;
        let description = describe(ordinal).map_err(|why| absent(why.to_string()))?;
        let stream = context
            .enter()
            .and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking))
            .map_err(refused)?;
        Ok(Nvidia {
            name: format!("{device} ({})", description.name),
            context,
            stream,
            description,
            loaded: Mutex::default(),
        })
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<()> {
        self.context
            .enter()
            .map_err(|refusal| self.failed("entering its context", refusal))
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        lock(&self.loaded)
    }

    fn failed(&self, operation: &str, refusal: Refusal) -> DriverError {
        let operation = match &self.loaded().latest {
            Some(latest) => format!("{operation} after {latest}"),
            None => operation.to_owned(),
        };
        DriverError::Failed {
            device: self.name.clone(),
            operation,
            cause: explain(refusal),
        }
    }

    /// Why a kernel was not launched. Where one before it failed, that may be why: so it is named too.
    fn refused(
        &self,
        loaded: &Loaded,
        kernel: &Kernel,
        launch: Launch,
        cause: String,
    ) -> DriverError {
        DriverError::Launch {
            device: self.name.clone(),
            kernel: kernel.name,
            launch,
            cause: match &loaded.latest {
                Some(latest) => format!("{cause}, after {latest}"),
                None => cause,
            },
        }
    }

    fn load(&self, module: &Module) -> std::result::Result<sys::CUmodule, String> {
        let image = module.image.ok_or("it is not for GPUs")?;
        // The driver reads 8-byte words.
        let mut aligned = vec![0_u64; image.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut aligned)[..image.len()].copy_from_slice(image);
        // SAFETY: nvcc made the image; it carries its own length.
        unsafe { result::module::load_data(aligned.as_ptr().cast()) }.map_err(explain)
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
                    unsafe { result::module::get_function(module, name) }.map_err(explain)?;
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
            .map_err(explain)?;
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
fn explain(refusal: Refusal) -> String {
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
            }
        }
    }
}
