//! A GPU, and the kernels loaded on it.

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError as Refusal};
use cudarc::driver::sys;

use super::super::error::{DriverError, Result};
use super::super::kernel::{Kernel, Module};
use super::super::launch::Launch;
use super::super::lock::lock;
use super::context::{Context, explain};
use super::describe::{Description, Unusable, describe, usable};

/// Dynamic shared memory that a block can have without asking, in bytes.
const SHARED_UNASKED: u32 = 48 * 1024;

/// One GPU: its primary context and one stream, in which all work is done in order.
pub(super) struct Nvidia {
    pub name: String,
    context: Context,
    pub stream: sys::CUstream,
    pub description: Description,
    loaded: Mutex<Loaded>,
}

// SAFETY: the driver's handles may be used from any thread; every use makes the context current first.
unsafe impl Send for Nvidia {}
// SAFETY: the driver orders concurrent calls itself.
unsafe impl Sync for Nvidia {}

/// Modules and kernels by name, loaded at their first use.
#[derive(Default)]
pub(super) struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    kernels: HashMap<&'static str, Function>,
    /// What was launched last, which an error that comes to light later is likely about.
    pub latest: Option<Latest>,
}

pub(super) enum Latest {
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
    pub(super) fn open(ordinal: usize) -> Result<Self> {
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
        let description = describe(ordinal)
            .and_then(|description| description.check_generation().map(|()| description))
            .map_err(|why| absent(why.to_string()))?;
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
    pub(super) fn enter(&self) -> Result<()> {
        self.context
            .enter()
            .map_err(|refusal| self.failed("entering its context", refusal))
    }

    pub(super) fn loaded(&self) -> MutexGuard<'_, Loaded> {
        lock(&self.loaded)
    }

    pub(super) fn failed(&self, operation: &str, refusal: Refusal) -> DriverError {
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
    pub(super) fn refused(
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
    pub(super) fn function(
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

    pub(super) fn synchronize(&self, operation: &str) -> Result<()> {
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|refusal| self.failed(operation, refusal))
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
