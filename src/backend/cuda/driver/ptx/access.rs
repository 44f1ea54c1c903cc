//! Accesses to memory, checked: bounds, alignment, whether it was ever written, and races.

use super::super::arguments::Address;
use super::super::emulator::bridge::{OFFSET_BITS, UNWRITTEN};
use super::super::emulator::fault::{Access, Fault, Space};
use super::super::emulator::memory::Memory;
use super::meter::Meter;
use super::race::{Touch, User};

/// What the threads of a launch can reach.
pub(super) struct Reach<'a> {
    pub memory: &'a mut Memory,
    /// Of device memory: by allocation, a word each.
    pub touches: &'a mut Vec<Vec<Touch>>,
    /// The block's.
    pub shared: Vec<u8>,
    /// A word each.
    pub shared_touches: Vec<Touch>,
    /// Of the block that runs.
    pub block: [u32; 3],
    /// The number of the launch, counted over the device's life from 1.
    pub launch: u32,
    /// The number of the block in its launch, counted from 0.
    pub number: u32,
    /// Barriers that the block has passed.
    pub epoch: u32,
    /// Counts, in place of checking races and what nobody wrote: counting runs some of the blocks only.
    pub meter: Option<Meter>,
}

/// The bytes of a word, the unit in which memory is known to be written or raced for.
pub(super) const WORD: usize = 4;

