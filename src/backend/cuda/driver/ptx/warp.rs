//! A warp: 32 threads whose values lie side by side.
//!
//! Lanes that are at the same instruction form a group and run it together; where a branch parts them, the
//! group that is furthest behind runs first, until it meets another. Instructions that lanes must come to
//! together hold a group until all others have come or none can.

use std::collections::VecDeque;

use super::super::emulator::fault::Fault;
use super::access::Reach;
use super::arithmetic::{Lanes, insert_bits, multiply_matrices};
use super::program::{Address, Instruction, Operation, PLACE, Program, Slot, Space, Vector};

pub(super) struct Warp {
    /// The number of its first thread.
    first: u32,
    /// Its lanes: a bit each, all but in a block's last warp.
    lanes: u32,
    values: Vec<Lanes>,
    groups: Vec<Group>,
    /// Copies under way, oldest first.
    copies: VecDeque<Copy>,
    /// Groups of copies that each lane has closed.
    closed: [u32; 32],
}

/// Lanes at the same instruction.
#[derive(Clone, Copy)]
struct Group {
    at: usize,
    lanes: u32,
    /// For lanes that are elsewhere.
    waits: bool,
}

/// A copy to shared memory that has not landed.
struct Copy {
    lane: usize,
    /// Groups that the lane had closed before.
    group: u32,
    to: u64,
    bytes: [u8; 16],
}

/// Why a warp stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Ended,
    /// Waits for the block at this instruction.
    Barrier(usize),
}

/// What went wrong, at this instruction.
pub(super) type Failure = (usize, Fault);

impl Warp {
    /// The threads from `first` on of blocks of so many, before their first instruction.
    pub(super) fn new(program: &Program, first: u32, threads: u32) -> Self {
        let mut values = vec![[0; 32]; program.slots()];
        let constants = &mut values[program.place + PLACE.len()..];
        for (value, &bits) in constants.iter_mut().zip(&program.constants) {
            *value = [bits; 32];
        }
        let lanes = match threads - first {
            0..32 => (1 << (threads - first)) - 1,
            _ => u32::MAX,
        };
        Warp {
            first,
            lanes,
            values,
            groups: vec![],
            copies: VecDeque::new(),
            closed: [0; 32],
        }
    }

    /// Puts all lanes before the first instruction.
    pub(super) fn start(
        &mut self,
        program: &Program,
        threads: u32,
        block: [u32; 3],
        grid: [u32; 3],
    ) {
        let place = &mut self.values[program.place..];
        place[0] = std::array::from_fn(|lane| u64::from(self.first) + lane as u64);
        let same = [threads].into_iter().chain(block).chain(grid);
        for (value, number) in place[1..].iter_mut().zip(same) {
            *value = [number.into(); 32];
        }
        self.groups.clear();
        self.groups.push(Group {
            at: 0,
            lanes: self.lanes,
            waits: false,
        });
        self.copies.clear();
        self.closed = [0; 32];
    }

    /// Lets a warp go on that waited for its block.
    pub(super) fn pass_barrier(&mut self) {
        for group in &mut self.groups {
            group.at += 1;
        }
    }

