//! The order of threads and blocks.

use crate::random::philox;

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
    pub fn of(self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        match self {
            Order::Forward => {}
            Order::Reverse => order.reverse(),
            Order::Shuffled(seed) => order.sort_by_key(|&i| philox([i, 0, 0, 0], [seed, 0])[0]),
        }
        order
    }
}
