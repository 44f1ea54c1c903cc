//! Runs the threads of one block after another.
//!
//! A fiber runs threads from their start to their end. A thread that has to wait keeps its fiber, and
//! another fiber goes on with the rest; when all have come, or ended, those that wait are let go. So a
//! kernel without barriers needs one fiber, and no switch between its threads.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::ffi::c_void;
use std::ptr;

use corosensei::stack::{DefaultStack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::super::arguments::RawArguments;
use super::super::kernel::Kernel;
use super::super::launch::Launch;
use super::bridge::{
    Context, Counters, Entry, Host, Index, MAX_THREADS, MAX_VALUES, Meeting, RawFault,
    RawFaultKind, RawSpace, UNWRITTEN, backstitch_emulator_context,
};
use super::fault::{Access, Fault, Space};
use super::memory::{self, Memory, Written};
use super::order::Order;
use crate::backend::cuda::kernels::LARGEST_FRAME;

/// Of a fiber's stack, in bytes; its pages cost nothing until they are touched. What the compiler lets a
/// kernel's function have of it leaves room for a chain of them, and for the host's functions that it calls.
const STACK: usize = 256 * 1024;
const _: () = assert!(STACK - STACK / 4 >= 16 * LARGEST_FRAME);

/// A launch, the same for all workers.
pub(super) struct LaunchPlan<'a> {
    entry: Entry,
    arguments: *const c_void,
    launch: Launch,
    memory: &'a Memory,
    /// Threads of a block in the order in which they run.
    threads: Vec<u32>,
}

// SAFETY: the arguments are only read, and outlive the plan.
unsafe impl Sync for LaunchPlan<'_> {}

impl<'a> LaunchPlan<'a> {
    pub(super) fn new(
        kernel: &Kernel,
        launch: Launch,
        arguments: RawArguments<'a>,
        memory: &'a Memory,
        order: Order,
    ) -> Self {
        assert!(
            launch.block as usize <= MAX_THREADS,
            "KERNEL's threads are at most {MAX_THREADS}"
        );
        LaunchPlan {
            entry: kernel.emulated.entry,
            arguments: arguments.data,
            launch,
            memory,
            threads: order.of(launch.block),
        }
    }
}

/// What a fiber tells the scheduler.
enum Event {
    /// It is new; its way back.
    Ready(*const Way),
    /// Its thread waits in this line of the source.
    Waits(Meeting, u32),
    /// Its thread failed.
    Failed(RawFault),
    /// There is no thread left to start.
    Idle,
}

/// The way from a fiber back to the scheduler; the scheduler answers with the worker to run threads of.
type Way = Yielder<*const Worker<'static>, Event>;

/// A stack that starts some way below its memory's end. Were all to start at the end of a page, what
/// fibers use of them would lie in the same few sets of the processor's caches.
struct Stack {
    memory: DefaultStack,
    below: usize,
}

impl Stack {
    /// Stacks start so many bytes from one another, modulo the page.
    const STEP: usize = 13 * 64;

    fn new() -> Self {
        let number = STACKS.replace(STACKS.get() + 1);
        Stack {
            memory: DefaultStack::new(STACK).expect("address space for a fiber's stack"),
            below: number * Self::STEP % (STACK / 4),
        }
    }
}

// SAFETY: as the memory's own, of which it is a part; the start stays a multiple of 64.
unsafe impl corosensei::stack::Stack for Stack {
    fn base(&self) -> StackPointer {
        let base = self.memory.base().get() - self.below;
        StackPointer::new(base).expect("inside the stack's memory")
    }
    fn limit(&self) -> StackPointer {
        self.memory.limit()
    }
}

struct Fiber {
    coroutine: Coroutine<*const Worker<'static>, Event, Infallible, Stack>,
    way: *const Way,
}

impl Fiber {
    fn new() -> Self {
        let mut coroutine = Coroutine::with_stack(Stack::new(), |way: &Way, _| {
            let mut worker = way.suspend(Event::Ready(way));
            loop {
                // SAFETY: a worker resumes a fiber with its own address, and outlives that.
                unsafe { (*worker).run_threads() };
                worker = way.suspend(Event::Idle);
            }
        });
        let CoroutineResult::Yield(Event::Ready(way)) = coroutine.resume(ptr::null()) else {
            unreachable!("a fiber first says that it is ready")
        };
        Fiber { coroutine, way }
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        // SAFETY: what is on the stack are frames of kernels, which are C++ without destructors, and of
        // functions here that own nothing.
        unsafe { self.coroutine.force_reset() };
    }
}

thread_local! {
    /// Stacks made so far, on this thread of the machine.
    static STACKS: Cell<usize> = const { Cell::new(0) };
    /// Fibers that ran before, on this thread of the machine.
    static IDLE: RefCell<Vec<Fiber>> = const { RefCell::new(vec![]) };
    /// The worker on this thread of the machine.
    static WORKER: Cell<*const Worker<'static>> = const { Cell::new(ptr::null()) };
}

