//! The launches that a thread records instead of launching them.

use std::cell::RefCell;
use std::sync::Arc;

use super::arguments::RawArguments;
use super::error::{DriverError, Result};
use super::interface::Driver;
use super::kernel::Kernel;
use super::launch::Launch;
use super::recorded::Recorded;

struct Recording {
    driver: Arc<dyn Driver>,
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

/// The launches that `f` makes of the driver on this thread.
///
/// # Errors
/// `f`'s; [`DriverError::Recording`] while another recording is made.
pub(super) fn launches_of<E: From<DriverError>>(
    driver: &Arc<dyn Driver>,
    f: impl FnOnce() -> Result<(), E>,
) -> Result<Vec<Recorded>, E> {
    if RECORDING.with_borrow(Option::is_some) {
        return Err(refused(driver, "recording").into());
    }
    RECORDING.set(Some(Recording {
        driver: driver.clone(),
        launches: vec![],
    }));
    let guard = Guard;
    f()?;
    let recorded = RECORDING.take();
    drop(guard);
    Ok(recorded.map_or(vec![], |recording| recording.launches))
}

/// Whether the driver's launches are recorded.
fn is_recorded(recording: &Recording, driver: &Arc<dyn Driver>) -> bool {
    Arc::ptr_eq(&recording.driver, driver)
}

/// Takes a launch down, if the driver's are recorded on this thread.
pub(super) fn record(
    driver: &Arc<dyn Driver>,
    kernel: &Kernel,
    launch: Launch,
    arguments: RawArguments<'_>,
) -> bool {
    RECORDING.with_borrow_mut(|recording| match recording {
        Some(recording) if is_recorded(recording, driver) => {
            let recorded = Recorded::new(kernel, launch, arguments);
            recording.launches.push(recorded);
            true
        }
        _ => false,
    })
}

/// Refuses what is no launch, if the driver's are recorded on this thread.
pub(super) fn refuse(driver: &Arc<dyn Driver>, operation: &'static str) -> Result<()> {
    let recorded = RECORDING.with_borrow(|recording| {
        let recording = recording.as_ref();
        recording.is_some_and(|recording| is_recorded(recording, driver))
    });
    match recorded {
        true => Err(refused(driver, operation)),
        false => Ok(()),
    }
}

fn refused(driver: &Arc<dyn Driver>, operation: &'static str) -> DriverError {
    DriverError::Recording {
        device: driver.name().to_owned(),
        operation,
    }
}
