//! Recorded launches as a graph of the driver: a chain of kernels.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError as Refusal};
use cudarc::driver::sys;

use super::super::error::{DriverError, Result};
use super::super::recorded::{Executable, Recorded, describe};
use super::context::explain;
use super::gpu::{Latest, Nvidia};

/// A graph that is ready to be launched.
pub(super) struct Prepared {
    gpu: Arc<Nvidia>,
    executable: sys::CUgraphExec,
    kernels: Arc<str>,
}

// SAFETY: the driver's handles may be used from any thread; every use makes the context current first.
unsafe impl Send for Prepared {}
// SAFETY: concurrent launches wait for one another (`launch` holds the GPU's lock).
unsafe impl Sync for Prepared {}

impl Prepared {
    pub(super) fn new(gpu: Arc<Nvidia>, launches: &[Recorded]) -> Result<Self> {
        gpu.enter()?;
        let kernels: Arc<str> = describe(launches).into();
        let failed = |refusal| DriverError::Failed {
            device: gpu.name.clone(),
            operation: format!("making {kernels}"),
            cause: explain(refusal),
        };
        let graph = Template::new().map_err(failed)?;
        let mut previous = None;
        for recorded in launches {
            let mut loaded = gpu.loaded();
            let (kernel, launch) = (&recorded.kernel, recorded.launch);
            let function = gpu
                .function(&mut loaded, kernel, launch.shared)
                .map_err(|cause| gpu.refused(&loaded, kernel, launch, cause))?;
            let node = graph.add(function, recorded, previous);
            let node =
                node.map_err(|refusal| gpu.refused(&loaded, kernel, launch, explain(refusal)))?;
            previous = Some(node);
        }
        // SAFETY: the graph lives until the end of this function; what is made of it is its own.
        let executable =
            unsafe { result::graph::instantiate(graph.0, sys::CUgraphInstantiate_flags(0)) };
        Ok(Prepared {
            executable: executable.map_err(failed)?,
            gpu: gpu.clone(),
            kernels: kernels.clone(),
        })
    }
}

impl Executable for Prepared {
    fn launch(&self) -> Result<()> {
        self.gpu.enter()?;
        let mut loaded = self.gpu.loaded();
        // SAFETY: the graph and the stream live as long as this.
        let launched = unsafe { result::graph::launch(self.executable, self.gpu.stream) };
        if let Err(refusal) = launched {
            drop(loaded);
            let operation = format!("launch of {}", self.kernels);
            return Err(self.gpu.failed(&operation, refusal));
        }
        loaded.latest = Some(Latest::Graph(self.kernels.clone()));
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: made in `new`, and not used again; the driver lets launches that run end first.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}

/// What a graph is made from; destroyed when dropped.
struct Template(sys::CUgraph);

impl Template {
    fn new() -> std::result::Result<Self, Refusal> {
        let mut graph = MaybeUninit::uninit();
        // SAFETY: a graph is written where that succeeds.
        unsafe {
            sys::cuGraphCreate(graph.as_mut_ptr(), 0).result()?;
            Ok(Template(graph.assume_init()))
        }
    }

    /// Adds a launch that waits for the one before it.
    fn add(
        &self,
        function: sys::CUfunction,
        recorded: &Recorded,
        previous: Option<sys::CUgraphNode>,
    ) -> std::result::Result<sys::CUgraphNode, Refusal> {
        let mut parameters: [*mut c_void; 1] = [recorded.arguments().data.cast_mut()];
        let [x, y, z] = recorded.launch.grid;
        let node = sys::CUDA_KERNEL_NODE_PARAMS {
            func: function,
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: recorded.launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: recorded.launch.shared,
            kernelParams: parameters.as_mut_ptr(),
            extra: ptr::null_mut(),
            kern: ptr::null_mut(),
            ctx: ptr::null_mut(),
        };
        let before = previous.as_slice();
        let mut added = MaybeUninit::uninit();
        // SAFETY: graph, function and the node before are the driver's own; the arguments are the kernel's,
        // as for a launch, and are copied before the call returns.
        unsafe {
            sys::cuGraphAddKernelNode_v2(
                added.as_mut_ptr(),
                self.0,
                before.as_ptr(),
                before.len(),
                &node,
            )
            .result()?;
            Ok(added.assume_init())
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and not used again.
        let _ = unsafe { result::graph::destroy(self.0) };
    }
}
