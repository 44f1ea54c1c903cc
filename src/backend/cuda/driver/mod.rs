//! The devices that run kernels, behind one small interface: [`Device`] and [`Buffer`].
//!
//! Two drivers stand behind it: [`nvidia`] (feature `cuda`) and [`emulator`] (feature `emulator`). All work
//! of a device is done in the order in which it is asked for; launches and uploads may return before
//! they are done, downloads do not.
//!
//! Device memory is not Rust's: a kernel that is given a wrong address or length fails, or computes
//! wrong numbers, but breaks no guarantee of the language. So launching is safe here.

#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
#[cfg(feature = "cuda")]
pub mod nvidia;
mod tally;

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

pub use self::error::DriverError;

/// A result with a [`DriverError`].
pub type Result<T> = std::result::Result<T, DriverError>;

/// A kernel of the table `backend::cuda::kernels`.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of the device's memory: every input read once, every output written once.
    pub bytes: u64,
    /// Multiply-adds of the arithmetic units, as `multiply_add` in the kernels' sources counts them.
    pub multiply_adds: u64,
    /// Multiply-adds of the matrix units.
    pub matrix_multiply_adds: u64,
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
    #[cfg(feature = "emulator")]
    layout: Layout,
    lifetime: PhantomData<&'a ()>,
}

/// What a device must be able to do. Addresses and lengths are within one allocation.
trait Driver: Send + Sync {
    fn name(&self) -> &str;
    fn free_bytes(&self) -> Option<u64>;
    fn shared_limit(&self) -> u32;
    fn allocate(&self, bytes: usize) -> Result<Address>;
    fn free(&self, address: Address);
    fn upload(&self, bytes: &[u8], to: Address) -> Result<()>;
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()>;
    fn zero(&self, at: Address, bytes: usize) -> Result<()>;
    fn launch(&self, kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Result<()>;
}

/// A GPU, or the emulator.
#[derive(Clone)]
pub struct Device {
    driver: Arc<dyn Driver>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Device {
    /// What `devices`, `run.json` and errors call it.
    pub fn name(&self) -> &str {
        self.driver.name()
    }

    /// Bytes of its memory that are free; `None` where that cannot be known.
    pub fn free_bytes(&self) -> Option<u64> {
        self.driver.free_bytes()
    }

    /// Bytes of shared memory that a block can have.
    pub fn shared_limit(&self) -> u32 {
        self.driver.shared_limit()
    }

    /// Memory for `len` elements, not yet written.
    pub fn allocate<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>());
        let bytes = bytes.ok_or_else(|| DriverError::OutOfMemory {
            device: self.name().to_owned(),
            bytes: usize::MAX,
        })?;
        Ok(Buffer {
            device: self.clone(),
            // No driver gives out nothing.
            address: self.driver.allocate(bytes.max(1))?,
            len,
            elements: PhantomData,
        })
    }

    /// Memory that holds `elements`.
    pub fn allocate_with<T: Pod>(&self, elements: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.allocate(elements.len())?;
        buffer.upload(elements, 0)?;
        Ok(buffer)
    }

    /// Launches a kernel.
    ///
    /// # Errors
    /// The arguments are not the kernel's, the launch has no blocks or more threads than the kernel
    /// allows, or the device refuses it. What goes wrong in the kernel itself may come to light at a
    /// later call; on the emulator it does at once.
    pub fn launch<A: Arguments>(
        &self,
        kernel: &Kernel,
        launch: Launch,
        arguments: &A,
    ) -> Result<()> {
        let refuse = |cause: String| {
            Err(DriverError::Launch {
                device: self.name().to_owned(),
                kernel: kernel.name,
                launch,
                cause,
            })
        };
        if A::NAME != kernel.arguments {
            return refuse(format!("it takes {}, not {}", kernel.arguments, A::NAME));
        }
        if launch.block == 0 || launch.block > kernel.threads {
            return refuse(format!("its blocks have 1 to {} threads", kernel.threads));
        }
        let [x, y, z] = launch.grid;
        if x == 0 || x > i32::MAX as u32 || [y, z].iter().any(|&n| n == 0 || n > 65_535) {
            return refuse("a grid has 1 to 2147483647 × 65535 × 65535 blocks".to_owned());
        }
        let arguments = RawArguments {
            data: std::ptr::from_ref(arguments).cast(),
            #[cfg(feature = "emulator")]
            layout: A::LAYOUT,
            lifetime: PhantomData,
        };
        self.driver.launch(kernel, launch, arguments)
    }
}

/// Elements in a device's memory; freed when dropped.
#[derive(Debug)]
pub struct Buffer<T> {
    device: Device,
    address: Address,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where element `index` lies, for a kernel's arguments; `index` may be the length.
    ///
    /// # Panics
    /// `index` is beyond the buffer.
    pub fn at(&self, index: usize) -> Address {
        assert!(
            index <= self.len,
            "{index} is beyond a buffer of {}",
            self.len
        );
        self.address.offset(index * size_of::<T>())
    }

    /// Where elements `first .. first + len` lie; drivers are not asked to move none.
    fn range(&self, first: usize, len: usize) -> Result<Address> {
        let end = first.saturating_add(len);
        if end <= self.len {
            return Ok(self.at(first));
        }
        Err(DriverError::Range {
            device: self.device.name().to_owned(),
            first,
            end,
            len: self.len,
        })
    }

    /// Writes elements from `first` on.
    pub fn upload(&mut self, elements: &[T], first: usize) -> Result<()> {
        let to = self.range(first, elements.len())?;
        if elements.is_empty() {
            return Ok(());
        }
        let bytes = bytemuck::cast_slice(elements);
        self.device.driver.upload(bytes, to)
    }

    /// Elements `first .. first + len`, once all that was asked for before is done.
    pub fn download(&self, first: usize, len: usize) -> Result<Vec<T>> {
        let from = self.range(first, len)?;
        if len == 0 {
            return Ok(vec![]);
        }
        let mut elements = vec![T::zeroed(); len];
        let bytes = bytemuck::cast_slice_mut(&mut elements);
        self.device.driver.download(from, bytes)?;
        Ok(elements)
    }

    /// Sets all bytes to zero.
    pub fn zero(&mut self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let bytes = self.len * size_of::<T>();
        self.device.driver.zero(self.address, bytes)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.device.driver.free(self.address);
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

/// What tests run on: the emulator in three orders, where this build has it, and the machine's GPUs.
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
    if super::kernels::NVCC.is_some() {
        let gpus = (0..nvidia::device_count()).map(Device::nvidia);
        devices.extend(gpus.map(|gpu| gpu.expect("a GPU that works")));
    }
    if devices.is_empty() {
        println!("skipped: no GPU, and no emulator in this build (--features emulator)");
    }
    devices
}