struct Waiting {
    fiber: Fiber,
    meeting: Meeting,
    line: u32,
}

/// Runs blocks on one thread of the machine.
pub(super) struct Worker<'a> {
    plan: &'a LaunchPlan<'a>,
    context: *mut Context,
    block: [u32; 3],
    shared: Vec<u128>,
    /// Values on their way between lanes.
    lanes: Vec<u64>,
    /// Of shared memory.
    written: RefCell<Written>,
    /// Place in the order of the next thread to start.
    next: Cell<usize>,
    /// The thread that runs.
    thread: Cell<u32>,
    /// Its fiber's way back.
    way: Cell<*const Way>,
    /// By thread.
    waiting: Vec<Option<Waiting>>,
}

static HOST: Host = Host {
    wait,
    fault,
    written,
    wrote,
};

impl<'a> Worker<'a> {
    /// Runs blocks, given by their numbers.
    pub(super) fn run(plan: &'a LaunchPlan<'a>, blocks: &[u32]) -> Result<Counters, Fault> {
        let launch = plan.launch;
        let context = backstitch_emulator_context();
        let mut worker = Worker {
            plan,
            context,
            block: [0; 3],
            shared: vec![0; (launch.shared as usize).div_ceil(16)],
            lanes: vec![0; 2 * MAX_VALUES * MAX_THREADS],
            written: RefCell::default(),
            next: Cell::new(0),
            thread: Cell::new(0),
            way: Cell::new(ptr::null()),
            waiting: (0..launch.block).map(|_| None).collect(),
        };
        let regions = plan.memory.regions();
        // SAFETY: the context is this thread's own, and no fiber runs now.
        unsafe {
            (*context).block_size = [launch.block, 1, 1].into();
            (*context).grid = launch.grid.into();
            (*context).counters = Counters::default();
            (*context).regions = regions.as_ptr();
            (*context).region_count = regions.len() as u64;
            (*context).shared = worker.shared.as_mut_ptr().cast();
            (*context).shared_bytes = launch.shared.into();
            (*context).lanes = worker.lanes.as_mut_ptr();
            (*context).host = &raw const HOST;
        }
        for &block in blocks {
            let [x, y, _] = launch.grid;
            worker.run_block([block % x, block / x % y, block / x / y])?;
        }
        // SAFETY: the context is still this thread's own.
        Ok(unsafe { (*context).counters })
    }

    fn run_block(&mut self, block: [u32; 3]) -> Result<(), Fault> {
        self.block = block;
        self.shared.fill(u128::from_ne_bytes([UNWRITTEN; 16]));
        self.written.get_mut().clear();
        // SAFETY: the context is this thread's own, and no fiber runs now.
        unsafe {
            (*self.context).block = block.into();
            (*self.context).turn = [0; MAX_THREADS];
        }
        self.next.set(0);
        while self.next.get() < self.plan.threads.len() {
            let idle = IDLE.with_borrow_mut(Vec::pop);
            self.resume(idle.unwrap_or_else(Fiber::new))?;
        }
        while self.waiting.iter().any(Option::is_some) {
            let everyone = self.who_goes_on()?;
            for i in 0..self.plan.threads.len() {
                let thread = self.plan.threads[i];
                let waiting = &mut self.waiting[thread as usize];
                let goes_on = |w: &mut Waiting| everyone || w.meeting == Meeting::Warp;
                if let Some(waiting) = waiting.take_if(goes_on) {
                    self.select(thread);
                    self.resume(waiting.fiber)?;
                }
            }
        }
        Ok(())
    }

    /// Whether all threads go on, or those that wait for their warps; all have run as far as they could.
    fn who_goes_on(&self) -> Result<bool, Fault> {
        let diverges = |thread: usize, waiting: &Waiting, other: usize| Fault::Divergence {
            block: self.block,
            thread: thread as u32,
            line: waiting.line,
            warp: waiting.meeting == Meeting::Warp,
            other: other as u32,
            other_line: self.waiting[other].as_ref().map(|other| other.line),
        };
        // All of `threads` must wait where one of them does, if it is at this kind of meeting.
        let meets = |threads: std::ops::Range<usize>, meeting| {
            let mut found = threads
                .clone()
                .filter_map(|t| Some((t, self.waiting[t].as_ref()?)));
            let Some((thread, waiting)) = found.find(|(_, w)| w.meeting == meeting) else {
                return Ok(false);
            };
            let here = |other: &Waiting| (other.meeting, other.line) == (meeting, waiting.line);
            match threads
                .clone()
                .find(|&t| !self.waiting[t].as_ref().is_some_and(here))
            {
                Some(other) => Err(diverges(thread, waiting, other)),
                None => Ok(true),
            }
        };
        let threads = self.waiting.len();
        let mut warps = false;
        for lane in (0..threads).step_by(32) {
            warps |= meets(lane..threads.min(lane + 32), Meeting::Warp)?;
        }
        Ok(!warps && meets(0..threads, Meeting::Barrier)?)
    }

