//! What `kernels/emulator/device.h` and this side share: the same structs, in C's layout.

use std::ffi::{CStr, c_char, c_void};
use std::ops::AddAssign;

use super::super::arguments::Layout;

/// A thread of a kernel: runs from its start to its end.
pub(crate) type Entry = unsafe extern "C" fn(*const c_void);

/// The fields of an argument struct as the host's compiler sees them; the last has no name, and the
/// struct's size.
pub type RawFields = unsafe extern "C" fn() -> *const RawField;

/// A kernel on the host.
#[derive(Clone, Copy)]
pub struct Emulated {
    pub entry: Entry,
    pub fields: RawFields,
}

impl Emulated {
    /// Refuses arguments whose layout is not the kernel's.
    pub(super) fn check(&self, layout: Layout) -> Result<(), String> {
        check_layout(self.fields, layout)
    }

    /// The size of the kernel's arguments.
    #[cfg(test)]
    pub(in crate::backend::cuda::driver) fn bytes(&self) -> usize {
        // SAFETY: as in `check_layout`, with which this stops at the entry without a name.
        unsafe {
            let mut raw = (self.fields)();
            while !(*raw).name.is_null() {
                raw = raw.add(1);
            }
            (*raw).bytes as usize
        }
    }
}

/// Refuses a layout that is not the kernels'.
pub fn check_layout(fields: RawFields, layout: Layout) -> Result<(), String> {
    // SAFETY: ARGUMENTS in device.h defines these functions; their arrays are static and end with an
    // entry without a name.
    let mut raw = unsafe { fields() };
    for field in layout.fields {
        // SAFETY: the array of device.h ends with an entry without a name, and the loop returns before it passes that.
        let its = unsafe { *raw };
        if its.name.is_null() {
            return Err(format!(
                "the kernel's arguments have no field {}",
                field.name
            ));
        }
        // SAFETY: names are string literals.
        let name = unsafe { CStr::from_ptr(its.name) };
        if name.to_bytes() != field.name.as_bytes()
            || (its.offset, its.bytes) != (field.offset as u64, field.bytes as u64)
        {
            return Err(format!(
                "field {} has {} bytes at {}, where the kernel has {} of {} bytes at {}",
                field.name,
                field.bytes,
                field.offset,
                name.to_string_lossy(),
                its.bytes,
                its.offset
            ));
        }
        // SAFETY: this entry has a name, so it is not the last.
        raw = unsafe { raw.add(1) };
    }
    // SAFETY: every entry before this one has a name, so this one is in the array.
    let end = unsafe { *raw };
    if !end.name.is_null() || end.bytes != layout.bytes as u64 {
        return Err("the kernel's arguments have more fields or another size".to_owned());
    }
    Ok(())
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct RawField {
    name: *const c_char,
    offset: u64,
    bytes: u64,
}

/// What a kernel did, summed over its threads: bytes that it asked for, wherever caches would have them
/// come from, and multiply-adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    pub global_read: u64,
    pub global_written: u64,
    pub shared_read: u64,
    pub shared_written: u64,
    pub multiply_adds: u64,
    /// Of the matrix units.
    pub matrix_multiply_adds: u64,
}

impl Counters {
    /// What `blocks` blocks do where `run` of them did this.
    pub(super) fn of_more(self, blocks: u32, run: u32) -> Counters {
        let more = |n: u64| (u128::from(n) * u128::from(blocks) / u128::from(run)) as u64;
        Counters {
            global_read: more(self.global_read),
            global_written: more(self.global_written),
            shared_read: more(self.shared_read),
            shared_written: more(self.shared_written),
            multiply_adds: more(self.multiply_adds),
            matrix_multiply_adds: more(self.matrix_multiply_adds),
        }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.global_read += other.global_read;
        self.global_written += other.global_written;
        self.shared_read += other.shared_read;
        self.shared_written += other.shared_written;
        self.multiply_adds += other.multiply_adds;
        self.matrix_multiply_adds += other.matrix_multiply_adds;
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Index {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

impl From<[u32; 3]> for Index {
    fn from([x, y, z]: [u32; 3]) -> Self {
        Index { x, y, z }
    }
}

/// An allocation; no base means freed.
#[derive(Clone, Copy)]
#[repr(C)]
pub(in crate::backend::cuda::driver) struct Region {
    pub base: *mut u8,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(dead_code, reason = "made in C++")]
pub(super) enum RawSpace {
    Global,
    Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(dead_code, reason = "made in C++")]
pub(super) enum RawFaultKind {
    ReadOutOfBounds,
    WriteOutOfBounds,
    Uninitialized,
    BadAddress,
    Misaligned,
    SharedTooSmall,
    AbsentLane,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct RawFault {
    pub kind: RawFaultKind,
    pub space: RawSpace,
    pub base: *const u8,
    pub offset: i64,
    pub bytes: u64,
    pub size: u64,
}

/// What threads wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Meeting {
    /// The block's threads.
    Barrier,
    /// The warp's lanes.
    Warp,
}

#[repr(C)]
pub(super) struct Host {
    pub wait: extern "C" fn(Meeting, u32),
    pub fault: unsafe extern "C" fn(*const RawFault),
    pub written: unsafe extern "C" fn(*const u8, u64) -> bool,
    pub wrote: unsafe extern "C" fn(*const u8, u64),
}

/// The largest block.
pub(super) const MAX_THREADS: usize = 1024;
/// Values that a lane can give to others at once.
pub(super) const MAX_VALUES: usize = 16;

#[repr(C)]
pub(super) struct Context {
    pub thread: Index,
    pub block: Index,
    pub block_size: Index,
    pub grid: Index,
    pub counters: Counters,
    pub regions: *const Region,
    pub region_count: u64,
    pub shared: *mut u8,
    pub shared_bytes: u64,
    pub host: *const Host,
    /// Of two meetings, so many values of so many threads.
    pub lanes: *mut u64,
    pub turn: [u8; MAX_THREADS],
}

unsafe extern "C" {
    /// The context of this thread of the machine.
    pub(super) safe fn backstitch_emulator_context() -> *mut Context;
}

/// The byte that memory holds before it is written.
pub(in crate::backend::cuda::driver) const UNWRITTEN: u8 = 0xa5;

/// Where an allocation's number ends and the offset into it begins, in a device address.
pub(in crate::backend::cuda::driver) const OFFSET_BITS: u32 = 40;
