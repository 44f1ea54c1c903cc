//! Counts what warps issue and how long they wait for their own results: for the cost model.

use std::collections::{HashSet, VecDeque};
use std::ops::AddAssign;

use super::cost::{Cost, SHARED, Unit, cost, is_multiply_add, operands};
use super::program::{Instruction, Program, Slot};

/// Clocks until a line of the device's memory is there: in the first-level cache, where the block used it before,
/// or from the memory. Assumed, near what microbenchmarks find, as the latencies of instructions are.
const CACHED: u64 = 40;
const FROM_MEMORY: u64 = 500;

/// Bytes of a line of the caches, and what shared memory moves in a clock.
const LINE: u64 = 128;

/// What a launch's warps issued: instructions of the machine, a warp's counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Issued {
    pub instructions: f64,
    /// By the unit that does them; the rest are branches and barriers.
    pub float32: f64,
    pub integer: f64,
    pub float64: f64,
    pub special: f64,
    pub memory: f64,
    pub matrix: f64,
    /// Multiply-adds of float32 among them.
    pub multiply_adds: f64,
    /// Clocks of shared memory and first-level cache: 128 bytes each, or less where lanes want different words
    /// of a bank, or different lines.
    pub turns: f64,
    /// Clocks from a block's start to its end, if it ran alone and only waited for its own results.
    pub clocks: f64,
}

impl Issued {
    /// Instructions for a multiply-add, of the matrix units where they are used; none where there is none.
    pub fn each(&self) -> Option<f64> {
        let multiply_adds = match self.matrix > 0.0 {
            true => self.matrix,
            false => self.multiply_adds,
        };
        (multiply_adds > 0.0).then(|| self.instructions / multiply_adds)
    }

    /// So many times that.
    pub fn times(self, n: f64) -> Issued {
        Issued {
            instructions: n * self.instructions,
            float32: n * self.float32,
            integer: n * self.integer,
            float64: n * self.float64,
            special: n * self.special,
            memory: n * self.memory,
            matrix: n * self.matrix,
            multiply_adds: n * self.multiply_adds,
            turns: n * self.turns,
            clocks: n * self.clocks,
        }
    }
}

impl AddAssign for Issued {
    fn add_assign(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.float32 += other.float32;
        self.integer += other.integer;
        self.float64 += other.float64;
        self.special += other.special;
        self.memory += other.memory;
        self.matrix += other.matrix;
        self.multiply_adds += other.multiply_adds;
        self.turns += other.turns;
        self.clocks += other.clocks;
    }
}

/// Costs and operands of a program's instructions.
struct Priced {
    cost: Cost,
    is_multiply_add: bool,
    from: Vec<Slot>,
    to: Vec<Slot>,
}

/// Counts a launch.
pub(super) struct Meter {
    prices: Vec<Priced>,
    issued: Issued,
    /// Lines of the device's memory that the block used.
    lines: HashSet<u64>,
    /// By warp of the block.
    clocks: Vec<Clock>,
    /// What the access that runs now takes beyond its issue: turns, and until its result is there.
    access: Access,
}

#[derive(Clone, Copy, Default)]
struct Access {
    turns: u64,
    latency: u64,
}

/// A warp's time in the block, in clocks.
#[derive(Clone)]
struct Clock {
    now: u64,
    /// When each register can be used.
    ready: Vec<u64>,
    /// When the copies are there that were started: of the group that is open, and of those that are closed.
    copying: u64,
    closed: VecDeque<u64>,
}

impl Meter {
    pub(super) fn new(program: &Program, warps: usize) -> Self {
        let price = |instruction: &Instruction| {
            let (mut from, to) = operands(&instruction.operation);
            from.extend(instruction.guard.map(|(predicate, _)| predicate));
            Priced {
                cost: cost(&instruction.operation),
                is_multiply_add: is_multiply_add(&instruction.operation),
                from,
                to,
            }
        };
        let clock = Clock {
            now: 0,
            ready: vec![0; program.slots()],
            copying: 0,
            closed: VecDeque::new(),
        };
        Meter {
            prices: program.code.iter().map(price).collect(),
            issued: Issued::default(),
            lines: HashSet::new(),
            clocks: vec![clock; warps],
            access: Access::default(),
        }
    }

    pub(super) fn issued(&self) -> Issued {
        self.issued
    }

