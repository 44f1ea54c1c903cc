//! The devices that run kernels, behind one small interface: [`Device`] and [`Buffer`].
//!
//! Two drivers stand behind it: [`nvidia`] (feature `cuda`) and [`emulator`] (feature `emulator`). All work
//! of a device is done in the order in which it is asked for; launches and uploads may return before
//! they are done, downloads do not. Launches that are repeated are recorded once, as a [`Graph`];
//! what a device spends its time with is told by a [`Profile`].
//!
//! Device memory is not Rust's: a kernel that is given a wrong address or length fails, or computes
//! wrong numbers, but breaks no guarantee of the language. So launching is safe here.

mod device;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
mod graph;
#[cfg(feature = "cuda")]
pub mod nvidia;
#[cfg(feature = "cuda")]
mod nvtx;
mod profile;
mod profiler;
mod tally;
#[cfg(all(test, feature = "emulator"))]
mod tests;

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::device::{Buffer, Device};
pub use self::error::DriverError;
pub use self::graph::Graph;
use self::graph::{Executable, Recorded};
pub use self::profile::{Kind, Peak, PhaseTotal, Profile, Total};
use self::profiler::{HostTimeline, Timeline};
pub use self::profiler::{Phase, Profiling};

/// A result with a [`DriverError`].
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

/// What a panic elsewhere left behind is whole: every change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    pub emulated: emulator::Emulated,
}

/// The kernels of one source file.
pub struct Module {
    pub name: &'static str,
    /// Machine code for several GPUs; `None` where the build had no nvcc.
    pub image: Option<&'static [u8]>,
    /// What ptxas said of it.
    pub report: &'static str,
}

/// What a launch cannot do without, whatever its kernel is like: profiles and the cost model hold its
/// time against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Work {
    /// Bytes of the device's memory: every input read once, every output written once.
    pub bytes: u64,
    /// Multiply-adds of the arithmetic units, as `multiply_add` in the kernels' sources counts them.
    pub multiply_adds: u64,
    /// Multiply-adds of the matrix units.
    pub matrix_multiply_adds: u64,
}

impl Work {
    /// So many times that.
    pub fn times(self, n: u32) -> Work {
        let n = u64::from(n);
        Work {
            bytes: n * self.bytes,
            multiply_adds: n * self.multiply_adds,
            matrix_multiply_adds: n * self.matrix_multiply_adds,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.multiply_adds += other.multiply_adds;
        self.matrix_multiply_adds += other.matrix_multiply_adds;
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory: see [`shared_bytes`].
    pub shared: u32,
    /// What is done.
    pub work: Work,
}

impl Launch {
    /// `block` threads a block and no shared memory.
    pub fn new(grid: [u32; 3], block: u32) -> Self {
        Launch {
            grid,
            block,
            shared: 0,
            work: Work::default(),
        }
    }

    /// With this work.
    pub fn doing(self, work: Work) -> Self {
        Launch { work, ..self }
    }

    /// With shared memory.
    pub fn with_shared(self, shared: u32) -> Self {
        Launch { shared, ..self }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(
            f,
            "({x}×{y}×{z} blocks of {} threads, {} bytes shared)",
            self.block, self.shared
        )
    }
}

/// Shared memory for pieces of these sizes in bytes, as the kernels' `SharedMemory` hands them out.
pub fn shared_bytes(pieces: impl IntoIterator<Item = usize>) -> u32 {
    let bytes: usize = pieces
        .into_iter()
        .map(|bytes| bytes.next_multiple_of(16))
        .sum();
    // More than a chip has is refused at the launch.
    bytes.try_into().unwrap_or(u32::MAX)
}

/// A place in a device's memory, as kernels' arguments have it: `Buffer<T>` in their sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// So many bytes further on.
    pub fn offset(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// A field of a struct that kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub bytes: usize,
}

/// The layout of a struct that kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub fields: &'static [Field],
    /// The struct's size.
    pub bytes: usize,
}

/// An argument struct of a kernel, or a struct that kernels read from memory; made by `arguments!`.
pub trait Arguments: Copy + 'static {
    /// The struct's name in the kernel's source.
    const NAME: &'static str;
    /// To hold against the kernel's.
    const LAYOUT: Layout;
}

