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
mod program;
mod race;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod twins;
mod warp;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use self::access::{Reach, WORD};
use self::block::Failed;
use self::program::Program;
use self::race::Touch;
use super::arguments::{Address, RawArguments};
use super::device::Device;
use super::emulator::SHARED_LIMIT;
use super::emulator::bridge::OFFSET_BITS;
use super::emulator::memory::Memory;
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
}

struct State {
    memory: Memory,
    /// Who used which word, by allocation.
    touches: Vec<Vec<Touch>>,
    launches: u32,
}

impl Device {
    /// A device that interprets the kernels' PTX on the processor.
    ///
    /// # Errors
    /// The build had no nvcc, or the processor lacks instructions that the interpreter is compiled for.
    pub fn ptx() -> Result<Device> {
        if crate::backend::cuda::kernels::NVCC.is_none() {
            return Err(DriverError::NoKernels {
                device: NAME.to_owned(),
            });
        }
        open()
    }
}

/// A device, also where there are no kernels for it.
fn open() -> Result<Device> {
    #[cfg(target_arch = "x86_64")]
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        return Err(failed("start", "this processor has no AVX2 and FMA"));
    }
    let state = Mutex::new(State::new());
    Ok(Device::new(Arc::new(Ptx { state })))
}

impl State {
    fn new() -> Self {
        State {
            memory: Memory::new(u64::MAX),
            touches: vec![],
            launches: 0,
        }
    }

    /// Runs a kernel.
    fn run(&mut self, program: &Program, launch: Launch, parameters: &[u8]) -> Result<(), Failed> {
        self.launches += 1;
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
        };
        // SAFETY: who opened the device has seen that the processor has the instructions.
        #[allow(unused_unsafe, reason = "other processors need none")]
        let done = unsafe { block::run(program, launch, parameters, &mut reach) };
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
        SHARED_LIMIT
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let allocated = lock(&self.state).memory.allocate(bytes);
        allocated.ok_or_else(|| DriverError::OutOfMemory {
            device: NAME.to_owned(),
            bytes,
        })
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
        if launch.shared > SHARED_LIMIT {
            return Err(refuse(format!(
                "a block has at most {SHARED_LIMIT} bytes of shared memory"
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

        let done = lock(&self.state).run(program, launch, &parameters);
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
