//! Kernels, as the build found them.

#[cfg(feature = "emulator")]
use super::emulator::bridge::Emulated;

/// A kernel of the table `backend::cuda::kernels`.
#[derive(Clone, Copy)]
pub struct Kernel {
    pub name: &'static str,
    pub module: &'static Module,
    /// The largest block it may be launched with.
    pub threads: u32,
    /// The name of its argument struct.
    pub arguments: &'static str,
    /// The kernel on the host.
    #[cfg(feature = "emulator")]
    pub emulated: Emulated,
}

/// The kernels of one source file.
pub struct Module {
    pub name: &'static str,
    /// Machine code for several GPUs; `None` where the build had no nvcc.
    pub image: Option<&'static [u8]>,
    /// What ptxas said of it.
    pub report: &'static str,
    /// What nvcc made of it for every chip of compute capability 8.0 and above; `None` where the build had no nvcc.
    #[cfg(feature = "emulator")]
    pub ptx: Option<&'static str>,
}
