//! What a chip needs at least for what kernels do: the floor that times are judged by.
//!
//! A launch says what it cannot do without ([`Work`](super::driver::Work)); the emulator counts what its kernel does. Held
//! against a chip's published rates, each gives a time that the kernel cannot be faster than, in a batch
//! that fills the chip and is larger than its second-level cache. Gaps between launches, latency, bank
//! conflicts and the lower rate of double precision come on top and are not in it.

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
}

impl Chip {
    /// Those that the model knows. Shared memory is that of the compute capability (CUDA C++ Programming
    /// Guide, technical specifications: 8.0, 8.9 and 9.0); the link is sixteen lanes of the PCIe generation
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

    /// The least time for what a kernel does.
    pub(crate) fn floor(&self, demand: &Demand) -> Floor {
        Floor {
            memory: demand.bytes / (1e9 * self.memory_bandwidth),
            on_chip: demand.on_chip_bytes / (1e9 * self.on_chip_bandwidth()),
            arithmetic: 2.0 * demand.multiply_adds / (1e12 * self.float32),
            matrix: 2.0 * demand.matrix_multiply_adds / (1e12 * self.matrix_bf16),
        }
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
}

/// Seconds that each of a chip's parts is busy at least.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Floor {
    pub memory: f64,
    pub on_chip: f64,
    pub arithmetic: f64,
    pub matrix: f64,
}

/// The part of a chip that is busy longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    /// The device's memory.
    Memory,
    /// Shared memory and first-level caches.
    OnChip,
    /// The arithmetic units.
    Arithmetic,
    /// The matrix units.
    Matrix,
}

impl Bound {
    /// As tables have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::OnChip => "on-chip",
            Bound::Arithmetic => "arithmetic",
            Bound::Matrix => "matrix",
        }
    }
}

impl Floor {
    fn bounds(&self) -> [(Bound, f64); 4] {
        [
            (Bound::Memory, self.memory),
            (Bound::OnChip, self.on_chip),
            (Bound::Arithmetic, self.arithmetic),
            (Bound::Matrix, self.matrix),
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

#[cfg(feature = "emulator")]
pub(crate) use self::counted::{Iteration, demands, iterations};

#[cfg(feature = "emulator")]
mod counted;

#[cfg(test)]
mod tests;
