//! Launches that are recorded once and repeated often: CUDA graphs.
//!
//! What is recorded is a list on the host, and a driver makes of it what it repeats fastest. NVIDIA's
//! driver could capture the launches itself (`cuStreamBeginCapture`), but capturing takes in what other
//! threads put into the device's stream meanwhile, and forbids to load modules; a list has neither
//! trouble, and the emulator can repeat it too.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Arc;

use super::{Device, DriverError, Kernel, Launch, Layout, RawArguments, Result};

/// A launch with a copy of its arguments.
pub(super) struct Recorded {
    pub kernel: Kernel,
    pub launch: Launch,
    /// As many words as the arguments need; the bytes between their fields are whatever they were.
    arguments: Box<[MaybeUninit<u64>]>,
    layout: Layout,
}

impl Recorded {
    fn new(kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Self {
        let bytes = arguments.layout.bytes;
        let mut copy = vec![MaybeUninit::<u64>::uninit(); bytes.div_ceil(8)];
        // SAFETY: `data` points to a struct of `bytes` bytes, its layout's; the copy has room for them, and
        // need not be initialised.
        unsafe {
            arguments
                .data
                .cast::<MaybeUninit<u8>>()
                .copy_to_nonoverlapping(copy.as_mut_ptr().cast(), bytes);
        }
        Recorded {
            kernel: *kernel,
            launch,
            arguments: copy.into(),
            layout: arguments.layout,
        }
    }

    pub fn arguments(&self) -> RawArguments<'_> {
        RawArguments {
            data: self.arguments.as_ptr().cast(),
            layout: self.layout,
            lifetime: PhantomData,
        }
    }
}

/// What a driver made of recorded launches.
pub(super) trait Executable: Send + Sync {
    /// Launches all of them, in their order.
    fn launch(&self) -> Result<()>;
}

/// Launches that were recorded ([`Device::record`]), with their arguments.
///
/// A graph holds the addresses that its launches were given, not the buffers: whoever launches it keeps
/// those alive, as for any other launch (on a GPU, a launch after that fails or computes wrong numbers).
/// So a graph lives best beside its buffers, in the same struct. What the buffers hold may change
/// between launches.
pub struct Graph {
    device: Device,
    launches: Vec<Recorded>,
    executable: Option<Box<dyn Executable>>,
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(&self.launches))
    }
}

impl Graph {
    /// Launches that it holds.
    pub fn len(&self) -> usize {
        self.launches.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.launches.is_empty()
    }

    /// Runs all launches in their order, `times` times over. While the device is profiled they are
    /// launched one by one, so that each is measured.
    ///
    /// # Errors
    /// As for [`Device::launch`].
    pub fn launch(&self, times: u32) -> Result<()> {
        refuse(&self.device, "launch of another graph")?;
        for _ in 0..times {
            match &self.executable {
                Some(executable) if !self.device.profiler.is_active() => executable.launch()?,
                _ => {
                    for recorded in &self.launches {
                        let (kernel, launch) = (&recorded.kernel, recorded.launch);
                        self.device.submit(kernel, launch, recorded.arguments())?;
                    }
                }
            }
        }
        Ok(())
    }
}

struct Recording {
    device: Device,
    launches: Vec<Recorded>,
}

thread_local! {
    /// The graph that is recorded on this thread.
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Ends the recording, also where it fails.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        RECORDING.take();
    }
}

impl Device {
    /// Records the launches that `f` makes on this thread, instead of launching them.
    ///
    /// # Errors
    /// `f`'s. Anything else that `f` asks of the device is [`DriverError::Recording`]; so is a recording
    /// while another is made. The device refuses a launch.
    pub fn record<E: From<DriverError>>(
        &self,
        f: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        if RECORDING.with_borrow(Option::is_some) {
            return Err(recording(self, "recording").into());
        }
        RECORDING.set(Some(Recording {
            device: self.clone(),
            launches: vec![],
        }));
        let guard = Guard;
        f()?;
        let recorded = RECORDING.take();
        drop(guard);
        let launches = recorded.map_or(vec![], |recording| recording.launches);
        let executable = match launches.is_empty() {
            true => None,
            false => self.driver.clone().prepare(&launches)?,
        };
        Ok(Graph {
            device: self.clone(),
            launches,
            executable,
        })
    }
}

/// Whether a device's graph is recorded on this thread.
fn is_recorded(recording: &Recording, device: &Device) -> bool {
    Arc::ptr_eq(&recording.device.driver, &device.driver)
}

/// Takes a launch down, if a graph of its device is recorded on this thread.
pub(super) fn record(
    device: &Device,
    kernel: &Kernel,
    launch: Launch,
    arguments: RawArguments<'_>,
) -> bool {
    RECORDING.with_borrow_mut(|recording| match recording {
        Some(recording) if is_recorded(recording, device) => {
            let recorded = Recorded::new(kernel, launch, arguments);
            recording.launches.push(recorded);
            true
        }
        _ => false,
    })
}

/// Refuses what is no launch, if a graph of the device is recorded on this thread.
pub(super) fn refuse(device: &Device, operation: &'static str) -> Result<()> {
    let recorded = RECORDING.with_borrow(|recording| {
        let recording = recording.as_ref();
        recording.is_some_and(|recording| is_recorded(recording, device))
    });
    match recorded {
        true => Err(recording(device, operation)),
        false => Ok(()),
    }
}

fn recording(device: &Device, operation: &'static str) -> DriverError {
    DriverError::Recording {
        device: device.name().to_owned(),
        operation,
    }
}

/// Which kernels are launched, and how often.
pub(super) fn describe(launches: &[Recorded]) -> String {
    let mut kernels: Vec<(&str, usize)> = vec![];
    for recorded in launches {
        let name = recorded.kernel.name;
        match kernels.iter_mut().find(|kernel| kernel.0 == name) {
            Some((_, count)) => *count += 1,
            None => kernels.push((name, 1)),
        }
    }
    let kernels: Vec<String> = kernels
        .iter()
        .map(|(name, count)| match count {
            1 => (*name).to_owned(),
            _ => format!("{count} {name}"),
        })
        .collect();
    format!("a graph of {}", kernels.join(", "))
}
