//! A device that only adds up what is asked of it: what an engine would take.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::arguments::{Address, RawArguments};
use super::device::Device;
use super::error::Result;
use super::interface::Driver;
use super::kernel::Kernel;
use super::launch::Launch;
use super::lock::lock;

/// What was asked of a device.
pub(crate) struct Tally {
    /// Allocated in all.
    bytes: AtomicU64,
    /// By kernel, the launch with the most shared memory, and of those the one with the most threads.
    launches: Mutex<BTreeMap<&'static str, Launch>>,
    shared_limit: u32,
}

impl Device {
    /// A device without memory, and what is asked of it. Its blocks have that much shared memory, on which
    /// depends what an engine asks for.
    pub(crate) fn tally(shared_limit: u32) -> (Device, Arc<Tally>) {
        let tally = Arc::new(Tally {
            bytes: AtomicU64::new(0),
            launches: Mutex::default(),
            shared_limit,
        });
        (Device::new(tally.clone()), tally)
    }
}

impl Tally {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Of every kernel that was launched, the launch with the most shared memory.
    #[cfg(test)]
    pub(crate) fn launches(&self) -> BTreeMap<&'static str, Launch> {
        lock(&self.launches).clone()
    }
}

impl Driver for Tally {
    fn name(&self) -> &str {
        "tally"
    }
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    fn multiprocessors(&self) -> u32 {
        1
    }
    fn shared_limit(&self) -> u32 {
        self.shared_limit
    }
    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Address(0))
    }
    fn free(&self, _: Address) {}
    fn upload(&self, _: &[u8], _: Address) -> Result<()> {
        Ok(())
    }
    fn download(&self, _: Address, _: &mut [u8]) -> Result<()> {
        Ok(())
    }
    fn zero(&self, _: Address, _: usize) -> Result<()> {
        Ok(())
    }
    fn launch(&self, kernel: &Kernel, launch: Launch, _: RawArguments<'_>) -> Result<()> {
        let mut launches = lock(&self.launches);
        let largest = launches.entry(kernel.name).or_insert(launch);
        *largest = std::cmp::max_by_key(*largest, launch, |launch| (launch.shared, launch.block));
        Ok(())
    }
}
