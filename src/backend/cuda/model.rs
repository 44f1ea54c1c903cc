//! What a chip needs at least for what kernels do: the floor that times are judged by.
//!
//! A launch says what it cannot do without ([`Work`](super::driver::Work)); the emulator counts what its kernel's
//! source does, and the interpreter of its PTX what warps issue for it. Held against a chip's published rates, each
//! gives a time that the kernel cannot be faster than, in a batch that fills the chip and is larger than its
//! second-level cache. `docs/gpu.md` says what is not in it.

pub(crate) use super::driver::ptx::Issued;

/// Instructions that a multiprocessor's four schedulers issue in a clock.
const ISSUES: f64 = 4.0;
/// Lanes of a warp, and how many of them a multiprocessor's units do in a clock, on all chips that the model knows:
/// integers, comparisons and conversions; reciprocals, roots and powers (CUDA C++ Programming Guide, "Throughput of
/// Native Arithmetic Instructions").
const WARP: f64 = 32.0;
const INTEGER_LANES: f64 = 64.0;
const SPECIAL_LANES: f64 = 16.0;

/// Bytes that a multiprocessor's shared memory and first-level cache move in a clock: 32 banks of four
/// (CUDA C++ Programming Guide, section on shared memory).
const ON_CHIP_BYTES: f64 = 128.0;

/// A chip's published rates, at its boost clock and without sparsity.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Chip {
    /// The name on the command line.
    pub name: &'static str,
    /// What it is in full.
    pub product: &'static str,
    pub multiprocessors: u32,
    /// In GHz.
    pub boost_clock: f64,
    /// Arithmetic in TFLOP/s, a multiply-add counted as two: of float32, and of the matrix units, bf16
    /// operands and float32 sums.
    pub float32: f64,
    pub matrix_bf16: f64,
    /// Of the device's memory, in GB/s.
    pub memory_bandwidth: f64,
    /// Of its PCIe link to the host, each way, in GB/s.
    pub link_bandwidth: f64,
    /// Shared memory of a multiprocessor, in KiB; a block can have 1 KiB less.
    pub shared_memory: u32,
    /// The compute capability, as machine code is made for it.
    pub architecture: &'static str,
    /// Warps and blocks that a multiprocessor holds at once.
    pub warps: u32,
    pub blocks: u32,
    /// Lanes of float64 that a multiprocessor does in a clock.
    pub float64_lanes: f64,
}

impl Chip {
    /// Those that the model knows. Shared memory, warps, blocks and float64 are those of the compute capability
    /// (CUDA C++ Programming Guide, technical specifications and throughput: 8.0, 8.9 and 9.0); the link is sixteen lanes of the PCIe generation
    /// that the same documents name, 4 or, the H100's, 5.
    pub(crate) const ALL: [Chip; 4] = [
        // "NVIDIA H100 Tensor Core GPU Architecture" (whitepaper) and "NVIDIA H100 Tensor Core GPU
        // Datasheet". The matrix units' rate is for 1.83 GHz.
        Chip {
            name: "h100",
            product: "H100 SXM5 80 GB",
            multiprocessors: 132,
            boost_clock: 1.98,
            float32: 66.9,
            matrix_bf16: 989.4,
            memory_bandwidth: 3350.0,
            link_bandwidth: 64.0,
            shared_memory: 228,
            architecture: "90",
            warps: 64,
            blocks: 32,
            float64_lanes: 64.0,
        },
        // "NVIDIA A100 Tensor Core GPU Architecture" (whitepaper) and "NVIDIA A100 80GB Datasheet".
        Chip {
            name: "a100",
            product: "A100 SXM4 80 GB",
            multiprocessors: 108,
            boost_clock: 1.41,
            float32: 19.5,
            matrix_bf16: 312.0,
            memory_bandwidth: 2039.0,
            link_bandwidth: 32.0,
            shared_memory: 164,
            architecture: "80",
            warps: 64,
            blocks: 32,
            float64_lanes: 32.0,
        },
        // "NVIDIA L4 Tensor Core GPU Datasheet", whose matrix rate is with sparsity: half of it here; and
        // "NVIDIA Ada GPU Architecture" (whitepaper, version 2.01), appendix on the L4.
        Chip {
            name: "l4",
            product: "L4 24 GB",
            multiprocessors: 58,
            boost_clock: 2.04,
            float32: 30.3,
            matrix_bf16: 121.0,
            memory_bandwidth: 300.0,
            link_bandwidth: 32.0,
            shared_memory: 100,
            architecture: "89",
            warps: 48,
            blocks: 24,
            float64_lanes: 2.0,
        },
        // "NVIDIA Ada GPU Architecture" (whitepaper, version 2.01), appendix on the GeForce RTX 4090.
        Chip {
            name: "rtx4090",
            product: "GeForce RTX 4090 24 GB",
            multiprocessors: 128,
            boost_clock: 2.52,
            float32: 82.6,
            matrix_bf16: 165.2,
            memory_bandwidth: 1008.0,
            link_bandwidth: 32.0,
            shared_memory: 100,
            architecture: "89",
            warps: 48,
            blocks: 24,
            float64_lanes: 2.0,
        },
    ];

