//! What stands behind a [`Device`](super::Device).

use std::sync::Arc;

use super::arguments::{Address, RawArguments};
use super::error::Result;
use super::kernel::Kernel;
use super::launch::Launch;
use super::profile::Peak;
use super::recorded::{Executable, Recorded};
use super::timeline::{HostTimeline, Timeline};

/// What a device must be able to do. Addresses and lengths are within one allocation.
pub(super) trait Driver: Send + Sync {
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
