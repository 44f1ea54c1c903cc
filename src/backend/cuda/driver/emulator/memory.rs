//! The emulated device's memory.
//!
//! An address is an allocation's number and an offset, so that one past its end is not in the next, and a
//! freed one is known for what it is. Memory starts as bytes that stand for "never written"; where they
//! are written on purpose, their addresses are kept in a set, which hardly ever holds any.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use super::super::arguments::Address;
use super::super::lock::lock;
use super::bridge::{OFFSET_BITS, Region, UNWRITTEN};
use super::fault::Fault;
use crate::backend::memory::free_bytes;

/// Freed numbers rest until there are so many, so that using one is noticed.
const RESTING: usize = 1 << 16;

/// Addresses on the host of pairs of bytes that were written and look unwritten.
pub(in crate::backend::cuda::driver) type Written = HashSet<usize>;

pub(in crate::backend::cuda::driver) struct Memory {
    /// By number; the first is never given out.
    regions: Vec<Region>,
    /// What the regions point into, aligned as any element needs it.
    storage: Vec<Vec<u128>>,
    freed: VecDeque<usize>,
    written: Mutex<Written>,
    used: u64,
    limit: u64,
}

// SAFETY: the pointers in `regions` point into `storage`, which goes with them.
unsafe impl Send for Memory {}
// SAFETY: `&Memory` gives out what the pointers point to for the emulated threads alone, whose accesses
// to the same element are the kernels' business: indivisible where they are atomic, a fault else.
unsafe impl Sync for Memory {}

impl Memory {
    pub(in crate::backend::cuda::driver) fn new(limit: u64) -> Self {
        let nothing = Region {
            base: std::ptr::null_mut(),
            bytes: 0,
        };
        Memory {
            regions: vec![nothing],
            storage: vec![vec![]],
            freed: VecDeque::new(),
            written: Mutex::default(),
            used: 0,
            limit,
        }
    }

    pub(in crate::backend::cuda::driver) fn regions(&self) -> &[Region] {
        &self.regions
    }

    pub(in crate::backend::cuda::driver) fn free_bytes(&self) -> Option<u64> {
        let left = self.limit - self.used;
        match free_bytes() {
            Some(free) => Some(free.min(left)),
            None => (self.limit < u64::MAX).then_some(left),
        }
    }

    pub(in crate::backend::cuda::driver) fn allocate(&mut self, bytes: usize) -> Option<Address> {
        if bytes as u64 > self.free_bytes().unwrap_or(u64::MAX) || bytes >> OFFSET_BITS != 0 {
            return None;
        }
        let mut storage = Vec::new();
        let units = bytes.div_ceil(size_of::<u128>());
        storage.try_reserve_exact(units).ok()?;
        storage.resize(units, u128::from_ne_bytes([UNWRITTEN; 16]));
        let region = Region {
            base: storage.as_mut_ptr().cast(),
            bytes: bytes as u64,
        };
        self.used += bytes as u64;
        let number = if self.freed.len() > RESTING {
            let number = self.freed.pop_front()?;
            self.regions[number] = region;
            self.storage[number] = storage;
            number
        } else {
            self.regions.push(region);
            self.storage.push(storage);
            self.regions.len() - 1
        };
        Some(Address((number as u64) << OFFSET_BITS))
    }

    pub(in crate::backend::cuda::driver) fn free(&mut self, address: Address) {
        let number = (address.0 >> OFFSET_BITS) as usize;
        let region = &mut self.regions[number];
        let (start, bytes) = (region.base.addr(), region.bytes as usize);
        region.base = std::ptr::null_mut();
        self.used -= region.bytes;
        self.storage[number] = vec![];
        self.freed.push_back(number);
        lock(&self.written).retain(|at| !(start..start + bytes).contains(at));
    }

    /// The bytes at an address.
    pub(in crate::backend::cuda::driver) fn bytes(&self, at: Address, len: usize) -> &[u8] {
        let (number, offset) = self.split(at, len);
        &bytemuck::cast_slice(&self.storage[number])[offset..][..len]
    }

    pub(in crate::backend::cuda::driver) fn bytes_mut(
        &mut self,
        at: Address,
        len: usize,
    ) -> &mut [u8] {
        let (number, offset) = self.split(at, len);
        &mut bytemuck::cast_slice_mut(&mut self.storage[number])[offset..][..len]
    }

    /// An address's number and offset; buffers check their ranges, so this holds.
    fn split(&self, at: Address, len: usize) -> (usize, usize) {
        let number = (at.0 >> OFFSET_BITS) as usize;
        let offset = (at.0 & ((1 << OFFSET_BITS) - 1)) as usize;
        assert!(offset + len <= self.regions[number].bytes as usize);
        (number, offset)
    }

    pub(in crate::backend::cuda::driver) fn write(&mut self, bytes: &[u8], to: Address) {
        let target = self.bytes_mut(to, bytes.len());
        target.copy_from_slice(bytes);
        let start = target.as_ptr().addr();
        let mut written = lock(&self.written);
        for (i, pair) in bytes.chunks_exact(2).enumerate() {
            if pair == [UNWRITTEN; 2] {
                written.insert(start + 2 * i);
            }
        }
    }

