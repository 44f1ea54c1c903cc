//! The interpreter beside the emulator, for tests: whatever is asked goes to both, and after every launch their
//! memories must hold the same bits.
//!
//! The order of a matrix unit's additions is its own, and the host's library rounds its functions otherwise than
//! the device's, which approximate powers and reciprocals. After launches of kernels that do so the emulator goes
//! on from the interpreter's memory: what they computed is for the test's own tolerances to judge, and what
//! follows is compared again.

use std::sync::{Arc, Mutex};

use super::super::arguments::{Address, RawArguments};
use super::super::device::Device;
use super::super::emulator::{Emulator, Options};
use super::super::error::Result;
use super::super::interface::Driver;
use super::super::kernel::Kernel;
use super::super::launch::Launch;
use super::super::lock::lock;
use super::arithmetic::Unary;
use super::program::{Instruction, Operation};
use super::{NAME, Ptx, failed, programs};

/// Kernels that may leave other bits though their text does not show it.
const OTHERS: [&str; 3] = [
    // Logarithms, sines and cosines of a library, which are polynomials in the text.
    "dip_jitter",
    "image_noise",
    // The maximum of zeros of both signs: C leaves open which it is, GPUs give the positive one.
    "classifier_pool",
];

struct Twins {
    ptx: Ptx,
    emulator: Emulator,
    /// One at a time, so that both are asked in the same order.
    turn: Mutex<()>,
}

impl Device {
    /// The interpreter, each of whose launches is held against the emulator's.
    pub(in crate::backend::cuda::driver) fn ptx_beside_emulator() -> Result<Device> {
        Ok(Device::new(Arc::new(Twins::new()?)))
    }
}

impl Twins {
    fn new() -> Result<Self> {
        Ok(Twins {
            ptx: Ptx::new(),
            emulator: Emulator::new(Options::default())?,
            turn: Mutex::new(()),
        })
    }

    fn both<T>(&self, ask: impl FnMut(&dyn Driver) -> T) -> [T; 2] {
        let _turn = lock(&self.turn);
        [&*self.emulator.device().driver, &self.ptx].map(ask)
    }

    /// Holds the memories against each other after a launch.
    fn compare(&self, kernel: &Kernel, launch: Launch) -> Result<()> {
        let state = lock(&self.ptx.state);
        let mut emulated = lock(self.emulator.memory());
        let Some(address) = state.memory.difference(&emulated) else {
            return Ok(());
        };
        let programs = programs(kernel.module).map_err(|why| failed(kernel.name, why))?;
        let code = &programs[kernel.name].code;
        let is_open = |instruction: &Instruction| {
            matches!(
                instruction.operation,
                Operation::MultiplyMatrices { .. }
                    | Operation::Unary(
                        Unary::Exp2Approx | Unary::Exp2ApproxFlush | Unary::ReciprocalApprox,
                        _
                    )
            )
        };
        if OTHERS.contains(&kernel.name) || code.iter().any(is_open) {
            *emulated = state.memory.clone();
            return Ok(());
        }
        let operation = format!("{} {launch}", kernel.name);
        Err(failed(
            operation,
            format!("other bits at {address:?} than on the emulator"),
        ))
    }
}

impl Driver for Twins {
    fn name(&self) -> &str {
        NAME
    }

    fn free_bytes(&self) -> Option<u64> {
        self.ptx.free_bytes()
    }

    fn multiprocessors(&self) -> u32 {
        self.ptx.multiprocessors()
    }

    fn shared_limit(&self) -> u32 {
        self.ptx.shared_limit()
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        let [emulated, own] = self.both(|driver| driver.allocate(bytes));
        let (emulated, own) = (emulated?, own?);
        assert_eq!(emulated.0, own.0, "both give out the same addresses");
        Ok(own)
    }

    fn free(&self, address: Address) {
        self.both(|driver| driver.free(address));
    }

    fn upload(&self, bytes: &[u8], to: Address) -> Result<()> {
        self.both(|driver| driver.upload(bytes, to))
            .into_iter()
            .collect()
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.ptx.download(from, bytes)
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.both(|driver| driver.zero(at, bytes))
            .into_iter()
            .collect()
    }

    fn launch(&self, kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Result<()> {
        let _turn = lock(&self.turn);
        self.emulator
            .device()
            .driver
            .launch(kernel, launch, arguments)?;
        self.ptx.launch(kernel, launch, arguments)?;
        self.compare(kernel, launch)
    }
}

#[test]
fn other_bits_are_told_where_none_may_be() {
    use crate::backend::cuda::kernels::{NVCC, dip_step};
    if NVCC.is_none() {
        return;
    }
    let twins = Twins::new().unwrap();
    let address = twins.allocate(8).unwrap();
    twins.upload(&[1; 8], address).unwrap();
    let launch = Launch::new([1; 3], 32);
    twins.compare(&dip_step::DIP_ITERATIONS, launch).unwrap();
    lock(twins.emulator.memory()).write(&[2; 8], address);
    let told = twins.compare(&dip_step::DIP_ITERATIONS, launch);
    let told = told.unwrap_err().to_string();
    assert!(told.contains("other bits"), "{told}");
    // The emulator goes on from what a library's function gave.
    twins.compare(&dip_step::DIP_JITTER, launch).unwrap();
    twins.compare(&dip_step::DIP_ITERATIONS, launch).unwrap();
}