/// Declares structs as the kernels' sources have them, field by field in the same order.
macro_rules! arguments {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        $vis struct $name {
            $($field: $type),*
        }

        impl $crate::backend::cuda::driver::Arguments for $name {
            const NAME: &'static str = stringify!($name);
            const LAYOUT: $crate::backend::cuda::driver::Layout =
                $crate::backend::cuda::driver::Layout {
                    fields: &[$($crate::backend::cuda::driver::Field {
                        name: stringify!($field),
                        offset: std::mem::offset_of!($name, $field),
                        bytes: size_of::<$type>(),
                    }),*],
                    bytes: size_of::<$name>(),
                };
        }
    )*};
}
pub(crate) use arguments;

/// Arguments on their way to a driver.
#[derive(Clone, Copy)]
struct RawArguments<'a> {
    data: *const c_void,
    layout: Layout,
    lifetime: PhantomData<&'a ()>,
}

/// What a device must be able to do. Addresses and lengths are within one allocation.
trait Driver: Send + Sync {
    fn name(&self) -> &str;
    fn free_bytes(&self) -> Option<u64>;
    /// Units that each run blocks of their own; at least 1.
    fn multiprocessors(&self) -> u32;
    /// The most dynamic shared memory of a block, in bytes.
    fn shared_limit(&self) -> u32;
    fn peak(&self) -> Peak {
        Peak::default()
    }
    fn allocate(&self, bytes: usize) -> Result<Address>;
    fn free(&self, address: Address);
    fn upload(&self, bytes: &[u8], to: Address) -> Result<()>;
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;
    fn zero(&self, at: Address, bytes: usize) -> Result<()>;
    fn launch(&self, kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Result<()>;
    /// Prepares launches that will be repeated; `None` where they are launched one by one.
    fn prepare(self: Arc<Self>, launches: &[Recorded]) -> Result<Option<Box<dyn Executable>>> {
        let _ = launches;
        Ok(None)
    }
    /// Starts to measure when work begins and ends: by the host's clock, unless work goes on after a
    /// call has returned.
    fn timeline(self: Arc<Self>) -> Result<Box<dyn Timeline>> {
        Ok(Box::new(HostTimeline::new()))
    }
}

/// A struct's name and layout, for [`assert_mirrored`].
#[cfg(all(test, feature = "emulator"))]
pub(crate) fn mirror<A: Arguments>() -> (&'static str, Layout) {
    (A::NAME, A::LAYOUT)
}

/// Fails unless every struct of the kernels' sources has a mirror of the same layout.
#[cfg(all(test, feature = "emulator"))]
pub(crate) fn assert_mirrored(
    kernels: &[&[(&str, emulator::RawFields)]],
    mirrors: &[(&str, Layout)],
) {
    for &(name, fields) in kernels.iter().copied().flatten() {
        let mirror = mirrors.iter().find(|mirror| mirror.0 == name);
        let (_, layout) = mirror.unwrap_or_else(|| panic!("{name} has no mirror"));
        emulator::check_layout(fields, *layout).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// What tests run on: the emulator in three orders, where this build has it, and the machine's GPUs;
/// with `BACKSTITCH_TEST_GPU=require` a machine without one fails.
#[cfg(test)]
pub(crate) fn test_devices() -> Vec<Device> {
    let mut devices = vec![];
    #[cfg(feature = "emulator")]
    {
        use self::emulator::{Emulator, Options, Order};
        let options = Options {
            orders: vec![Order::Forward, Order::Reverse, Order::Shuffled(1)],
            ..Options::default()
        };
        devices.push(
            Emulator::new(options)
                .expect("a processor for the emulator")
                .device(),
        );
    }
    #[cfg(feature = "cuda")]
    {
        let gpus = (0..nvidia::device_count()).map(Device::nvidia);
        devices.extend(gpus.map(|gpu| gpu.expect("a GPU that works")));
    }
    let required = std::env::var_os("BACKSTITCH_TEST_GPU").is_some_and(|value| value == "require");
    let gpu = |device: &Device| device.name().starts_with("cuda");
    assert!(!required || devices.iter().any(gpu), "no GPU to test on");
    if devices.is_empty() {
        println!("skipped: no GPU, and no emulator in this build (--features emulator)");
    }
    devices
}