    pub(in crate::backend::cuda::driver) fn read(
        &self,
        from: Address,
        bytes: &mut [u8],
    ) -> Result<(), Fault> {
        let source = self.bytes(from, bytes.len());
        // By words, or pairs where they are no whole number of words.
        let unit = if bytes.len().is_multiple_of(4) { 4 } else { 2 };
        let units = source.chunks_exact(unit);
        if let Some(i) = units.enumerate().find_map(|(i, unit)| {
            let looks = unit.iter().all(|&byte| byte == UNWRITTEN);
            (looks && !was_written(&lock(&self.written), unit)).then_some(i)
        }) {
            return Err(Fault::NeverWritten(Address(from.0 + (unit * i) as u64)));
        }
        bytes.copy_from_slice(source);
        Ok(())
    }

    pub(in crate::backend::cuda::driver) fn zero(&mut self, at: Address, bytes: usize) {
        self.bytes_mut(at, bytes).fill(0);
    }

    /// Whether a kernel's element that looks unwritten was written.
    pub(in crate::backend::cuda::driver) fn was_written(&self, element: &[u8]) -> bool {
        was_written(&lock(&self.written), element)
    }

    /// Remembers a kernel's element that looks unwritten.
    pub(in crate::backend::cuda::driver) fn mark(&self, element: &[u8]) {
        mark(&mut lock(&self.written), element);
    }

    /// Forgets what is no longer needed after a launch: marks of elements that were written over.
    pub(in crate::backend::cuda::driver) fn settle(&mut self) {
        let written = self.written.get_mut().unwrap_or_else(|e| e.into_inner());
        if written.is_empty() {
            return;
        }
        let storage = &self.storage;
        let live: Vec<&[u8]> = storage.iter().map(|s| bytemuck::cast_slice(s)).collect();
        written.retain(|&at| {
            live.iter().any(|bytes| {
                let start = bytes.as_ptr().addr();
                (start..start + bytes.len()).contains(&at)
                    && bytes[at - start..].starts_with(&[UNWRITTEN; 2])
            })
        });
    }

    /// The allocation that starts at a place on the host.
    pub(in crate::backend::cuda::driver) fn number_of(&self, base: *const u8) -> u64 {
        let found = self
            .regions
            .iter()
            .position(|region| region.base.cast_const() == base);
        found.unwrap_or(0) as u64
    }

    /// What using an address that is no allocation's is.
    pub(in crate::backend::cuda::driver) fn bad_address(
        &self,
        block: [u32; 3],
        thread: u32,
        address: u64,
    ) -> Fault {
        let number = address >> OFFSET_BITS;
        Fault::BadAddress {
            block,
            thread,
            address: Address(address),
            freed: number > 0 && number < self.regions.len() as u64 && {
                self.regions[number as usize].base.is_null()
            },
        }
    }

    /// The first address at which another state of the same memory differs.
    pub(in crate::backend::cuda::driver) fn difference(&self, other: &Memory) -> Option<Address> {
        let pairs = self.storage.iter().zip(&other.storage);
        pairs.enumerate().find_map(|(number, (a, b))| {
            if a == b {
                return None;
            }
            let (a, b): (&[u8], &[u8]) = (bytemuck::cast_slice(a), bytemuck::cast_slice(b));
            let offset = a.iter().zip(b).position(|(a, b)| a != b)?;
            Some(Address(((number as u64) << OFFSET_BITS) + offset as u64))
        })
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        let mut storage = self.storage.clone();
        let mut moved = HashSet::new();
        let regions: Vec<Region> = std::iter::zip(&self.regions, &mut storage)
            .map(|(region, storage)| {
                if region.base.is_null() {
                    return *region;
                }
                let base: *mut u8 = storage.as_mut_ptr().cast();
                let old = region.base.addr();
                let marks = lock(&self.written);
                let inside = marks
                    .iter()
                    .filter(|&&at| (old..old + region.bytes as usize).contains(&at));
                moved.extend(inside.map(|at| at - old + base.addr()));
                Region { base, ..*region }
            })
            .collect();
        Memory {
            regions,
            storage,
            freed: self.freed.clone(),
            written: Mutex::new(moved),
            ..*self
        }
    }
}

/// The words, or pairs of bytes, of an element that look unwritten: addresses of their pairs.
fn looking_unwritten(element: &[u8]) -> impl Iterator<Item = usize> {
    let unit = if element.len().is_multiple_of(4) {
        4
    } else {
        2
    };
    element
        .chunks_exact(unit)
        .filter(|unit| unit.iter().all(|&byte| byte == UNWRITTEN))
        .flat_map(|unit| (0..unit.len()).step_by(2).map(|i| unit.as_ptr().addr() + i))
}

/// Whether what looks unwritten of an element was written.
pub(in crate::backend::cuda::driver) fn was_written(written: &Written, element: &[u8]) -> bool {
    looking_unwritten(element).all(|at| written.contains(&at))
}

/// Remembers what looks unwritten of an element.
pub(in crate::backend::cuda::driver) fn mark(written: &mut Written, element: &[u8]) {
    written.extend(looking_unwritten(element));
}
