//! The shape of a launch, and the work it says it does.

use std::fmt;
use std::ops::AddAssign;

/// What a launch cannot do without, whatever its kernel is like: profiles and the cost model hold its
/// time against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Work {
    /// Bytes of the device's memory: every input read once, every output written once.
    pub bytes: u64,
    /// Multiply-adds of the arithmetic units, as `multiply_add` in the kernels' sources counts them.
    pub multiply_adds: u64,
    /// Multiply-adds of the matrix units.
    pub matrix_multiply_adds: u64,
}

impl Work {
    /// So many times that.
    pub fn times(self, n: u32) -> Work {
        let n = u64::from(n);
        Work {
            bytes: n * self.bytes,
            multiply_adds: n * self.multiply_adds,
            matrix_multiply_adds: n * self.matrix_multiply_adds,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.multiply_adds += other.multiply_adds;
        self.matrix_multiply_adds += other.matrix_multiply_adds;
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory: see [`shared_bytes`].
    pub shared: u32,
    /// What is done.
    pub work: Work,
}

impl Launch {
    /// `block` threads a block and no shared memory.
    pub fn new(grid: [u32; 3], block: u32) -> Self {
        Launch {
            grid,
            block,
            shared: 0,
            work: Work::default(),
        }
    }

    /// With this work.
    pub fn doing(self, work: Work) -> Self {
        Launch { work, ..self }
    }

    /// With shared memory.
    pub fn with_shared(self, shared: u32) -> Self {
        Launch { shared, ..self }
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(
            f,
            "({x}×{y}×{z} blocks of {} threads, {} bytes shared)",
            self.block, self.shared
        )
    }
}

/// Shared memory for pieces of these sizes in bytes, as the kernels' `SharedMemory` hands them out.
pub fn shared_bytes(pieces: impl IntoIterator<Item = usize>) -> u32 {
    let bytes: usize = pieces
        .into_iter()
        .map(|bytes| bytes.next_multiple_of(16))
        .sum();
    // More than a chip has is refused at the launch.
    bytes.try_into().unwrap_or(u32::MAX)
}
