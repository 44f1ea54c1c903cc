//! What the emulator finds wrong with a kernel.

use std::fmt;

use super::super::arguments::Address;
use super::bridge::OFFSET_BITS;
use super::order::Order;

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// The device's: the allocation with this number, counted from 1.
    Global(u64),
    /// The block's: the piece that starts at this offset.
    Shared(u64),
    /// What the kernel was given.
    Parameter,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Space::Global(number) => write!(f, "allocation {number}"),
            Space::Shared(offset) => write!(f, "the piece of shared memory at {offset}"),
            Space::Parameter => write!(f, "the parameter"),
        }
    }
}

/// Bytes that a thread wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub block: [u32; 3],
    pub thread: u32,
    pub space: Space,
    /// From the start of the allocation or piece.
    pub offset: i64,
    pub bytes: u64,
    /// Of the allocation or piece.
    pub size: u64,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(
            f,
            "{} bytes at offset {} of {} ({} bytes), by thread {} of block ({x}, {y}, {z})",
            self.bytes, self.offset, self.space, self.size, self.thread
        )
    }
}

/// What a kernel did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("read out of bounds: {0}")]
    ReadOutOfBounds(Access),
    #[error("write out of bounds: {0}")]
    WriteOutOfBounds(Access),
    #[error("read of memory never written: {0}")]
    Uninitialized(Access),
    #[error("misaligned address: {0}")]
    Misaligned(Access),
    /// The access and one of another thread, of which one writes.
    #[error("race: {0}, which another thread uses too, with no barrier between")]
    Conflict(Access),

    /// A buffer that was freed, or never was.
    #[error(
        "use of {} memory: allocation {}, offset {}, by thread {thread} of block {block:?}",
        if *.freed { "freed" } else { "unknown" },
        .address.0 >> OFFSET_BITS,
        .address.0 & ((1 << OFFSET_BITS) - 1)
    )]
    BadAddress {
        block: [u32; 3],
        thread: u32,
        address: Address,
        freed: bool,
    },

    #[error("the block has {has} bytes of shared memory, the kernel takes {wanted}")]
    SharedTooSmall { has: u64, wanted: u64 },

    #[error("shuffle with lane {lane}, which block {block:?} does not have, by thread {thread}")]
    AbsentLane {
        block: [u32; 3],
        thread: u32,
        lane: u64,
    },

    /// Some threads wait where the others never come.
    #[error(
        "divergence: thread {thread} of block {block:?} waits at a {} in line {line}, thread {other} {}",
        if *.warp { "shuffle" } else { "barrier" },
        match .other_line {
            Some(line) => format!("in line {line}"),
            None => "has ended".to_owned(),
        }
    )]
    Divergence {
        block: [u32; 3],
        thread: u32,
        line: u32,
        /// Whether the thread waits for its warp, not its block.
        warp: bool,
        other: u32,
        other_line: Option<u32>,
    },

    /// The results depend on the order of threads or blocks.
    #[error(
        "race: orders {first:?} and {other:?} leave different bytes at offset {} of allocation {}",
        .address.0 & ((1 << OFFSET_BITS) - 1),
        .address.0 >> OFFSET_BITS
    )]
    Race {
        first: Order,
        other: Order,
        address: Address,
    },

    /// A download of what no kernel and no upload wrote.
    #[error(
        "memory never written: offset {} of allocation {}",
        .0.0 & ((1 << OFFSET_BITS) - 1),
        .0.0 >> OFFSET_BITS
    )]
    NeverWritten(Address),
}
