//! Pictures in batches: decoded ahead on a thread of their own, for commands that need no scheduler.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use crate::error::Result;
use crate::input::Dataset;
use crate::run::RunState;

/// Gives `each` up to `batch` pictures at a time of those that `pictures` of `dataset` gives; of a stream
/// those that have come, so that it waits for none.
///
/// # Errors
/// What `each` fails of.
pub(crate) fn in_batches<T: Send>(
    dataset: &Dataset,
    pictures: impl Iterator<Item = T> + Send,
    batch: usize,
    stop: &AtomicBool,
    mut each: impl FnMut(Vec<T>) -> Result<()>,
) -> Result<RunState> {
    let stopped = || stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(batch);
        scope.spawn(move || {
            for picture in pictures {
                if stopped() || sender.send(picture).is_err() {
                    break;
                }
            }
        });
        let mut ended = Ok(RunState::Done);
        while let Ok(first) = receiver.recv() {
            if stopped() {
                break;
            }
            let mut taken = vec![first];
            match dataset.as_stream() {
                Some(_) => taken.extend(receiver.try_iter().take(batch - 1)),
                None => taken.extend(receiver.iter().take(batch - 1)),
            }
            if let Err(error) = each(taken) {
                ended = Err(error);
                break;
            }
        }
        if stopped() && ended.is_ok() {
            ended = Ok(RunState::Interrupted);
        }
        // The thread must not wait for a line of a stream that nobody wants.
        dataset.end();
        ended
    })
}
