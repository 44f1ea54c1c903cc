//! Ranges on the timelines of NVIDIA's profilers (NVTX, the Tools Extension).
//!
//! NVTX 3 is a protocol between a program and a tool, which NVIDIA's C headers implement on the
//! program's side; there is no library to load any more (CUDA 12 dropped `libnvToolsExt`, which cudarc's
//! bindings want), and a build for GPUs need not have a C compiler. So this is the program's side, as far
//! as ranges need it (`nvtxTypes.h`, `nvtxInit.h` and `nvtxImpl.h` of
//! <https://github.com/NVIDIA/NVTX>). A tool names its library in `NVTX_INJECTION64_PATH`. The program
//! loads it and calls its `InitializeInjectionNvtx2` with a function by which the tool finds the
//! program's tables; into their slots the tool writes its functions, such as the one that starts a range.
//! Without a tool nothing is loaded, and ranges do nothing.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

/// A function of the tool; null where it wants none.
type Slot = AtomicPtr<c_void>;

/// Functions of each of the modules 1 to 6, the reserved first one included: core, CUDA, OpenCL, CUDA's
/// runtime, core 2 and synchronization.
const SIZES: [usize; 6] = [16, 9, 15, 7, 16, 7];
const MOST: usize = 16;
const CORE: usize = 0;
/// Of the core module: `int nvtxRangePushA(const char*)` and `int nvtxRangePop()`.
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;

static SLOTS: [[Slot; MOST]; SIZES.len()] =
    [const { [const { AtomicPtr::new(ptr::null_mut()) }; MOST] }; SIZES.len()];

/// A module's table: where its slots are, null for the reserved first one and at the end.
struct Table([*const Slot; MOST + 1]);

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    bytes: usize,
    table: extern "C" fn(c_int, *mut *const *const Slot, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct Version {
    bytes: usize,
    version: u32,
    reserved: u32,
    set_tool: extern "C" fn(u32),
}

// SAFETY: the pointers are to `SLOTS`, which threads may share.
unsafe impl Send for Table {}
// SAFETY: the slots are atomic.
unsafe impl Sync for Table {}

static CALLBACKS: Callbacks = Callbacks {
    bytes: size_of::<Callbacks>(),
    table,
};
static VERSION: Version = Version {
    bytes: size_of::<Version>(),
    version: 3,
    reserved: 0,
    set_tool,
};

/// The tables, for tools to read.
fn tables() -> &'static [Table; SIZES.len()] {
    static TABLES: OnceLock<[Table; SIZES.len()]> = OnceLock::new();
    TABLES.get_or_init(|| {
        std::array::from_fn(|module| {
            Table(std::array::from_fn(|function| {
                match (1..SIZES[module]).contains(&function) {
                    true => ptr::from_ref(&SLOTS[module][function]),
                    false => ptr::null(),
                }
            }))
        })
    })
}

/// Gives a module's table and the number of functions in it.
extern "C" fn table(module: c_int, table: *mut *const *const Slot, size: *mut c_uint) -> c_int {
    let index = (module as usize).wrapping_sub(1);
    let Some(found) = tables().get(index) else {
        return 0;
    };
    // SAFETY: the protocol has the tool pass places to write to, or null.
    unsafe {
        if !table.is_null() {
            *table = found.0.as_ptr();
        }
        if !size.is_null() {
            *size = SIZES[index] as c_uint;
        }
    }
    1
}

extern "C" fn set_tool(_: u32) {}

/// Gives one of the structs that a tool asks for, by its number.
extern "C" fn export(what: u32) -> *const c_void {
    match what {
        1 => ptr::from_ref(&CALLBACKS).cast(),
        3 => ptr::from_ref(&VERSION).cast(),
        _ => ptr::null(),
    }
}

/// `InitializeInjectionNvtx2`: false where the tool does not want to work.
type Initialize = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;

/// Lets a tool write its functions down; whether it did.
fn attach(initialize: Initialize) -> bool {
    // SAFETY: the tool keeps to the protocol: it calls `export` and writes functions to the slots of the
    // tables that it gets.
    unsafe { initialize(export) != 0 }
}

/// Loads the tool that the environment names, once; whether there is one.
fn tool() -> bool {
    static TOOL: OnceLock<Option<Library>> = OnceLock::new();
    let load = || {
        let name = match size_of::<usize>() {
            4 => "NVTX_INJECTION32_PATH",
            _ => "NVTX_INJECTION64_PATH",
        };
        let path = std::env::var_os(name)?;
        // SAFETY: the user's tool wants to be loaded into this process.
        let library = unsafe { Library::new(path) }.ok()?;
        // SAFETY: the protocol gives the symbol this type.
        let initialize = unsafe { library.get::<Initialize>(b"InitializeInjectionNvtx2\0") };
        let attached = attach(*initialize.ok()?);
        attached.then_some(library)
    };
    TOOL.get_or_init(load).is_some()
}