    /// Makes a thread the one that runs.
    fn select(&self, thread: u32) {
        self.thread.set(thread);
        let index = Index {
            x: thread,
            y: 0,
            z: 0,
        };
        // SAFETY: the context is this thread's own; kernels have no references to it.
        unsafe { (*self.context).thread = index };
    }

    /// Lets a fiber run on: what waits in it, or threads that have not started.
    fn resume(&mut self, mut fiber: Fiber) -> Result<(), Fault> {
        self.way.set(fiber.way);
        let this = ptr::from_ref(self).cast::<Worker<'static>>();
        WORKER.set(this);
        match fiber.coroutine.resume(this) {
            CoroutineResult::Yield(Event::Idle) => IDLE.with_borrow_mut(|idle| idle.push(fiber)),
            CoroutineResult::Yield(Event::Waits(meeting, line)) => {
                self.waiting[self.thread.get() as usize] = Some(Waiting {
                    fiber,
                    meeting,
                    line,
                });
            }
            CoroutineResult::Yield(Event::Failed(fault)) => return Err(self.describe(&fault)),
            CoroutineResult::Yield(Event::Ready(_)) => unreachable!("said once, when it is new"),
        }
        Ok(())
    }

    /// On a fiber: runs threads until none is left to start.
    fn run_threads(&self) {
        while let Some(&thread) = self.plan.threads.get(self.next.get()) {
            self.next.set(self.next.get() + 1);
            self.select(thread);
            // SAFETY: KERNEL defines the entry, and the driver has checked that the arguments are its.
            unsafe { (self.plan.entry)(self.plan.arguments) };
        }
    }

    fn describe(&self, fault: &RawFault) -> Fault {
        let (block, thread) = (self.block, self.thread.get());
        let access = Access {
            block,
            thread,
            space: match fault.space {
                RawSpace::Global => Space::Global(self.plan.memory.number_of(fault.base)),
                RawSpace::Shared => {
                    let start = self.shared.as_ptr().addr();
                    Space::Shared(fault.base.addr().wrapping_sub(start) as u64)
                }
            },
            offset: fault.offset,
            bytes: fault.bytes,
            size: fault.size,
        };
        match fault.kind {
            RawFaultKind::ReadOutOfBounds => Fault::ReadOutOfBounds(access),
            RawFaultKind::WriteOutOfBounds => Fault::WriteOutOfBounds(access),
            RawFaultKind::Uninitialized => Fault::Uninitialized(access),
            RawFaultKind::Misaligned => Fault::Misaligned(access),
            RawFaultKind::BadAddress => {
                self.plan
                    .memory
                    .bad_address(block, thread, fault.offset as u64)
            }
            RawFaultKind::SharedTooSmall => Fault::SharedTooSmall {
                has: fault.size,
                wanted: fault.bytes,
            },
            RawFaultKind::AbsentLane => Fault::AbsentLane {
                block,
                thread,
                lane: fault.offset as u64,
            },
        }
    }

    /// Whether memory at a place on the host is this block's shared memory.
    fn is_shared(&self, at: *const u8) -> bool {
        let start = self.shared.as_ptr().addr();
        (start..start + 16 * self.shared.len()).contains(&at.addr())
    }
}

/// The worker whose fiber calls.
fn worker<'a>() -> &'a Worker<'static> {
    // SAFETY: set before a fiber runs, to a worker that outlives that; the fiber's callers hold no
    // exclusive reference while it runs that they use before it comes back.
    unsafe { &*WORKER.get() }
}

fn suspend(event: Event) {
    // SAFETY: the way of the fiber that runs, set when it was resumed.
    unsafe { (*worker().way.get()).suspend(event) };
}

extern "C" fn wait(meeting: Meeting, line: u32) {
    suspend(Event::Waits(meeting, line));
}

unsafe extern "C" fn fault(fault: *const RawFault) {
    // SAFETY: device.h passes a fault.
    suspend(Event::Failed(unsafe { *fault }));
}

unsafe extern "C" fn written(at: *const u8, bytes: u64) -> bool {
    let worker = worker();
    // SAFETY: device.h passes an element within its allocation.
    let element = unsafe { std::slice::from_raw_parts(at, bytes as usize) };
    if worker.is_shared(at) {
        memory::was_written(&worker.written.borrow(), element)
    } else {
        worker.plan.memory.was_written(element)
    }
}

unsafe extern "C" fn wrote(at: *const u8, bytes: u64) {
    let worker = worker();
    // SAFETY: device.h passes an element within its allocation.
    let element = unsafe { std::slice::from_raw_parts(at, bytes as usize) };
    if worker.is_shared(at) {
        memory::mark(&mut worker.written.borrow_mut(), element);
    } else {
        worker.plan.memory.mark(element);
    }
}
