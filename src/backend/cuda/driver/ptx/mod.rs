//! Runs the kernels as nvcc leaves them, on the processor: an interpreter of their PTX, for tests.
//!
//! Where the emulator runs the kernels' sources, this runs the compiler's work: its instructions for matrices,
//! its asynchronous copies, its library functions, and whatever its optimizer made of the rest. Memory is the
//! emulator's, and so is what is found wrong: accesses out of bounds or misaligned, reads of what was never
//! written, lanes that do not meet where they must. Races are found in one run, by who used which word since
//! the last barrier.

mod access;
mod arithmetic;
mod block;
mod cost;
mod meter;
mod program;
mod race;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod twins;
mod warp;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use self::access::{Reach, WORD};
use self::block::Failed;
pub use self::meter::Issued;
use self::meter::Meter;
use self::program::Program;
use self::race::Touch;
use super::arguments::{Address, RawArguments};
use super::device::Device;
use super::emulator::bridge::OFFSET_BITS;
use super::emulator::memory::Memory;
use super::emulator::{Options, SHARED_LIMIT, sample};
use super::error::{DriverError, Result};
use super::interface::Driver;
use super::kernel::{Kernel, Module};
use super::launch::Launch;
use super::lock::lock;

/// What errors and `run.json` call it.
const NAME: &str = "ptx";

/// The device: one thread of the machine runs its blocks.
struct Ptx {
    state: Mutex<State>,
    /// As the emulator's: one block in so many runs, and a block's shared memory at most.
    sample: u32,
    shared_limit: u32,
}

/// What the blocks of a launch have, by which a multiprocessor holds some of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockShape {
    pub threads: u32,
    /// Bytes of shared memory.
    pub shared: u32,
}

