//! When a device works.

use std::time::Instant;

use super::error::Result;

/// Measures when a device's work begins and ends, one piece after another.
pub(super) trait Timeline: Send {
    /// What is asked for from now on belongs to the next piece; a piece that has not ended is forgotten.
    fn begin(&mut self) -> Result<()>;
    /// It does no longer.
    fn end(&mut self) -> Result<()>;
    /// Begin and end of all pieces that have ended since the last call, in seconds since the timeline was
    /// made; waits until they are done.
    fn take(&mut self) -> Result<Vec<[f64; 2]>>;
}

/// The host's clock, for work that is done when its call returns.
pub(super) struct HostTimeline {
    start: Instant,
    begun: f64,
    done: Vec<[f64; 2]>,
}

impl HostTimeline {
    pub(super) fn new() -> Self {
        HostTimeline {
            start: Instant::now(),
            begun: 0.0,
            done: vec![],
        }
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl Timeline for HostTimeline {
    fn begin(&mut self) -> Result<()> {
        self.begun = self.now();
        Ok(())
    }
    fn end(&mut self) -> Result<()> {
        self.done.push([self.begun, self.now()]);
        Ok(())
    }
    fn take(&mut self) -> Result<Vec<[f64; 2]>> {
        Ok(std::mem::take(&mut self.done))
    }
}