/// A range of this thread's work, until it is dropped.
pub(super) struct Range {
    /// Whether a tool knows of it.
    pushed: bool,
    /// It ends on the thread that it starts on.
    on_thread: PhantomData<*const ()>,
}

impl Range {
    pub(super) fn new(name: &str) -> Self {
        Range {
            pushed: tool() && push(name),
            on_thread: PhantomData,
        }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if self.pushed {
            pop();
        }
    }
}

/// A slot of the core module, if the tool wrote to it.
fn core(function: usize) -> Option<*mut c_void> {
    let function = SLOTS[CORE][function].load(Ordering::Acquire);
    (!function.is_null()).then_some(function)
}

/// Starts a range; whether the tool wants any.
fn push(name: &str) -> bool {
    let (Some(push), Ok(name)) = (core(RANGE_PUSH), CString::new(name)) else {
        return false;
    };
    // SAFETY: what tools write to this slot is this function.
    let push: unsafe extern "C" fn(*const c_char) -> c_int = unsafe { std::mem::transmute(push) };
    // SAFETY: the tool copies the name.
    unsafe { push(name.as_ptr()) };
    true
}

/// Ends this thread's innermost range.
fn pop() {
    if let Some(pop) = core(RANGE_POP) {
        // SAFETY: what tools write to this slot is this function.
        let pop: unsafe extern "C" fn() -> c_int = unsafe { std::mem::transmute(pop) };
        // SAFETY: this thread has a range to end.
        unsafe { pop() };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::ffi::CStr;

    use super::*;

    thread_local! {
        static CALLS: RefCell<Vec<String>> = const { RefCell::new(vec![]) };
    }

    unsafe extern "C" fn tools_push(name: *const c_char) -> c_int {
        // SAFETY: it is called with a string.
        let name = unsafe { CStr::from_ptr(name) };
        CALLS.with_borrow_mut(|calls| calls.push(name.to_str().unwrap().to_owned()));
        0
    }

    unsafe extern "C" fn tools_pop() -> c_int {
        CALLS.with_borrow_mut(|calls| calls.push("pop".to_owned()));
        0
    }

    /// A tool, as NVTX's headers have it on the tool's side.
    unsafe extern "C" fn tools_initialize(export: extern "C" fn(u32) -> *const c_void) -> c_int {
        assert!(export(0).is_null() && export(2).is_null());
        // SAFETY: the protocol's types.
        let (callbacks, version) = unsafe {
            (
                &*export(1).cast::<Callbacks>(),
                &*export(3).cast::<Version>(),
            )
        };
        assert_eq!((callbacks.bytes, version.bytes), (16, 24));
        assert_eq!(version.version, 3);
        (version.set_tool)(3);
        assert_eq!((callbacks.table)(0, ptr::null_mut(), ptr::null_mut()), 0);
        assert_eq!((callbacks.table)(7, ptr::null_mut(), ptr::null_mut()), 0);
        let mut table = ptr::null();
        for (module, functions) in (1..).zip(SIZES) {
            let mut size = 0;
            assert_eq!((callbacks.table)(module, &mut table, &mut size), 1);
            assert_eq!(size as usize, functions);
            // SAFETY: a table has one entry more than it says.
            let table = unsafe { std::slice::from_raw_parts(table, functions + 1) };
            assert!(table[0].is_null() && table[functions].is_null());
            assert!(table[1..functions].iter().all(|slot| !slot.is_null()));
        }
        (callbacks.table)(1, &mut table, ptr::null_mut());
        // SAFETY: the core module has these slots; a C tool writes plain pointers to them.
        unsafe {
            *(*table.add(RANGE_PUSH)).cast_mut() = AtomicPtr::new(tools_push as *mut c_void);
            *(*table.add(RANGE_POP)).cast_mut() = AtomicPtr::new(tools_pop as *mut c_void);
        }
        1
    }

    #[test]
    fn a_tool_sees_ranges_start_and_end() {
        assert!(!push("before there is a tool"));
        assert!(attach(tools_initialize));
        assert!(push("outer"));
        assert!(push("inner"));
        assert!(!push("no\0string"));
        pop();
        pop();
        CALLS.with_borrow(|calls| assert_eq!(*calls, ["outer", "inner", "pop", "pop"]));
    }
}
