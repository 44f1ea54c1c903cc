//! Runs kernels on the processor, for tests and development without a GPU.
//!
//! The kernels' own sources, compiled by the host's compiler against `kernels/emulator/device.h`: every
//! access to memory is checked and counted there. Here are the memory, and the threads: fibers that run
//! until they end or wait for one another. What a kernel does wrong is a [`Fault`].

mod block;
pub(in crate::backend::cuda) mod bridge;
pub(super) mod fault;
pub(super) mod memory;
mod order;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use self::block::{LaunchPlan, Worker};
pub use self::bridge::{Counters, Emulated, RawField, RawFields, check_layout};
pub use self::fault::{Access, Fault, Space};
use self::memory::Memory;
pub use self::order::Order;
use super::arguments::{Address, RawArguments};
use super::device::Device;
use super::error::{DriverError, Result};
use super::interface::Driver;
use super::kernel::Kernel;
use super::launch::{Launch, Work};
use super::lock::lock;

/// Shared memory that a block can have, if nothing else is said, in bytes: that of compute capability 9.0
/// and 10.0. Others have less, down to 99 KiB; kernels choose their plan by the device.
pub(super) const SHARED_LIMIT: u32 = 227 * 1024;

/// Launches of fewer threads than this run on the calling thread alone.
const WORTH_SHARING: u64 = 4096;

/// What a kernel did, over all its launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub launches: u64,
    /// What the launches said that they cannot do without.
    pub needed: Work,
    pub done: Counters,
}

/// How an [`Emulator`] runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Every launch runs in each of these orders, from the same memory, and must leave the same: where it
    /// does not, threads race.
    pub orders: Vec<Order>,
    /// Memory of the device in bytes.
    pub memory: u64,
    /// Runs one block in so many, evenly spread, and counts each as that many: what large launches do, in
    /// a fraction of the time. Results are then meaningless, and memory counts as written.
    pub sample: u32,
    /// Shared memory that a block can have, in bytes.
    pub shared_limit: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            orders: vec![Order::Forward],
            memory: u64::MAX,
            sample: 1,
            shared_limit: SHARED_LIMIT,
        }
    }
}

/// A device that the processor plays.
#[derive(Clone)]
pub struct Emulator {
    state: Arc<State>,
    device: Device,
}

struct State {
    orders: Vec<Order>,
    sample: u32,
    shared_limit: u32,
    memory: Mutex<Memory>,
    counts: Mutex<BTreeMap<&'static str, Counts>>,
}

impl Emulator {
    /// # Errors
    /// The processor lacks instructions that the kernels are compiled for.
    pub fn new(options: Options) -> Result<Self> {
        #[cfg(target_arch = "x86_64")]
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return Err(DriverError::Failed {
                device: "emulator".to_owned(),
                operation: "start".to_owned(),
                cause: "this processor has no AVX2 and FMA".to_owned(),
            });
        }
        let state = Arc::new(State {
            orders: options.orders,
            sample: options.sample.max(1),
            shared_limit: options.shared_limit,
            memory: Mutex::new(Memory::new(options.memory)),
            counts: Mutex::default(),
        });
        Ok(Emulator {
            device: Device::new(state.clone()),
            state,
        })
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// What every kernel did since the start, or since the last call.
    pub fn take_counts(&self) -> BTreeMap<&'static str, Counts> {
        std::mem::take(&mut lock(&self.state.counts))
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> &Mutex<Memory> {
        &self.state.memory
    }

    /// Takes the counts, and fails unless every kernel did the multiply-adds that its launches said, and
    /// asked for no less memory.
    #[cfg(test)]
    pub(crate) fn assert_work_is_done(&self) {
        let counts = self.take_counts();
        assert!(!counts.is_empty());
        for (kernel, Counts { needed, done, .. }) in counts {
            assert_eq!(done.multiply_adds, needed.multiply_adds, "{kernel}");
            let bytes = done.global_read + done.global_written;
            assert!(needed.bytes > 0, "{kernel} needs nothing");
            assert!(bytes >= needed.bytes, "{kernel}: {bytes} < {needed:?}");
        }
    }
}

impl Driver for State {
    fn name(&self) -> &str {
        "emulator"
    }

    fn free_bytes(&self) -> Option<u64> {
        lock(&self.memory).free_bytes()
    }

