//! A profile of a device, from its start to its end, and the phases in it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::device::Device;
use super::error::{DriverError, Result};
#[cfg(feature = "cuda")]
use super::nvtx;
use super::profile::Profile;
use super::profiler::Profiler;
use super::recording;

impl Device {
    /// Measures from now on what this device does, asked by whomever, until the result is asked for.
    ///
    /// # Errors
    /// It is profiled already, or a graph is recorded; the driver's.
    pub fn profile(&self) -> Result<Profiling> {
        recording::refuse(&self.driver, "start of a profile")?;
        match self.profiler.start(|| self.driver.clone().timeline())? {
            true => Ok(Profiling {
                device: self.clone(),
            }),
            false => Err(DriverError::Failed {
                device: self.name().to_owned(),
                operation: "start of a profile".to_owned(),
                cause: "it is profiled already".to_owned(),
            }),
        }
    }

    /// Starts a phase of the work, which ends when it is dropped: a range in NVIDIA's profilers (NVTX),
    /// and in the device's own [`Profile`].
    pub fn phase(&self, name: &'static str) -> Phase {
        Phase {
            number: self.profiler.open(name),
            profiler: self.profiler.clone(),
            on_thread: PhantomData,
            #[cfg(feature = "cuda")]
            _range: nvtx::Range::new(name),
        }
    }
}

/// A device that is profiled. Dropped without [`finish`](Self::finish), what was measured is forgotten.
#[must_use]
#[derive(Debug)]
pub struct Profiling {
    device: Device,
}

impl Profiling {
    /// Ends the measuring; phases that have not ended end here.
    ///
    /// # Errors
    /// The driver's.
    pub fn finish(self) -> Result<Profile> {
        let device = &self.device;
        let profile = device.profiler.finish(device.name(), device.peak());
        // Only this value ends what it began.
        profile.expect("a device that is profiled")
    }
}

impl Drop for Profiling {
    fn drop(&mut self) {
        self.device.profiler.stop();
    }
}

/// A named stretch of work, until it is dropped. Phases may lie in one another.
#[must_use = "a phase ends when it is dropped"]
pub struct Phase {
    profiler: Arc<Profiler>,
    number: u64,
    /// NVTX's ranges end on the thread that they start on.
    on_thread: PhantomData<*const ()>,
    #[cfg(feature = "cuda")]
    _range: nvtx::Range,
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phase {}", self.number)
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.profiler.close(self.number);
    }
}
