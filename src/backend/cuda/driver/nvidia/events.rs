//! When the GPU works, by events in its stream.

use std::sync::Arc;

use cudarc::driver::result::{DriverError as Refusal, event};
use cudarc::driver::sys;

use super::super::error::Result;
use super::super::timeline::Timeline;
use super::gpu::Nvidia;

/// Events of one stream, used again and again.
pub(super) struct Events {
    gpu: Arc<Nvidia>,
    /// An event that has come to pass, and its time in seconds since the first.
    known: (sys::CUevent, f64),
    /// Two for each piece of work, its begin and its end.
    pool: Vec<sys::CUevent>,
    /// Pieces that have ended since the last reading.
    pieces: usize,
}

// SAFETY: the driver's handles may be used from any thread; every use makes the context current first.
unsafe impl Send for Events {}

impl Events {
    pub(super) fn new(gpu: Arc<Nvidia>) -> Result<Self> {
        gpu.enter()?;
        let failed = |refusal| gpu.failed("starting a timeline", refusal);
        let first = event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
        let events = Events {
            gpu: gpu.clone(),
            known: (first, 0.0),
            pool: vec![],
            pieces: 0,
        };
        // SAFETY: event and stream live as long as `events`.
        let recorded =
            unsafe { event::record(first, gpu.stream).and_then(|()| event::synchronize(first)) };
        recorded.map_err(failed)?;
        Ok(events)
    }

    /// Puts an event of the pool into the stream.
    fn mark(&mut self, index: usize) -> Result<()> {
        self.gpu.enter()?;
        let mark = || {
            while self.pool.len() <= index {
                let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
                self.pool.push(event::create(flags)?);
            }
            // SAFETY: event and stream live as long as this.
            unsafe { event::record(self.pool[index], self.gpu.stream) }
        };
        let marked: std::result::Result<(), Refusal> = { mark }();
        marked.map_err(|refusal| self.gpu.failed("an event", refusal))
    }

    /// The times of all pieces that have ended.
    fn read(&mut self) -> std::result::Result<Vec<[f64; 2]>, Refusal> {
        let used = &mut self.pool[..2 * self.pieces];
        let Some(&last) = used.last() else {
            return Ok(vec![]);
        };
        // SAFETY: as in `mark`.
        unsafe { event::synchronize(last) }?;
        let (mut before, mut seconds) = self.known;
        let mut times = Vec::with_capacity(used.len());
        for &next in &*used {
            // Differences of neighbors: milliseconds in float32 are exact enough for those alone.
            // SAFETY: both events are in one stream, and have completed.
            seconds += f64::from(unsafe { event::elapsed(before, next) }?) * 1e-3;
            times.push(seconds);
            before = next;
        }
        // The last one is what the next are measured from; the one before it is free again.
        if let Some(last) = used.last_mut() {
            std::mem::swap(last, &mut self.known.0);
            self.known.1 = seconds;
        }
        let (pieces, _) = times.as_chunks();
        Ok(pieces.to_vec())
    }
}

impl Timeline for Events {
    fn begin(&mut self) -> Result<()> {
        self.mark(2 * self.pieces)
    }

    fn end(&mut self) -> Result<()> {
        self.mark(2 * self.pieces + 1)?;
        self.pieces += 1;
        Ok(())
    }

    fn take(&mut self) -> Result<Vec<[f64; 2]>> {
        self.gpu.enter()?;
        let times = self.read();
        self.pieces = 0;
        times.map_err(|refusal| self.gpu.failed("reading events", refusal))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            for &event in self.pool.iter().chain([&self.known.0]) {
                // SAFETY: created here, and not used again; what is still in the stream keeps its own.
                let _ = unsafe { event::destroy(event) };
            }
        }
    }
}