    /// The chip of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Chip> {
        Chip::ALL.iter().find(|chip| chip.name == name)
    }

    /// GB/s that all multiprocessors' shared memories and first-level caches move.
    pub(crate) fn on_chip_bandwidth(&self) -> f64 {
        ON_CHIP_BYTES * f64::from(self.multiprocessors) * self.boost_clock
    }

    /// Blocks that a multiprocessor holds at once, by its limits of blocks, warps, 65,536 registers and shared
    /// memory (CUDA C++ Programming Guide, "Compute Capabilities"), and the pieces in which it gives them out
    /// (Nsight Compute's occupancy calculator): registers by 256 to a warp, of four warps at a time; shared memory
    /// by 128 bytes, and 1 KiB more for each block. At least 1: a launch that is refused is not judged here.
    pub(crate) fn blocks(&self, threads: u32, registers: u32, shared: u32) -> u32 {
        let warps = threads.div_ceil(32);
        let of_a_warp = (registers * 32).next_multiple_of(256).max(256);
        let with_registers = 65_536 / of_a_warp / 4 * 4 / warps;
        let with_shared = self.shared_memory * 1024 / (shared.next_multiple_of(128) + 1024);
        let with_warps = (self.warps / warps).min(self.blocks);
        with_warps.min(with_registers).min(with_shared).max(1)
    }

    /// The least time for what a kernel does.
    pub(crate) fn floor(&self, demand: &Demand) -> Floor {
        let mut floor = Floor {
            memory: demand.bytes / (1e9 * self.memory_bandwidth),
            on_chip: demand.on_chip_bytes / (1e9 * self.on_chip_bandwidth()),
            float32: 2.0 * demand.multiply_adds / (1e12 * self.float32),
            matrix: 2.0 * demand.matrix_multiply_adds / (1e12 * self.matrix_bf16),
            ..Floor::default()
        };
        if let Some(issued) = &demand.issued {
            let clocks = 1e9 * self.boost_clock * f64::from(self.multiprocessors);
            let warps = |lanes: f64| WARP / lanes / clocks;
            floor.on_chip = issued.turns / clocks;
            floor.float32 = 2.0 * WARP * issued.float32 / (1e12 * self.float32);
            floor.issue = issued.instructions / ISSUES / clocks;
            floor.integer = issued.integer * warps(INTEGER_LANES);
            floor.float64 = issued.float64 * warps(self.float64_lanes);
            floor.special = issued.special * warps(SPECIAL_LANES);
            floor.latency = issued.clocks / clocks;
        }
        floor
    }
}

/// What a kernel does, over all its launches of an iteration; part of them where a launch does several.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Demand {
    pub launches: f64,
    /// Of the device's memory: every input read once, every output written once.
    pub bytes: f64,
    /// That threads asked of memory, device's and shared alike: each passes a multiprocessor's first-level
    /// cache or shared memory. What a warp reads at one address is counted for each lane, for it takes a
    /// turn of the banks as other reads do: exact for elements of four bytes, too much for larger ones.
    pub on_chip_bytes: f64,
    pub multiply_adds: f64,
    pub matrix_multiply_adds: f64,
    /// What its warps issue, where that was counted. Its clocks are those of a multiprocessor that holds as many
    /// blocks as it can.
    pub issued: Option<Issued>,
}

/// Seconds that each of a chip's parts is busy at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Floor {
    pub memory: f64,
    pub on_chip: f64,
    /// The schedulers.
    pub issue: f64,
    pub float32: f64,
    pub integer: f64,
    pub float64: f64,
    pub special: f64,
    pub matrix: f64,
    /// No part, but warps' waiting for their own results, with as many warps as a multiprocessor holds.
    pub latency: f64,
}

/// The part of a chip that is busy longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    /// The device's memory.
    Memory,
    /// Shared memory and first-level caches.
    OnChip,
    /// The schedulers, which issue instructions.
    Issue,
    /// The float32 units.
    Float32,
    /// The integer units.
    Integer,
    /// The float64 units.
    Float64,
    /// The units for reciprocals, roots and powers.
    Special,
    /// The matrix units.
    Matrix,
    /// What warps wait for, of which a multiprocessor holds too few.
    Latency,
}

impl Bound {
    /// As tables have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::OnChip => "on-chip",
            Bound::Issue => "issue",
            Bound::Float32 => "float32",
            Bound::Integer => "integer",
            Bound::Float64 => "float64",
            Bound::Special => "special",
            Bound::Matrix => "matrix",
            Bound::Latency => "latency",
        }
    }
}

impl Floor {
    /// All of them, in the order of tables.
    pub(crate) fn bounds(&self) -> [(Bound, f64); 9] {
        [
            (Bound::Memory, self.memory),
            (Bound::OnChip, self.on_chip),
            (Bound::Issue, self.issue),
            (Bound::Float32, self.float32),
            (Bound::Integer, self.integer),
            (Bound::Float64, self.float64),
            (Bound::Special, self.special),
            (Bound::Matrix, self.matrix),
            (Bound::Latency, self.latency),
        ]
    }

    /// The parts work side by side: the longest time.
    pub(crate) fn seconds(&self) -> f64 {
        let longest = self.bounds().into_iter().map(|(_, seconds)| seconds);
        longest.fold(0.0, f64::max)
    }

    /// Which part takes that time, the first of them where several do.
    pub(crate) fn bound(&self) -> Bound {
        let longest = self.seconds();
        let mut bounds = self.bounds().into_iter();
        bounds
            .find(|&(_, seconds)| seconds == longest)
            .map_or(Bound::Memory, |(bound, _)| bound)
    }
}

pub(crate) use self::counted::{Iteration, demands, iterations};

mod counted;

#[cfg(test)]
mod tests;