impl Reach<'_> {
    /// Starts a block with shared memory that nobody has written.
    pub(super) fn enter(&mut self, block: [u32; 3], number: u32) {
        self.block = block;
        self.number = number;
        self.epoch = 0;
        self.shared.fill(0);
        self.shared_touches.fill(Touch::NONE);
        if let Some(meter) = &mut self.meter {
            meter.start_block();
        }
    }

    fn user(&self, thread: u32) -> User {
        User {
            launch: self.launch,
            block: self.number,
            epoch: self.epoch,
            thread: thread as u16,
        }
    }

    fn access(&self, thread: u32, space: Space, offset: u64, bytes: usize, size: u64) -> Access {
        Access {
            block: self.block,
            thread,
            space,
            offset: offset as i64,
            bytes: bytes as u64,
            size,
        }
    }

    /// The allocation and the offset of an address in device memory.
    fn locate(
        &self,
        thread: u32,
        address: u64,
        bytes: usize,
        writes: bool,
    ) -> Result<(usize, usize), Fault> {
        let (number, offset) = (address >> OFFSET_BITS, address & ((1 << OFFSET_BITS) - 1));
        let regions = self.memory.regions();
        let Some(region) = regions.get(number as usize).filter(|r| !r.base.is_null()) else {
            return Err(self.memory.bad_address(self.block, thread, address));
        };
        let access = || self.access(thread, Space::Global(number), offset, bytes, region.bytes);
        check(offset, bytes, region.bytes, writes, access)?;
        Ok((number as usize, offset as usize))
    }

    /// Reads device memory.
    pub(super) fn read_global(
        &mut self,
        thread: u32,
        address: u64,
        to: &mut [u8],
        used: u32,
    ) -> Result<(), Fault> {
        let (number, offset) = self.locate(thread, address, to.len(), false)?;
        let user = self.user(thread);
        let from = self.memory.bytes(Address(address), to.len());
        to.copy_from_slice(from);
        if self.meter.is_some() {
            return Ok(());
        }
        let words = touches(self.touches, number, offset, to.len()).iter_mut();
        let fault = words.enumerate().find_map(|(i, touch)| {
            let word = &from[i * WORD..][..WORD];
            if used >> (i * WORD) & 0xf == 0 {
                None
            } else if touch.read(user) {
                Some(Fault::Conflict as fn(Access) -> Fault)
            } else if word == [UNWRITTEN; WORD] && !self.memory.was_written(word) {
                Some(Fault::Uninitialized as fn(Access) -> Fault)
            } else {
                None
            }
        });
        let Some(fault) = fault else {
            return Ok(());
        };
        let (size, space) = (
            self.memory.regions()[number].bytes,
            Space::Global(number as u64),
        );
        Err(fault(self.access(
            thread,
            space,
            offset as u64,
            to.len(),
            size,
        )))
    }

    /// Writes device memory.
    pub(super) fn write_global(
        &mut self,
        thread: u32,
        address: u64,
        from: &[u8],
    ) -> Result<(), Fault> {
        let (number, offset) = self.locate(thread, address, from.len(), true)?;
        let user = self.user(thread);
        if self.meter.is_some() {
            self.memory
                .bytes_mut(Address(address), from.len())
                .copy_from_slice(from);
            return Ok(());
        }
        let touches = touches(self.touches, number, offset, from.len());
        if touches.iter_mut().any(|touch| touch.write(user)) {
            let size = self.memory.regions()[number].bytes;
            let space = Space::Global(number as u64);
            return Err(Fault::Conflict(self.access(
                thread,
                space,
                offset as u64,
                from.len(),
                size,
            )));
        }
        let to = self.memory.bytes_mut(Address(address), from.len());
        to.copy_from_slice(from);
        if from
            .chunks_exact(WORD)
            .any(|word| word == [UNWRITTEN; WORD])
        {
            self.memory
                .mark(self.memory.bytes(Address(address), from.len()));
        }
        Ok(())
    }

    /// Reads shared memory.
    pub(super) fn read_shared(
        &mut self,
        thread: u32,
        address: u64,
        to: &mut [u8],
        used: u32,
    ) -> Result<(), Fault> {
        let size = self.shared.len() as u64;
        let access = self.access(thread, Space::Shared(0), address, to.len(), size);
        check(address, to.len(), size, false, || access)?;
        let user = self.user(thread);
        let at = address as usize;
        to.copy_from_slice(&self.shared[at..][..to.len()]);
        if self.meter.is_some() {
            return Ok(());
        }
        for (i, touch) in self.shared_touches[at / WORD..][..to.len() / WORD]
            .iter_mut()
            .enumerate()
        {
            if used >> (i * WORD) & 0xf == 0 {
                continue;
            }
            if !touch.is_written() {
                return Err(Fault::Uninitialized(access));
            }
            if touch.read(user) {
                return Err(Fault::Conflict(access));
            }
        }
        Ok(())
    }

    /// Bytes of the kernel's parameter.
    pub(super) fn parameter<'a>(
        &self,
        parameters: &'a [u8],
        thread: u32,
        address: u64,
        bytes: usize,
    ) -> Result<&'a [u8], Fault> {
        let size = parameters.len() as u64;
        let access = || self.access(thread, Space::Parameter, address, bytes, size);
        check(address, bytes, size, false, access)?;
        Ok(&parameters[address as usize..][..bytes])
    }

    /// Writes shared memory.
    pub(super) fn write_shared(
        &mut self,
        thread: u32,
        address: u64,
        from: &[u8],
    ) -> Result<(), Fault> {
        let size = self.shared.len() as u64;
        let access = self.access(thread, Space::Shared(0), address, from.len(), size);
        check(address, from.len(), size, true, || access)?;
        let user = self.user(thread);
        let at = address as usize;
        let touches = &mut self.shared_touches[at / WORD..][..from.len() / WORD];
        if self.meter.is_none() && touches.iter_mut().any(|touch| touch.write(user)) {
            return Err(Fault::Conflict(access));
        }
        self.shared[at..][..from.len()].copy_from_slice(from);
        Ok(())
    }
}

/// The touches of words of an allocation.
fn touches(all: &mut Vec<Vec<Touch>>, number: usize, offset: usize, bytes: usize) -> &mut [Touch] {
    if all.len() <= number {
        all.resize(number + 1, vec![]);
    }
    let (first, end) = (offset / WORD, (offset + bytes) / WORD);
    let touches = &mut all[number];
    if touches.len() < end {
        touches.resize(end, Touch::NONE);
    }
    &mut touches[first..end]
}

/// Refuses what is not within `size` bytes or not aligned as GPUs want it.
#[inline]
fn check(
    offset: u64,
    bytes: usize,
    size: u64,
    writes: bool,
    access: impl FnOnce() -> Access,
) -> Result<(), Fault> {
    if offset
        .checked_add(bytes as u64)
        .is_none_or(|end| end > size)
    {
        return Err(match writes {
            true => Fault::WriteOutOfBounds(access()),
            false => Fault::ReadOutOfBounds(access()),
        });
    }
    match offset.is_multiple_of(bytes as u64) {
        true => Ok(()),
        false => Err(Fault::Misaligned(access())),
    }
}
