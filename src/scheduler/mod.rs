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

mod plan;
mod purified;
mod queue;
mod usage;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Instant;

pub use self::plan::{Limits, Plan};
pub use self::purified::Purified;
use self::queue::{Job, Queue};
pub use self::usage::{Phases, Usage};
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
    let pools = match pools(defenses.len()) {
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
        let mut pools = pools.iter();
        let devices: Vec<_> = defenses
            .iter_mut()
            .map(|defense| {
                let defense = defense.as_mut();
                let (sender, pool) = (sender.clone(), pools.next());
                scope.spawn(move || match pool {
                    Some(pool) => pool.install(|| work(defense, queue, &sender)),
                    None => work(defense, queue, &sender),
                })
            })
            .collect();
        drop(sender);
        let ended: Vec<_> = devices.into_iter().map(|thread| thread.join()).collect();
        intake_ended();
        let phases = ended
            .into_iter()
            .map(|phases| phases.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        phases.sum()
    });
    let usage = Usage::new(phases, devices, start.elapsed().as_secs_f64());
    let ended = match queue.into_failure() {
        Some(error) => Err(error),
        None if stop() => Err(Error::Interrupted),
        None => Ok(()),
    };
    (usage, ended)
}

/// A thread pool for each of several devices, with an equal share of all threads; a single device needs no
/// pool and uses all threads. Where the caller is in a pool of its own, its threads are all.
fn pools(devices: usize) -> Result<Vec<rayon::ThreadPool>> {
    if devices == 1 && rayon::current_thread_index().is_none() {
        return Ok(vec![]);
    }
    let threads = (rayon::current_num_threads() / devices).max(1);
    let pool = |_| {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
        builder
            .build()
            .map_err(|error| Error::device(format!("{threads} threads cannot be started: {error}")))
    };
    (0..devices).map(pool).collect()
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
            Ok(picture) => queue.put(Job { name, picture }),
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

/// An image in flight on a device.
struct Flying<T> {
    job: Job<T>,
    /// Its share of the device's time, in seconds.
    seconds: f64,
}

/// Fails if a test asks for it: the fail point `device`.
fn fault() -> Result<()> {
    #[cfg(feature = "faults")]
    fail::fail_point!("device", |_| Err(Error::Device(
        "it fails for a test".into()
    )));
    Ok(())
}

/// A device's thread.
fn work<T>(
    defense: &mut dyn DeviceDefense,
    queue: &Queue<'_, T>,
    writers: &mpsc::SyncSender<Ended<T>>,
) -> Phases {
    let mut phases = Phases::default();
    // A run that was interrupted leaves images in flight.
    if let Err(error) = defense.clear() {
        queue.lose_device(&defense.name(), error, vec![]);
        return phases;
    }
    let mut flying: Vec<Option<Flying<T>>> = (0..defense.places()).map(|_| None).collect();
    let mut in_flight = 0;
    while !queue.has_failed() {
        let start = Instant::now();
        let jobs = queue.take(defense.places() - in_flight, in_flight == 0);
        let taken = Instant::now();
        phases.waiting_for_pictures += (taken - start).as_secs_f64();
        in_flight += jobs.len();
        if in_flight == 0 {
            break;
        }
        let _phase = defense.phase("scheduler");
        let pictures: Vec<&Picture> = jobs.iter().map(|job| &job.picture).collect();
        let advanced = fault()
            .and_then(|()| defense.admit(&pictures))
            .and_then(|places| Ok((places, defense.advance()?)));
        let (places, outcomes) = match advanced {
            Ok(advanced) => advanced,
            Err(error @ (Error::Device(_) | Error::OutOfMemory(_))) => {
                let flying = flying.into_iter().flatten().map(|flying| flying.job);
                let lost = flying.chain(jobs).collect();
                queue.lose_device(&defense.name(), error, lost);
                break;
            }
            Err(error) => {
                queue.fail(error);
                break;
            }
        };
        for (place, job) in places.into_iter().zip(jobs) {
            flying[place] = Some(Flying { job, seconds: 0.0 });
        }
        let part = taken.elapsed().as_secs_f64() / in_flight as f64;
        for flying in flying.iter_mut().flatten() {
            flying.seconds += part;
        }
        let advanced = Instant::now();
        for (place, outcome) in outcomes {
            let Some(Flying { job, seconds }) = flying[place].take() else {
                continue;
            };
            let Job { name, picture } = job;
            let checked = outcome.input.check();
            let result = Ended {
                name,
                purified: checked.map(|()| Purified {
                    input: picture,
                    outcome,
                }),
                seconds,
            };
            // Sending fails only if the writers have ended, which ends the run.
            let _ = writers.send(result);
            in_flight -= 1;
            queue.done(1);
        }
        phases.waiting_for_writers += advanced.elapsed().as_secs_f64();
    }
    let times = defense.take_times();
    Phases {
        dip: times.dip,
        probing: times.probing,
        restoring: times.restoring,
        ..phases
    }
}
