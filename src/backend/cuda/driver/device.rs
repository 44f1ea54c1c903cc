//! A device, and memory on it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;

use super::arguments::{Address, Arguments, RawArguments};
use super::error::{DriverError, Result};
use super::interface::Driver;
use super::kernel::Kernel;
use super::launch::{Launch, Work};
use super::profile::{ActivityKind, Peak};
use super::profiler::{Activity, Profiler};
use super::recording;

/// A GPU, or the emulator.
#[derive(Clone)]
pub struct Device {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) profiler: Arc<Profiler>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Device {
    /// The device behind a driver.
    pub(super) fn new(driver: Arc<dyn Driver>) -> Self {
        Device {
            driver,
            profiler: Arc::default(),
        }
    }

    /// What `devices`, `run.json` and errors call it.
    pub fn name(&self) -> &str {
        self.driver.name()
    }

    /// Bytes of its memory that are free; `None` where that cannot be known.
    pub fn free_bytes(&self) -> Option<u64> {
        self.driver.free_bytes()
    }

    /// How many units run blocks beside one another: the chip's multiprocessors, or the emulator's
    /// threads; at least 1.
    pub fn multiprocessors(&self) -> u32 {
        self.driver.multiprocessors()
    }

    /// What it can do at most.
    pub fn peak(&self) -> Peak {
        self.driver.peak()
    }

    /// The most dynamic shared memory that a block can have, in bytes.
    pub fn shared_limit(&self) -> u32 {
        self.driver.shared_limit()
    }

    /// Memory for `len` elements, not yet written.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`]; [`DriverError::Recording`] while a graph is recorded.
    pub fn allocate<T: Pod>(&self, len: usize) -> Result<Buffer<T>> {
        recording::refuse(&self.driver, "allocation")?;
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
    /// later call; on the emulator it does at once. Where it is only recorded ([`Device::record`]),
    /// the device refuses it when the recording ends.
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
            layout: A::LAYOUT,
            lifetime: PhantomData,
        };
        if recording::record(&self.driver, kernel, launch, arguments) {
            return Ok(());
        }
        self.submit(kernel, launch, arguments)
    }

    /// Launches what was checked.
    pub(super) fn submit(
        &self,
        kernel: &Kernel,
        launch: Launch,
        arguments: RawArguments<'_>,
    ) -> Result<()> {
        let activity = Activity {
            name: kernel.name,
            kind: ActivityKind::Kernel,
            work: launch.work,
            launch: Some(launch),
        };
        self.profiler
            .time(activity, || self.driver.launch(kernel, launch, arguments))
    }

    /// Moves or sets bytes of memory.
    fn transfer(
        &self,
        name: &'static str,
        bytes: usize,
        run: impl FnOnce(&dyn Driver) -> Result<()>,
    ) -> Result<()> {
        recording::refuse(&self.driver, name)?;
        let activity = Activity {
            name,
            kind: ActivityKind::Transfer,
            work: Work {
                bytes: bytes as u64,
                ..Work::default()
            },
            launch: None,
        };
        self.profiler.time(activity, || run(&*self.driver))
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

    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
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
        let device = &self.device;
        device.transfer("upload", bytes.len(), |driver| driver.upload(bytes, to))
    }

    /// Elements `first .. first + len`, once all that was asked for before is done.
    pub fn download(&self, first: usize, len: usize) -> Result<Vec<T>> {
        let from = self.range(first, len)?;
        if len == 0 {
            return Ok(vec![]);
        }
        let mut elements = vec![T::zeroed(); len];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut elements);
        let device = &self.device;
        device.transfer("download", bytes.len(), |driver| {
            driver.download(from, bytes)
        })?;
        Ok(elements)
    }

    /// Sets all bytes to zero.
    pub fn zero(&mut self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let bytes = self.len * size_of::<T>();
        let device = &self.device;
        device.transfer("zeroing", bytes, |driver| driver.zero(self.address, bytes))
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.device.driver.free(self.address);
    }
}
