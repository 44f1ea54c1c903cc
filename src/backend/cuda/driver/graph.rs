//! Launches that are recorded once and repeated often: CUDA graphs.
//!
//! What is recorded is a list on the host, and a driver makes of it what it repeats fastest. NVIDIA's
//! driver could capture the launches itself (`cuStreamBeginCapture`), but capturing takes in what other
//! threads put into the device's stream meanwhile, and forbids to load modules; a list has neither
//! trouble, and the emulator can repeat it too.

use std::fmt;

use super::device::Device;
use super::error::{DriverError, Result};
use super::recorded::{Executable, Recorded, describe};
use super::recording::{launches_of, refuse};

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
        refuse(&self.device.driver, "launch of another graph")?;
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
        let launches = launches_of(&self.driver, f)?;
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
