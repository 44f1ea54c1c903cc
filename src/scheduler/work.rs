//! The devices' threads.

use std::time::Instant;

use super::{Feed, Job, Phases, Purified, Round, Usage};
use crate::defense::DeviceDefense;
use crate::error::{Error, Result};

/// Purifies what `feed` gives, on one or more devices, until it has no more or every device is lost.
///
/// Pictures must have the classifier's size; [`Preprocess::apply`](crate::picture::Preprocess::apply) makes them so.
///
/// # Errors
/// The devices' threads cannot be started. What devices fail of goes to [`Feed::lost`].
pub fn serve<T: Send>(
    defenses: &mut [Box<dyn DeviceDefense>],
    feed: &impl Feed<T>,
) -> Result<Usage> {
    let start = Instant::now();
    let devices = defenses.len();
    let phases = total(on_devices(defenses, &pools(devices)?, feed));
    Ok(Usage::new(phases, devices, start.elapsed().as_secs_f64()))
}

/// A thread pool for each of several devices, with an equal share of all threads; a single device needs no
/// pool and uses all threads. Where the caller is in a pool of its own, its threads are all.
pub(super) fn pools(devices: usize) -> Result<Vec<rayon::ThreadPool>> {
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

/// Works on every device until `feed` has no more, each in a thread and, if there is one for it, a pool. Gives how
/// each thread ended, when all have.
pub(super) fn on_devices<T: Send>(
    defenses: &mut [Box<dyn DeviceDefense>],
    pools: &[rayon::ThreadPool],
    feed: &impl Feed<T>,
) -> Vec<std::thread::Result<Phases>> {
    std::thread::scope(|scope| {
        let devices = defenses.iter_mut().enumerate().map(|(number, defense)| {
            let (defense, pool) = (defense.as_mut(), pools.get(number));
            scope.spawn(move || match pool {
                Some(pool) => pool.install(|| work(number, defense, feed)),
                None => work(number, defense, feed),
            })
        });
        let devices: Vec<_> = devices.collect();
        devices.into_iter().map(|thread| thread.join()).collect()
    })
}

/// The time of each phase over all threads; goes on with the panic of one.
pub(super) fn total(ended: Vec<std::thread::Result<Phases>>) -> Phases {
    let phases = ended
        .into_iter()
        .map(|phases| phases.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    phases.sum()
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

/// The work of a device's thread.
fn work<T: Send>(number: usize, defense: &mut dyn DeviceDefense, feed: &impl Feed<T>) -> Phases {
    let mut phases = Phases::default();
    // A run that was interrupted leaves images in flight.
    if let Err(error) = defense.clear() {
        feed.lost(&defense.name(), error, vec![]);
        return phases;
    }
    let mut flying: Vec<Option<Flying<T>>> = (0..defense.places()).map(|_| None).collect();
    let mut in_flight = 0;
    while !feed.is_over() {
        let before = in_flight;
        if let Err(error) = drop_unwanted(defense, feed, &mut flying, &mut in_flight) {
            lose(defense, feed, error, flying, vec![]);
            break;
        }
        if in_flight < before {
            let freed = Round {
                in_flight,
                busy_slots: defense.busy_slots(),
                waited: 0.0,
                worked: 0.0,
            };
            feed.round(number, freed);
        }
        let start = Instant::now();
        let jobs = feed.take(defense.places() - in_flight, in_flight == 0);
        let taken = Instant::now();
        let waited = (taken - start).as_secs_f64();
        phases.waiting_for_pictures += waited;
        in_flight += jobs.len();
        if in_flight == 0 {
            break;
        }
        let _phase = defense.phase("scheduler");
        let own = defense.options().own();
        let pictures = jobs
            .iter()
            .map(|job| (&job.picture, job.own.unwrap_or(own)));
        let pictures: Vec<_> = pictures.collect();
        let advanced = fault()
            .and_then(|()| defense.admit_with(&pictures))
            .and_then(|places| Ok((places, defense.advance()?)));
        let (places, outcomes) = match advanced {
            Ok(advanced) => advanced,
            Err(error) => {
                lose(defense, feed, error, flying, jobs);
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
            let Job { name, picture, .. } = job;
            let checked = outcome.input.check();
            let purified = checked.map(|()| Purified {
                input: picture,
                outcome,
            });
            in_flight -= 1;
            feed.done(name, purified, seconds);
        }
        phases.waiting_for_writers += advanced.elapsed().as_secs_f64();
        let round = Round {
            in_flight,
            busy_slots: defense.busy_slots(),
            waited,
            worked: (advanced - taken).as_secs_f64(),
        };
        feed.round(number, round);
    }
    let times = defense.take_times();
    Phases {
        dip: times.dip,
        probing: times.probing,
        restoring: times.restoring,
        ..phases
    }
}

/// Frees the places of pictures that nobody wants anymore.
fn drop_unwanted<T>(
    defense: &mut dyn DeviceDefense,
    feed: &impl Feed<T>,
    flying: &mut [Option<Flying<T>>],
    in_flight: &mut usize,
) -> Result<()> {
    for (place, flight) in flying.iter_mut().enumerate() {
        let unwanted = |flight: &mut Flying<T>| feed.is_unwanted(&flight.job.name);
        if let Some(flight) = flight.take_if(unwanted) {
            *in_flight -= 1;
            feed.done(flight.job.name, Err(Error::Interrupted), flight.seconds);
            defense.remove(place)?;
        }
    }
    Ok(())
}

/// Gives back what a device had, which failed.
fn lose<T>(
    defense: &dyn DeviceDefense,
    feed: &impl Feed<T>,
    error: Error,
    flying: Vec<Option<Flying<T>>>,
    jobs: Vec<Job<T>>,
) {
    let flying = flying.into_iter().flatten().map(|flying| flying.job);
    feed.lost(&defense.name(), error, flying.chain(jobs).collect());
}