    /// Runs until all lanes have ended or wait for their block.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    pub(super) fn run(
        &mut self,
        program: &Program,
        parameters: &[u8],
        reach: &mut Reach<'_>,
    ) -> Result<Stop, Failure> {
        loop {
            let ready = self
                .groups
                .iter()
                .enumerate()
                .filter(|(_, group)| !group.waits);
            let Some((index, _)) = ready.min_by_key(|(_, group)| group.at) else {
                return match self.groups.first() {
                    None => Ok(Stop::Ended),
                    Some(_) => Err(self.divergence(program, reach)),
                };
            };
            let Group { mut at, lanes, .. } = self.groups.swap_remove(index);
            // Where another group is ahead.
            let meets = self
                .groups
                .iter()
                .map(|group| group.at)
                .filter(|&other| other > at);
            let meets = meets.min().unwrap_or(usize::MAX);
            loop {
                let instruction = &program.code[at];
                if instruction.operation.is_collective() && lanes != self.lanes {
                    self.join(at, lanes, true);
                    break;
                }
                let active = match instruction.guard {
                    None => lanes,
                    Some((predicate, holds)) => {
                        let predicate = bits(&self.values[usize::from(predicate)]);
                        lanes & if holds { predicate } else { !predicate }
                    }
                };
                if reach.meter.is_some() {
                    self.note_access(&instruction.operation, active, reach);
                }
                if let Some(meter) = &mut reach.meter {
                    meter.issue(self.first as usize / 32, at);
                }
                match instruction.operation {
                    Operation::Branch(target) => {
                        if active == lanes && self.groups.is_empty() {
                            at = target;
                            continue;
                        }
                        self.join(target, active, false);
                        self.join(at + 1, lanes & !active, false);
                        break;
                    }
                    Operation::Exit => {
                        self.join(at + 1, lanes & !active, false);
                        break;
                    }
                    Operation::Barrier => {
                        self.join(at, lanes, false);
                        return Ok(Stop::Barrier(at));
                    }
                    _ => self
                        .execute(instruction, active, parameters, reach)
                        .map_err(|fault| (at, fault))?,
                }
                at += 1;
                if at == meets {
                    self.join(at, lanes, false);
                    break;
                }
            }
        }
    }

    /// Tells the meter which memory the active lanes use.
    fn note_access(&self, operation: &Operation, active: u32, reach: &mut Reach<'_>) {
        let warp = self.first as usize / 32;
        let Some(meter) = &mut reach.meter else {
            return;
        };
        let addresses = |address: Address, mask: u64| -> Vec<u64> {
            let of_lane = |lane| self.address(address, lane) & mask;
            set_bits(active).map(of_lane).collect()
        };
        let shared = |address: Address| addresses(address, u32::MAX.into());
        match *operation {
            Operation::Load {
                space, to, from, ..
            } => match space {
                Space::Shared => meter.use_shared(&shared(from), to.total()),
                Space::Global => meter.use_global(&addresses(from, u64::MAX), to.total(), true),
                Space::Parameter => {}
            },
            Operation::Store { space, to, from } => match space {
                Space::Shared => meter.use_shared(&shared(to), from.total()),
                _ => meter.use_global(&addresses(to, u64::MAX), from.total(), false),
            },
            Operation::LoadMatrices { row, .. } => meter.use_shared(&shared(row), 16),
            Operation::Copy { to, from, .. } => {
                meter.use_global(&addresses(from, u64::MAX), 16, true);
                meter.use_shared(&shared(to), 16);
            }
            Operation::Shuffle { .. } => meter.exchange(),
            Operation::Commit => meter.close_copies(warp),
            Operation::Wait(groups) => meter.wait_for_copies(warp, groups),
            _ => {}
        }
    }

    /// Adds lanes to the group at an instruction.
    fn join(&mut self, at: usize, lanes: u32, waits: bool) {
        if lanes == 0 {
            return;
        }
        match self.groups.iter_mut().find(|group| group.at == at) {
            Some(group) => {
                group.lanes |= lanes;
                group.waits = false;
            }
            None => self.groups.push(Group { at, lanes, waits }),
        }
    }

    /// Some lanes wait where others never come.
    #[cold]
    fn divergence(&self, program: &Program, reach: &Reach<'_>) -> Failure {
        let group = self.groups[0];
        let line = |at: usize| program.code[at].line;
        let other = (self.lanes & !group.lanes).trailing_zeros();
        let elsewhere = self
            .groups
            .iter()
            .find(|group| group.lanes >> other & 1 == 1);
        let fault = Fault::Divergence {
            block: reach.block,
            thread: self.first + group.lanes.trailing_zeros(),
            line: line(group.at),
            warp: !matches!(program.code[group.at].operation, Operation::Barrier),
            other: self.first + other,
            other_line: elsewhere.map(|group| line(group.at)),
        };
        (group.at, fault)
    }

    fn value(&self, slot: Slot) -> &Lanes {
        &self.values[usize::from(slot)]
    }

    /// Writes a register in the active lanes.
    #[inline(always)]
    fn set(&mut self, slot: Slot, active: u32, new: &Lanes) {
        let value = &mut self.values[usize::from(slot)];
        if active == u32::MAX {
            *value = *new;
            return;
        }
        for lane in 0..32 {
            let keep = u64::from(active >> lane & 1).wrapping_sub(1);
            value[lane] = value[lane] & keep | new[lane] & !keep;
        }
    }

    /// Runs an instruction that goes on to the next.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    fn execute(
        &mut self,
        instruction: &Instruction,
        active: u32,
        parameters: &[u8],
        reach: &mut Reach<'_>,
    ) -> Result<(), Fault> {
        match instruction.operation {
            Operation::Unary(unary, [to, a]) => {
                let result = unary.compute([self.value(a)]);
                self.set(to, active, &result);
            }
            Operation::Binary(binary, [to, a, b]) => {
                let result = binary.compute([self.value(a), self.value(b)]);
                self.set(to, active, &result);
            }
            Operation::Ternary(ternary, [to, a, b, c]) => {
                let result = ternary.compute([self.value(a), self.value(b), self.value(c)]);
                self.set(to, active, &result);
            }
            Operation::Compare(comparison, [to, a, b]) => {
                let result = comparison.compute([self.value(a), self.value(b)]);
                self.set(to, active, &result);
            }
            Operation::InsertBits([to, bits, into, start, length]) => {
                let number = |slot: Slot, lane: usize| self.value(slot)[lane] as u32;
                let result = std::array::from_fn(|lane| {
                    let [bits, into, start, length] =
                        [bits, into, start, length].map(|slot| number(slot, lane));
                    u64::from(insert_bits(bits, into, start, length))
                });
                self.set(to, active, &result);
            }
            Operation::Split { to, from } => {
                let from = *self.value(from);
                self.set(to[0], active, &from.map(|bits| bits & u64::from(u32::MAX)));
                self.set(to[1], active, &from.map(|bits| bits >> 32));
            }
            Operation::Join { to, from } => {
                let [low, high] = from.map(|slot| self.value(slot));
                let result = std::array::from_fn(|lane| low[lane] | high[lane] << 32);
                self.set(to, active, &result);
            }
            Operation::Load {
                space,
                to,
                from,
                used,
            } => self.load(space, to, from, used, active, parameters, reach)?,
            Operation::Store { space, to, from } => self.store(space, to, from, active, reach)?,
            Operation::Shuffle {
                to,
                found,
                value,
                differs,
                clamp,
                members,
            } => {
                let (mut results, mut inside) = ([0; 32], [0; 32]);
                for lane in set_bits(active) {
                    let of = |slot: Slot| self.value(slot)[lane] as u32;
                    let segment = of(clamp) >> 8 & 31;
                    let last = lane as u32 & segment | of(clamp) & 31 & !segment;
                    let other = lane as u32 ^ of(differs) & 31;
                    let is_inside = other <= last;
                    let from = if is_inside { other } else { lane as u32 };
                    if (self.lanes & of(members)) >> from & 1 == 0 {
                        return Err(Fault::AbsentLane {
                            block: reach.block,
                            thread: self.first + lane as u32,
                            lane: from.into(),
                        });
                    }
                    results[lane] = self.value(value)[from as usize];
                    inside[lane] = u64::from(is_inside);
                }
                self.set(to, active, &results);
                if let Some(found) = found {
                    self.set(found, active, &inside);
                }
            }
            Operation::MultiplyMatrices {
                to,
                left,
                right,
                sum,
            } => {
                self.check_whole(reach)?;
                let results = multiply_matrices(
                    left.map(|slot| self.value(slot)),
                    right.map(|slot| self.value(slot)),
                    sum.map(|slot| self.value(slot)),
                );
                for (to, result) in to.into_iter().zip(&results) {
                    self.set(to, active, result);
                }
            }
            Operation::LoadMatrices {
                to,
                row,
                transposed,
            } => {
                self.check_whole(reach)?;
                let mut rows = [[0; 16]; 32];
                for (lane, bytes) in rows.iter_mut().enumerate() {
                    let address = self.address(row, lane) & u64::from(u32::MAX);
                    reach.read_shared(self.first + lane as u32, address, bytes, u32::MAX)?;
                }
                // Two bytes of a row of a matrix.
                let element = |matrix: usize, row: usize, column: usize| {
                    let row = &rows[matrix * 8 + row];
                    u64::from(u16::from_le_bytes([row[2 * column], row[2 * column + 1]]))
                };
                for (matrix, to) in to.into_iter().enumerate() {
                    let result = std::array::from_fn(|lane| {
                        let [low, high] = [0, 1].map(|which| {
                            let (major, minor) = (lane / 4, lane % 4 * 2 + which);
                            match transposed {
                                false => element(matrix, major, minor),
                                true => element(matrix, minor, major),
                            }
                        });
                        low | high << 16
                    });
                    self.set(to, active, &result);
                }
            }
            Operation::Copy { to, from, bytes } => {
                for lane in set_bits(active) {
                    let count = (self.value(bytes)[lane] as usize).min(16);
                    let mut copied = [0; 16];
                    if count > 0 {
                        let used = u32::MAX >> (32 - count);
                        let address = self.address(from, lane);
                        let mut whole = [0; 16];
                        reach.read_global(self.first + lane as u32, address, &mut whole, used)?;
                        copied[..count].copy_from_slice(&whole[..count]);
                    }
                    self.copies.push_back(Copy {
                        lane,
                        group: self.closed[lane],
                        to: self.address(to, lane) & u64::from(u32::MAX),
                        bytes: copied,
                    });
                }
            }
            Operation::Commit => {
                for lane in set_bits(active) {
                    self.closed[lane] += 1;
                }
            }
            Operation::Wait(groups) => {
                for copy in std::mem::take(&mut self.copies) {
                    let Copy { lane, group, .. } = copy;
                    let lands = self.closed[lane] > group + groups && active >> lane & 1 == 1;
                    match lands {
                        true => {
                            reach.write_shared(self.first + lane as u32, copy.to, &copy.bytes)?
                        }
                        false => self.copies.push_back(copy),
                    }
                }
            }
            Operation::Branch(_) | Operation::Exit | Operation::Barrier => {
                unreachable!("run() does what moves the group")
            }
        }
        Ok(())
    }

    /// Matrices are spread over 32 lanes.
    fn check_whole(&self, reach: &Reach<'_>) -> Result<(), Fault> {
        match self.lanes {
            u32::MAX => Ok(()),
            lanes => Err(Fault::AbsentLane {
                block: reach.block,
                thread: self.first,
                lane: lanes.trailing_ones().into(),
            }),
        }
    }

    #[inline(always)]
    fn address(&self, address: Address, lane: usize) -> u64 {
        self.value(address.base)[lane].wrapping_add_signed(address.offset)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the operands, and what they reach"
    )]
    fn load(
        &mut self,
        space: Space,
        to: Vector,
        from: Address,
        used: u32,
        active: u32,
        parameters: &[u8],
        reach: &mut Reach<'_>,
    ) -> Result<(), Fault> {
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..to.total()];
        for lane in set_bits(active) {
            let (thread, address) = (self.first + lane as u32, self.address(from, lane));
            match space {
                Space::Global => reach.read_global(thread, address, bytes, used)?,
                Space::Shared => {
                    reach.read_shared(thread, address & u64::from(u32::MAX), bytes, used)?;
                }
                Space::Parameter => {
                    bytes.copy_from_slice(reach.parameter(
                        parameters,
                        thread,
                        address,
                        bytes.len(),
                    )?);
                }
            }
            for (slot, bytes) in to.slots().iter().zip(bytes.chunks_exact(to.bytes.into())) {
                let mut value = [0; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                self.values[usize::from(*slot)][lane] = u64::from_le_bytes(value);
            }
        }
        Ok(())
    }

    fn store(
        &mut self,
        space: Space,
        to: Address,
        from: Vector,
        active: u32,
        reach: &mut Reach<'_>,
    ) -> Result<(), Fault> {
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..from.total()];
        for lane in set_bits(active) {
            for (slot, bytes) in from
                .slots()
                .iter()
                .zip(bytes.chunks_exact_mut(from.bytes.into()))
            {
                let value = self.value(*slot)[lane].to_le_bytes();
                bytes.copy_from_slice(&value[..bytes.len()]);
            }
            let (thread, address) = (self.first + lane as u32, self.address(to, lane));
            match space {
                Space::Shared => {
                    reach.write_shared(thread, address & u64::from(u32::MAX), bytes)?
                }
                _ => reach.write_global(thread, address, bytes)?,
            }
        }
        Ok(())
    }
}

/// The lanes where a predicate holds.
#[inline(always)]
fn bits(predicate: &Lanes) -> u32 {
    let lanes = predicate.iter().enumerate();
    lanes.fold(0, |bits, (lane, value)| bits | (*value as u32 & 1) << lane)
}

#[inline(always)]
fn set_bits(mut lanes: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = (lanes != 0).then(|| lanes.trailing_zeros() as usize)?;
        lanes &= lanes - 1;
        Some(lane)
    })
}
