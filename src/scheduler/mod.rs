//! Purifies a stream of pictures: which images are in flight on which device, and when.
//!
//! ```text
//! reader ─► queue ─► a thread a device ─► queue ─► writers
//!             ▲             │
//!             └── images of a device that fails
//! ```
//!
//! Batching is continuous: an image takes slots of the DIP engine for its instances, runs beside images that
//! began before or after it, and frees the slots when it is finished; the next image takes them. Images that
//! finish at the same time share the classifier's launches. Preprocessing has made all pictures the same
//! size, so pictures of different sizes share batches.
//!
//! Reading and writing have threads of their own. Each queue holds as many pictures as the devices have in
//! flight.

mod feed;
mod plan;
mod purified;
mod queue;
mod usage;
mod work;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Instant;

pub use self::feed::{Feed, Job, Round};
pub use self::plan::{Limits, Plan};
pub use self::purified::Purified;
use self::queue::Queue;
pub use self::usage::{Phases, Usage};
pub use self::work::serve;
use crate::backend::ImageShape;
use crate::defense::DeviceDefense;
use crate::error::{Error, Result};
use crate::picture::Picture;

/// Threads that call `done`. Most of the time each waits for the disk.
const WRITERS: usize = 8;

/// A picture on its way to the writers.
struct Ended<T> {
    name: T,
    purified: Result<Purified>,
    seconds: f64,
}

/// Purifies a stream of pictures on one or more devices.
///
/// `pictures` gives each picture with its name, or why it could not be read; a thread of its own reads it.
/// `done` gets every outcome, in any order and from several threads, with the image's share of the seconds
/// that its device worked; an error of `done` ends the run.
///
/// A device that fails is dropped, and its images go to the other devices. When the last device fails, the run
/// fails. When `stop` is true, the images in flight are finished and the rest is left. `intake_ended` is
/// called when no device takes pictures anymore: `pictures` must then end, even if it waits for one.
///
/// The first result is the time of each phase, also for a run that failed.
///
/// # Errors
/// [`Error::Interrupted`] if `stop` ended the run; the first error of `done`; the last device's error.
pub fn run<T: Send>(
    defenses: &mut [Box<dyn DeviceDefense>],
    pictures: impl Iterator<Item = (T, Result<Picture>)> + Send,
    stop: &(dyn Fn() -> bool + Sync),
    intake_ended: impl FnOnce(),
    done: impl Fn(T, Result<Purified>, f64) -> Result<()> + Sync,
) -> (Usage, Result<()>) {
    let start = Instant::now();
    let Some(shape) = defenses.first().map(|defense| defense.shape()) else {
        let none = Error::invalid("a run needs a device");
        return (Usage::default(), Err(none));
    };
    let places: usize = defenses.iter().map(|defense| defense.places()).sum();
    let pools = match work::pools(defenses.len()) {
        Ok(pools) => pools,
        Err(error) => return (Usage::default(), Err(error)),
    };
    let queue = Queue::new(defenses.len(), places, stop);
    let (sender, receiver) = mpsc::sync_channel(places);
    let receiver = Mutex::new(receiver);
    let broken = AtomicBool::new(false);
    let devices = defenses.len();
    let phases = std::thread::scope(|scope| {
        let to_writers = sender.clone();
        let (queue, receiver, broken, done) = (&queue, &receiver, &broken, &done);
        scope.spawn(move || read(pictures, shape, queue, &to_writers));
        for _ in 0..WRITERS {
            scope.spawn(move || write(receiver, queue, broken, done));
        }
        let feed = Writing { queue, sender };
        let ended = work::on_devices(defenses, &pools, &feed);
        intake_ended();
        work::total(ended)
    });
    let usage = Usage::new(phases, devices, start.elapsed().as_secs_f64());
    let ended = match queue.into_failure() {
        Some(error) => Err(error),
        None if stop() => Err(Error::Interrupted),
        None => Ok(()),
    };
    (usage, ended)
}

/// The feed of a run: pictures from the queue, results to the writers.
struct Writing<'q, 's, T> {
    queue: &'q Queue<'s, T>,
    sender: mpsc::SyncSender<Ended<T>>,
}

impl<T: Send> Feed<T> for Writing<'_, '_, T> {
    fn take(&self, most: usize, wait: bool) -> Vec<Job<T>> {
        self.queue.take(most, wait)
    }

    fn done(&self, name: T, purified: Result<Purified>, seconds: f64) {
        let result = Ended {
            name,
            purified,
            seconds,
        };
        // Sending fails only if the writers have ended, which ends the run.
        let _ = self.sender.send(result);
        self.queue.done(1);
    }

    fn lost(&self, device: &str, error: Error, jobs: Vec<Job<T>>) {
        match error {
            Error::Device(_) | Error::OutOfMemory(_) => self.queue.lose_device(device, error, jobs),
            error => self.queue.fail(error),
        }
    }

    fn is_over(&self) -> bool {
        self.queue.has_failed()
    }
}

/// The reader's thread: pictures go to the queue, errors to the writers.
fn read<T>(
    pictures: impl Iterator<Item = (T, Result<Picture>)>,
    shape: ImageShape,
    queue: &Queue<'_, T>,
    writers: &mpsc::SyncSender<Ended<T>>,
) {
    /// Closes the queue, even if a decoder panics.
    struct Closing<'q, 's, T>(&'q Queue<'s, T>);
    impl<T> Drop for Closing<'_, '_, T> {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let closing = Closing(queue);
    for (name, picture) in pictures {
        let fits = |picture: Picture| match picture.shape == shape {
            true => Ok(picture),
            false => Err(Error::invalid(format!(
                "a picture has shape {}, but the classifier takes {shape}",
                picture.shape
            ))),
        };
        let goes_on = match picture.and_then(fits) {
            Ok(picture) => queue.put(Job {
                name,
                picture,
                own: None,
            }),
            Err(error) => {
                let failed = Ended {
                    name,
                    purified: Err(error),
                    seconds: 0.0,
                };
                writers.send(failed).is_ok() && !queue.is_over()
            }
        };
        if !goes_on {
            break;
        }
    }
    drop(closing);
}

/// A writer's thread. An error of `done` ends the run, and the remaining results are not written.
fn write<T>(
    results: &Mutex<mpsc::Receiver<Ended<T>>>,
    queue: &Queue<'_, T>,
    broken: &AtomicBool,
    done: &(impl Fn(T, Result<Purified>, f64) -> Result<()> + Sync),
) {
    loop {
        let next = results.lock().expect("no thread panics with it").recv();
        let Ok(result) = next else { break };
        if broken.load(Ordering::Relaxed) {
            continue;
        }
        if let Err(error) = done(result.name, result.purified, result.seconds) {
            broken.store(true, Ordering::Relaxed);
            queue.fail(error);
        }
    }
}
