//! Runs kernels on the processor, for tests and development without a GPU.
//!
//! The kernels' own sources, compiled by the host's compiler against `kernels/emulator/device.h`: every
//! access to memory is checked and counted there. Here are the memory, and the threads: fibers that run
//! until they end or wait for one another. What a kernel does wrong is a [`Fault`].

mod block;
mod bridge;
mod fault;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use self::block::{Plan, Worker};
pub use self::bridge::{Counters, Emulated, RawField, RawFields, check_layout};
pub use self::fault::{Access, Fault, Space};
use self::memory::Memory;
use super::{Address, Device, Driver, DriverError, Kernel, Launch, RawArguments, Result};
use crate::random::philox;

/// Shared memory that a block can have on any of the chips we compile for, in bytes (compute capability
/// 8.6's 99 KiB is the least, but kernels choose their plan by the chip; 9.0 and 10.0 have 227 KiB).
const SHARED_LIMIT: u32 = 227 * 1024;

/// Launches of fewer threads than this run on the calling thread alone.
const WORTH_SHARING: u64 = 4096;

/// The order in which a block's threads, and a grid's blocks, run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By their numbers.
    Forward,
    /// The last one first.
    Reverse,
    /// At random, from a seed.
    Shuffled(u32),
}

impl Order {
    /// `0..n` in this order.
    fn of(self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        match self {
            Order::Forward => {}
            Order::Reverse => order.reverse(),
            Order::Shuffled(seed) => order.sort_by_key(|&i| philox([i, 0, 0, 0], [seed, 0])[0]),
        }
        order
    }
}

/// What a kernel did, over all its launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub launches: u64,
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
}

impl Default for Options {
    fn default() -> Self {
        Options {
            orders: vec![Order::Forward],
            memory: u64::MAX,
        }
    }
}

/// A device that the processor plays.
#[derive(Clone)]
pub struct Emulator {
    state: Arc<State>,
}

struct State {
    orders: Vec<Order>,
    memory: Mutex<Memory>,
    counts: Mutex<BTreeMap<&'static str, Counts>>,
}

/// What a panic elsewhere left behind is whole: every change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        Ok(Emulator {
            state: Arc::new(State {
                orders: options.orders,
                memory: Mutex::new(Memory::new(options.memory)),
                counts: Mutex::default(),
            }),
        })
    }

    /// The device.
    pub fn device(&self) -> Device {
        Device {
            driver: self.state.clone(),
        }
    }

    /// What every kernel did since the start, or since the last call.
    pub fn take_counts(&self) -> BTreeMap<&'static str, Counts> {
        std::mem::take(&mut lock(&self.state.counts))
    }
}

impl Driver for State {
    fn name(&self) -> &str {
        "emulator"
    }

    fn free_bytes(&self) -> Option<u64> {
        lock(&self.memory).free_bytes()
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        lock(&self.memory)
            .allocate(bytes)
            .ok_or_else(|| DriverError::OutOfMemory {
                device: self.name().to_owned(),
                bytes,
            })
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
        if launch.shared > SHARED_LIMIT {
            return Err(refuse(format!(
                "a block has at most {SHARED_LIMIT} bytes of shared memory"
            )));
        }
        kernel.emulated.check(arguments.layout).map_err(refuse)?;
        let mut memory = lock(&self.memory);
        let fault = |fault| DriverError::Fault {
            kernel: kernel.name,
            launch,
            fault: Box::new(fault),
        };
        let (&first, others) = self.orders.split_first().unwrap_or((&Order::Forward, &[]));
        let before = (!others.is_empty()).then(|| memory.clone());
        let run = |memory: &Memory, order| {
            execute(kernel, launch, arguments, memory, order).map_err(fault)
        };
        let done = run(&memory, first)?;
        for &other in others {
            let again = before.clone().expect("taken where there are others");
            run(&again, other)?;
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

/// Runs all blocks, on several threads of the machine where it is worth it.
fn execute(
    kernel: &Kernel,
    launch: Launch,
    arguments: RawArguments<'_>,
    memory: &Memory,
    order: Order,
) -> std::result::Result<Counters, Fault> {
    let plan = Plan::new(kernel, launch, arguments, memory, order);
    let blocks = launch.grid.iter().product::<u32>();
    let blocks = order.of(blocks);
    let shared = blocks.len() as u64 * u64::from(launch.block) >= WORTH_SHARING;
    let pool = match shared && rayon::current_thread_index().is_none() {
        true => pool(),
        false => None,
    };
    let Some(pool) = pool else {
        return Worker::run(&plan, &blocks);
    };
    let part = blocks.len().div_ceil(pool.current_num_threads());
    let results: Vec<_> = pool.install(|| {
        let parts = blocks.par_chunks(part);
        parts.map(|blocks| Worker::run(&plan, blocks)).collect()
    });
    let mut sum = Counters::default();
    for done in results {
        sum += done?;
    }
    Ok(sum)
}