    fn multiprocessors(&self) -> u32 {
        pool().map_or(1, |pool| pool.current_num_threads() as u32)
    }

    fn shared_limit(&self) -> u32 {
        self.shared_limit
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let mut memory = lock(&self.memory);
        let address = memory
            .allocate(bytes)
            .ok_or_else(|| DriverError::OutOfMemory {
                device: self.name().to_owned(),
                bytes,
            })?;
        if self.sample > 1 {
            memory.zero(address, bytes);
        }
        Ok(address)
    }

    fn free(&self, address: Address) {
        lock(&self.memory).free(address);
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<()> {
        lock(&self.memory).write(bytes, to);
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        lock(&self.memory)
            .read(from, bytes)
            .map_err(|fault| DriverError::Failed {
                device: self.name().to_owned(),
                operation: "download".to_owned(),
                cause: fault.to_string(),
            })
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        lock(&self.memory).zero(at, bytes);
        Ok(())
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Result<()> {
        let refuse = |cause: String| DriverError::Launch {
            device: self.name().to_owned(),
            kernel: kernel.name,
            launch,
            cause,
        };
        if launch.shared > self.shared_limit {
            return Err(refuse(format!(
                "a block has at most {} bytes of shared memory",
                self.shared_limit
            )));
        }
        kernel.emulated.check(arguments.layout).map_err(refuse)?;
        let mut memory = lock(&self.memory);
        let fault = |fault: Fault| DriverError::Fault {
            kernel: kernel.name,
            launch,
            fault: Box::new(fault),
        };
        let blocks = launch.grid.iter().product::<u32>();
        let run = blocks.div_ceil(self.sample);
        let (&first, others) = self.orders.split_first().unwrap_or((&Order::Forward, &[]));
        let before = (!others.is_empty()).then(|| memory.clone());
        let execute = |memory: &Memory, order: Order| {
            let blocks = sample(order.of(blocks), run);
            let plan = LaunchPlan::new(kernel, launch, arguments, memory, order);
            execute(&plan, launch.block, &blocks).map_err(fault)
        };
        let done = execute(&memory, first)?.of_more(blocks, run);
        for &other in others {
            let again = before.clone().expect("taken where there are others");
            execute(&again, other)?;
            if let Some(address) = memory.difference(&again) {
                return Err(fault(Fault::Race {
                    first,
                    other,
                    address,
                }));
            }
        }
        drop(before);
        let mut counts = lock(&self.counts);
        let counts = counts.entry(kernel.name).or_default();
        counts.launches += 1;
        counts.needed += launch.work;
        counts.done += done;
        memory.settle();
        Ok(())
    }
}

/// The threads that run blocks; `None` where the system gives none.
///
/// They do nothing else, and threads of other pools run their blocks themselves: who waits for a launch
/// holds the device's memory, and must neither be given other work meanwhile that wants it too, nor wait
/// for threads that do.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let build = || ThreadPoolBuilder::new().build().ok();
    POOL.get_or_init(build).as_ref()
}

/// `count` of the blocks, evenly spread.
pub(super) fn sample(blocks: Vec<u32>, count: u32) -> Vec<u32> {
    let (n, count) = (blocks.len(), count as usize);
    if count == n {
        return blocks;
    }
    (0..count)
        .map(|i| blocks[(2 * i + 1) * n / (2 * count)])
        .collect()
}

/// Runs the blocks, of `threads` threads each, on several threads of the machine where it is worth it.
fn execute(
    plan: &LaunchPlan<'_>,
    threads: u32,
    blocks: &[u32],
) -> std::result::Result<Counters, Fault> {
    let shared = blocks.len() as u64 * u64::from(threads) >= WORTH_SHARING;
    let pool = match shared && rayon::current_thread_index().is_none() {
        true => pool(),
        false => None,
    };
    let Some(pool) = pool else {
        return Worker::run(plan, blocks);
    };
    let part = blocks.len().div_ceil(pool.current_num_threads());
    let results: Vec<_> = pool.install(|| {
        let parts = blocks.par_chunks(part);
        parts.map(|blocks| Worker::run(plan, blocks)).collect()
    });
    let mut sum = Counters::default();
    for done in results {
        sum += done?;
    }
    Ok(sum)
}
