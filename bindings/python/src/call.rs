//! Calls that Ctrl-C ends.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backstitch::{Purifier, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::ThreadPool;

use crate::errors::raised;

/// How often a call looks for signals, and reports its progress.
const POLL: Duration = Duration::from_millis(50);

/// How long an interrupted call waits for its thread, which ends at its next checkpoint. After that the thread ends
/// by itself, and the next call waits for it.
const GRACE: Duration = Duration::from_millis(500);

/// A purifier that several threads may call, one after the other.
pub(crate) struct Shared {
    pub(crate) purifier: Arc<Mutex<Purifier>>,
    /// Threads of its own; `None` for all that the process shares.
    pub(crate) pool: Option<Arc<ThreadPool>>,
    /// Ends what the purifier does.
    pub(crate) interrupt: Arc<AtomicBool>,
}

/// How far a call is.
#[derive(Default)]
pub(crate) struct Progress {
    /// Pictures that are done.
    pub(crate) done: AtomicUsize,
    cancelled: AtomicBool,
}

impl Shared {
    /// Does `work` on a thread of its own while other Python threads run. `progress` is called with the number of
    /// pictures that are done.
    ///
    /// # Errors
    /// Those of `work`; what a signal's handler or `progress` raises, and then `work` is ended.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        progress: Option<&Bound<'_, PyAny>>,
        work: impl FnOnce(&mut Purifier, &Progress) -> Result<T> + Send + 'static,
    ) -> PyResult<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let receiver = Mutex::new(receiver);
        let state = Arc::new(Progress::default());
        let (purifier, pool) = (self.purifier.clone(), self.pool.clone());
        let (interrupt, at_work) = (self.interrupt.clone(), state.clone());
        let thread = std::thread::Builder::new().name("backstitch".into());
        thread.spawn(move || {
            let mut purifier = purifier.lock().unwrap_or_else(PoisonError::into_inner);
            // In this order: who cancels sets both, the other one first.
            interrupt.store(false, Ordering::SeqCst);
            if at_work.cancelled.load(Ordering::SeqCst) {
                return;
            }
            let purifier: &mut Purifier = &mut purifier;
            let work = || work(purifier, &at_work);
            let result = match pool {
                Some(pool) => pool.install(work),
                None => work(),
            };
            let _ = sender.send(result);
        })?;
        let report = || match progress {
            Some(progress) => progress
                .call1((state.done.load(Ordering::Relaxed),))
                .map(drop),
            None => Ok(()),
        };
        let wait = |time| {
            let receiver = &receiver;
            py.detach(|| {
                let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
                receiver.recv_timeout(time)
            })
        };
        loop {
            match wait(POLL) {
                Ok(result) => {
                    let result = result.map_err(raised)?;
                    report()?;
                    return Ok(result);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(PyRuntimeError::new_err("a thread of backstitch panicked"));
                }
            }
            if let Err(raised) = py.check_signals().and_then(|()| report()) {
                state.cancelled.store(true, Ordering::SeqCst);
                self.interrupt.store(true, Ordering::SeqCst);
                let _ = wait(GRACE);
                return Err(raised);
            }
        }
    }
}