    pub(super) fn start_block(&mut self) {
        self.lines.clear();
        for clock in &mut self.clocks {
            clock.now = 0;
            clock.copying = 0;
            clock.closed.clear();
            clock.ready.fill(0);
        }
    }

    /// All warps have come to a barrier, or to their end.
    pub(super) fn meet(&mut self, ended: bool) {
        let last = self.clocks.iter().map(|clock| clock.now).max().unwrap_or(0);
        self.clocks.iter_mut().for_each(|clock| clock.now = last);
        if ended {
            self.issued.clocks += last as f64;
        }
    }

    /// A warp has issued an instruction.
    pub(super) fn issue(&mut self, warp: usize, at: usize) {
        let Priced {
            cost,
            is_multiply_add,
            from,
            to,
        } = &self.prices[at];
        let access = std::mem::take(&mut self.access);
        let issues = f64::from(cost.issues);
        let issued = &mut self.issued;
        issued.instructions += issues;
        issued.special += f64::from(cost.special);
        let others = issues - f64::from(cost.special);
        match cost.unit {
            Unit::Float32 => issued.float32 += others,
            Unit::Integer => issued.integer += others,
            Unit::Float64 => issued.float64 += others,
            Unit::Memory => issued.memory += issues,
            Unit::Matrix => issued.matrix += issues,
            Unit::Special | Unit::Control => {}
        }
        issued.multiply_adds += f64::from(u8::from(*is_multiply_add));
        issued.turns += access.turns as f64;

        let clock = &mut self.clocks[warp];
        let ready = from.iter().map(|&slot| clock.ready[usize::from(slot)]);
        let start = ready.fold(clock.now, u64::max);
        let latency = u64::from(cost.latency) + access.latency + access.turns.saturating_sub(1);
        for &slot in to {
            clock.ready[usize::from(slot)] = start + latency;
        }
        clock.now = start + u64::from(cost.issues);
        if to.is_empty() && access.latency > 0 {
            clock.copying = clock.copying.max(start + latency);
        }
    }

    /// A warp closes a group of copies.
    pub(super) fn close_copies(&mut self, warp: usize) {
        let clock = &mut self.clocks[warp];
        clock.closed.push_back(std::mem::take(&mut clock.copying));
    }

    /// A warp waits until at most so many groups of copies are under way.
    pub(super) fn wait_for_copies(&mut self, warp: usize, groups: u32) {
        let clock = &mut self.clocks[warp];
        while clock.closed.len() > groups as usize {
            clock.now = clock.now.max(clock.closed.pop_front().unwrap_or(0));
        }
    }

    /// Lanes use shared memory, so many bytes each. Those whose bytes make up a clock's 128 go together; words of a
    /// bank take turns.
    pub(super) fn use_shared(&mut self, addresses: &[u64], bytes: usize) {
        for lanes in addresses.chunks(LINE as usize / bytes) {
            let mut banks = [const { Vec::<u64>::new() }; 32];
            for address in lanes {
                for word in address / 4..(address + bytes as u64).div_ceil(4) {
                    let bank = &mut banks[(word % 32) as usize];
                    if !bank.contains(&word) {
                        bank.push(word);
                    }
                }
            }
            let turns = banks.iter().map(Vec::len).max().unwrap_or(0);
            self.access.turns += turns as u64;
        }
    }

    /// Lanes use the device's memory, so many bytes each; those that go together take a turn for each line.
    /// Stores are not waited for.
    pub(super) fn use_global(&mut self, addresses: &[u64], bytes: usize, waits: bool) {
        for lanes in addresses.chunks(LINE as usize / bytes) {
            let mut lines: Vec<u64> = lanes.iter().map(|address| address / LINE).collect();
            lines.sort_unstable();
            lines.dedup();
            self.access.turns += lines.len() as u64;
            for line in lines {
                let latency = match self.lines.insert(line) {
                    true => FROM_MEMORY,
                    false => CACHED,
                };
                if waits {
                    // Shared memory's are in every access.
                    let beyond = latency - u64::from(SHARED);
                    self.access.latency = self.access.latency.max(beyond);
                }
            }
        }
    }

    /// Lanes exchange values.
    pub(super) fn exchange(&mut self) {
        self.access.turns += 1;
    }
}