/// What every kernel issued, by the shape of its blocks.
pub type IssuedByKernel = BTreeMap<(&'static str, BlockShape), Issued>;

struct State {
    memory: Memory,
    /// Who used which word, by allocation.
    touches: Vec<Vec<Touch>>,
    launches: u32,
    /// Where it counts.
    issued: Option<IssuedByKernel>,
}

/// The interpreter, which counts what warps issue.
pub struct Metered {
    ptx: Arc<Ptx>,
    device: Device,
}

impl Metered {
    /// With the emulator's options; it has no orders and no bound of memory.
    ///
    /// # Errors
    /// As of [`Device::ptx`].
    pub fn new(options: &Options) -> Result<Self> {
        let state = State {
            issued: Some(BTreeMap::new()),
            ..State::new()
        };
        let ptx = Arc::new(Ptx {
            state: Mutex::new(state),
            sample: options.sample.max(1),
            shared_limit: options.shared_limit,
        });
        check()?;
        Ok(Metered {
            device: Device::new(ptx.clone()),
            ptx,
        })
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// What was issued since the start, or since the last call.
    pub fn take_issued(&self) -> IssuedByKernel {
        let mut state = lock(&self.ptx.state);
        state
            .issued
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }
}

impl Device {
    /// A device that interprets the kernels' PTX on the processor.
    ///
    /// # Errors
    /// The build had no nvcc, or the processor lacks instructions that the interpreter is compiled for.
    pub fn ptx() -> Result<Device> {
        check()?;
        Ok(Device::new(Arc::new(Ptx::new())))
    }
}

/// Whether the interpreter can run.
fn check() -> Result<()> {
    if crate::backend::cuda::kernels::NVCC.is_none() {
        return Err(DriverError::NoKernels {
            device: NAME.to_owned(),
        });
    }
    #[cfg(target_arch = "x86_64")]
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        return Err(failed("start", "this processor has no AVX2 and FMA"));
    }
    Ok(())
}

impl Ptx {
    /// One that runs all blocks.
    fn new() -> Self {
        Ptx {
            state: Mutex::new(State::new()),
            sample: 1,
            shared_limit: SHARED_LIMIT,
        }
    }
}

impl State {
    fn new() -> Self {
        State {
            memory: Memory::new(u64::MAX),
            touches: vec![],
            launches: 0,
            issued: None,
        }
    }

    /// Runs one block in `each` of a kernel.
    fn run(
        &mut self,
        kernel: &'static str,
        program: &Program,
        launch: Launch,
        parameters: &[u8],
        each: u32,
    ) -> Result<(), Failed> {
        self.launches += 1;
        let warps = launch.block.div_ceil(32) as usize;
        let meter = self.issued.is_some().then(|| Meter::new(program, warps));
        let words = launch.shared as usize / WORD;
        let mut reach = Reach {
            memory: &mut self.memory,
            touches: &mut self.touches,
            shared: vec![0; words * WORD],
            shared_touches: vec![Touch::NONE; words],
            block: [0; 3],
            launch: self.launches,
            number: 0,
            epoch: 0,
            meter,
        };
        let all = launch.grid.iter().product::<u32>();
        let some = all.div_ceil(each);
        let blocks = sample((0..all).collect(), some);
        // SAFETY: who opened the device has seen that the processor has the instructions.
        #[allow(unused_unsafe, reason = "other processors need none")]
        let done = unsafe { block::run(program, launch, parameters, blocks, &mut reach) };
        let issued = reach.meter.map(|meter| meter.issued());
        if let (Some(sum), Some(issued)) = (&mut self.issued, issued) {
            let shape = BlockShape {
                threads: launch.block,
                shared: launch.shared,
            };
            let sum = sum.entry((kernel, shape)).or_default();
            *sum += issued.times(f64::from(all) / f64::from(some));
        }
        self.memory.settle();
        done
    }
}

fn failed(operation: impl Into<String>, cause: impl ToString) -> DriverError {
    DriverError::Failed {
        device: NAME.to_owned(),
        operation: operation.into(),
        cause: cause.to_string(),
    }
}

impl Driver for Ptx {
    fn name(&self) -> &str {
        NAME
    }

    fn free_bytes(&self) -> Option<u64> {
        lock(&self.state).memory.free_bytes()
    }

    fn multiprocessors(&self) -> u32 {
        // As the emulator's, so that work is split in the same way.
        rayon::current_num_threads() as u32
    }

    fn shared_limit(&self) -> u32 {
        self.shared_limit
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let memory = &mut lock(&self.state).memory;
        let allocated = memory.allocate(bytes);
        let address = allocated.ok_or_else(|| DriverError::OutOfMemory {
            device: NAME.to_owned(),
            bytes,
        })?;
        if self.sample > 1 {
            memory.zero(address, bytes);
        }
        Ok(address)
    }

    fn free(&self, address: Address) {
        let mut state = lock(&self.state);
        let number = (address.0 >> OFFSET_BITS) as usize;
        if let Some(touches) = state.touches.get_mut(number) {
            *touches = vec![];
        }
        state.memory.free(address);
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<()> {
        lock(&self.state).memory.write(bytes, to);
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        let read = lock(&self.state).memory.read(from, bytes);
        read.map_err(|fault| failed("download", fault))
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        lock(&self.state).memory.zero(at, bytes);
        Ok(())
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Result<()> {
        let refuse = |cause: String| DriverError::Launch {
            device: NAME.to_owned(),
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
        let programs = programs(kernel.module).map_err(refuse)?;
        let program = programs.get(kernel.name);
        let program = program.ok_or_else(|| refuse("its PTX has no such kernel".to_owned()))?;
        let (bytes, threads) = (arguments.layout.bytes, program.threads);
        if (bytes, kernel.threads) != (program.parameter_bytes, threads) {
            return Err(refuse(format!(
                "its PTX takes {} bytes and at most {threads} threads, not {bytes} and {}",
                program.parameter_bytes, kernel.threads
            )));
        }
        let mut parameters = vec![0; bytes];
        for field in arguments.layout.fields {
            let bytes = field.offset..field.offset + field.bytes;
            // SAFETY: `data` points to a struct with this layout, whose fields are initialized.
            let from = unsafe {
                std::slice::from_raw_parts(
                    arguments.data.cast::<u8>().add(field.offset),
                    field.bytes,
                )
            };
            parameters[bytes].copy_from_slice(from);
        }

        let done = lock(&self.state).run(kernel.name, program, launch, &parameters, self.sample);
        done.map_err(|Failed { line, fault }| {
            let operation = format!("{} {launch}, line {line} of its PTX", kernel.name);
            failed(operation, fault)
        })
    }
}

type Programs = HashMap<String, Program>;

/// The kernels of a module, read when the first is wanted.
fn programs(module: &Module) -> Result<Arc<Programs>, String> {
    static READ: Mutex<Option<HashMap<&str, Arc<Programs>>>> = Mutex::new(None);
    let text = module.ptx.ok_or("this build has no PTX of it")?;
    let mut read = lock(&READ);
    let read = read.get_or_insert_default();
    if let Some(programs) = read.get(module.name) {
        return Ok(programs.clone());
    }
    let programs = Arc::new(decode(text)?);
    read.insert(module.name, programs.clone());
    Ok(programs)
}

/// The kernels of a text.
///
/// # Errors
/// What is not understood, with its kernel and line.
fn decode(text: &str) -> Result<Programs, String> {
    let programs = text::parse(text)?.into_iter().map(|entry| {
        let program = Program::new(&entry)?;
        Ok((entry.name.to_owned(), program))
    });
    programs.collect()
}
