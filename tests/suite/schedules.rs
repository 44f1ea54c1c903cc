//! Random schedules: whatever arrives when, on however many devices, and whatever fails, each picture
//! has the result that it has alone, once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use backstitch::defense::{DeviceDefense, Options, OwnOptions, SettlingOptions};
use backstitch::error::{Error, Result};
use backstitch::picture::Picture;
use backstitch::scheduler::{self, Feed, Job, Purified, Round};
use proptest::prelude::*;

use crate::toy::{self, SOUND, Toy, boxed, defense, fingerprint};

/// Pictures of a run; some are clean.
const PICTURES: usize = 7;

fn picture(name: usize) -> Picture {
    toy::picture(name as f32, if name % 3 == 1 { 0.0 } else { 0.05 })
}

/// Two restarts of four tiles, six probes.
fn options(stop_early: bool) -> Options {
    let mut options = toy::options();
    options.reconstruct.restarts = 2;
    options.reconstruct.iterations = 30;
    options.stop_early = stop_early.then_some(SettlingOptions {
        probes: 2,
        margin: 0.05,
    });
    options
}

/// What each picture gives alone.
fn alone(stop_early: bool) -> &'static [String] {
    static ALONE: [OnceLock<Vec<String>>; 2] = [OnceLock::new(), OnceLock::new()];
    ALONE[usize::from(stop_early)].get_or_init(|| {
        let mut defense = defense(&SOUND, &options(stop_early), 1, 64);
        let mut of = |name| fingerprint(&defense.purify(&[&picture(name)]).unwrap()[0]);
        (0..PICTURES).map(&mut of).collect()
    })
}

/// How a run goes.
#[derive(Clone, Debug)]
struct Schedule {
    /// Each picture's name, whether it is unreadable, and the milliseconds before it arrives.
    arrivals: Vec<(usize, bool, u64)>,
    capacity: usize,
    images: usize,
    devices: usize,
    stop_early: bool,
    /// Calls of `run` after which a device fails; the last device does not.
    failures: Vec<Option<usize>>,
    /// Results after which the user stops.
    stop_after: Option<usize>,
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let arrivals = (
        Just((0..PICTURES).collect::<Vec<_>>()).prop_shuffle(),
        prop::collection::vec((prop::bool::weighted(0.2), 0..4u64), PICTURES),
    )
        .prop_map(|(names, how)| {
            let arrivals = names.into_iter().zip(how);
            arrivals
                .map(|(name, (torn, ms))| (name, torn, ms))
                .collect()
        });
    let stop_after = prop::option::weighted(0.3, 1..PICTURES);
    let failures = prop::collection::vec(prop::option::of(0..12usize), 4);
    (
        arrivals,
        1..=64usize,
        1..=5usize,
        prop::sample::select(vec![1, 2, 4]),
        any::<bool>(),
        failures,
        stop_after,
    )
        .prop_map(
            |(arrivals, capacity, images, devices, stop_early, failures, stop_after)| Schedule {
                arrivals,
                capacity,
                images,
                devices,
                stop_early,
                failures,
                stop_after,
            },
        )
}

/// What became of each picture, in the order of completion, and how the run ended.
type Ran = (Vec<(usize, Result<String>)>, Result<()>);

fn run(schedule: &Schedule) -> Ran {
    let toys: Vec<Toy> = (0..schedule.devices)
        .map(|device| Toy {
            runs_left: schedule.failures[device].filter(|_| device + 1 < schedule.devices),
        })
        .collect();
    let options = options(schedule.stop_early);
    let mut defenses: Vec<_> = toys
        .iter()
        .map(|toy| boxed(toy, &options, schedule.images, schedule.capacity))
        .collect();
    let pictures = schedule.arrivals.iter().map(|&(name, torn, ms)| {
        std::thread::sleep(Duration::from_millis(ms));
        let picture = match torn {
            true => Err(Error::invalid("torn")),
            false => Ok(picture(name)),
        };
        (name, picture)
    });
    let seen = Mutex::new(vec![]);
    let count = AtomicUsize::new(0);
    let stop = || {
        let seen = count.load(Ordering::Relaxed);
        schedule.stop_after.is_some_and(|most| seen >= most)
    };
    let (usage, ended) = scheduler::run(
        &mut defenses,
        pictures,
        &stop,
        || {},
        |name, purified, _| {
            let found = purified.map(|purified| fingerprint(&purified.outcome));
            seen.lock().unwrap().push((name, found));
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        },
    );
    assert!((0.0..=1.0).contains(&usage.engine_busy), "{usage:?}");
    (seen.into_inner().unwrap(), ended)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_picture_has_its_result_once(schedule in schedules()) {
        let (seen, ended) = run(&schedule);
        let torn: HashMap<usize, bool> =
            schedule.arrivals.iter().map(|&(name, torn, _)| (name, torn)).collect();
        let mut count = [0; PICTURES];
        for (name, found) in &seen {
            count[*name] += 1;
            match found {
                Ok(found) => prop_assert!(found == &alone(schedule.stop_early)[*name], "{name}"),
                Err(error) => prop_assert!(torn[name], "{name}: {error}"),
            }
        }
        prop_assert!(count.iter().all(|times| *times <= 1), "{count:?}");
        match schedule.stop_after {
            Some(after) => {
                prop_assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
                prop_assert!(seen.len() >= after);
            }
            None => {
                prop_assert!(ended.is_ok(), "{ended:?}");
                prop_assert_eq!(count, [1; PICTURES]);
            }
        }
    }
}

#[test]
fn the_last_device_s_failure_ends_the_run_and_keeps_what_was_done() {
    let options = options(false);
    // Enough for the first images, not for all.
    let toys = [8, 9].map(|runs| Toy {
        runs_left: Some(runs),
    });
    let mut defenses = toys.each_ref().map(|toy| boxed(toy, &options, 1, 8));
    let pictures = (0..PICTURES).map(|name| (name, Ok(picture(name))));
    let seen = Mutex::new(vec![]);
    let (_, ended) = scheduler::run(
        &mut defenses,
        pictures,
        &|| false,
        || {},
        |name, purified, _| {
            let found = fingerprint(&purified?.outcome);
            seen.lock().unwrap().push((name, found));
            Ok(())
        },
    );
    let error = ended.unwrap_err();
    assert!(matches!(error, Error::Device(_)), "{error}");
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 2);
    for (name, found) in seen {
        assert!(found == alone(false)[name], "{name}");
    }
}

#[test]
fn an_error_in_writing_ends_the_run() {
    let mut defenses = [boxed(&SOUND, &options(false), 2, 16)];
    // Far more pictures than a run could do: it must not go on.
    let pictures = (0..1_000_000).map(|name| (name, Ok(picture(name % PICTURES))));
    let written = AtomicUsize::new(0);
    let (_, ended) = scheduler::run(
        &mut defenses,
        pictures,
        &|| false,
        || {},
        |_, _, _| match written.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Ok(()),
            _ => Err(Error::file("results.jsonl", "the disk is full")),
        },
    );
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("the disk is full"), "{error}");
}

#[test]
fn a_picture_of_another_size_is_its_own_error() {
    let mut defenses = [boxed(&SOUND, &options(false), 2, 16)];
    let mut other = picture(0);
    other.shape.height -= 1;
    other.pixels.truncate(other.shape.elements());
    let pictures = [(0, Ok(other)), (1, Ok(picture(1)))].into_iter();
    let seen = Mutex::new([None, None]);
    let (_, ended) = scheduler::run(
        &mut defenses,
        pictures,
        &|| false,
        || {},
        |name, purified, _| {
            seen.lock().unwrap()[name] = Some(purified.is_ok());
            Ok(())
        },
    );
    ended.unwrap();
    assert_eq!(seen.into_inner().unwrap(), [Some(false), Some(true)]);
}

#[test]
fn early_stopping_saves_iterations_and_keeps_the_verdicts() {
    let pictures: Vec<Picture> = (0..PICTURES).map(picture).collect();
    let pictures: Vec<&Picture> = pictures.iter().collect();
    let purify = |stop_early| {
        let mut defense = defense(&SOUND, &options(stop_early), 3, 24);
        defense.purify(&pictures).unwrap()
    };
    let (whole, early) = (purify(false), purify(true));
    let iterations = |outcomes: &[backstitch::defense::Outcome]| -> u64 {
        outcomes.iter().map(|outcome| outcome.iterations).sum()
    };
    assert_eq!(iterations(&whole), PICTURES as u64 * 2 * 30);
    assert!(iterations(&early) < iterations(&whole));
    for (whole, early) in whole.iter().zip(&early) {
        assert_eq!(whole.verdict, early.verdict);
        // Past the warm-up, two probes at the least.
        assert!(early.iterations >= 2 * 5 * 5, "{}", early.iterations);
    }
}

/// A feed of pictures with options of their own, of which one is taken back after the first round.
struct Own {
    waiting: Mutex<Vec<Job<usize>>>,
    rounds: Mutex<Vec<Round>>,
    done: Mutex<HashMap<usize, Result<String>>>,
}

const TAKEN_BACK: usize = 3;

fn own(name: usize) -> OwnOptions {
    OwnOptions {
        seed: 100 + name as u64 / 2,
        always: name.is_multiple_of(2),
    }
}

impl Feed<usize> for Own {
    fn take(&self, most: usize, _: bool) -> Vec<Job<usize>> {
        let mut waiting = self.waiting.lock().unwrap();
        let left = waiting.len() - most.min(waiting.len());
        waiting.split_off(left)
    }

    fn is_unwanted(&self, name: &usize) -> bool {
        *name == TAKEN_BACK
    }

    fn done(&self, name: usize, purified: Result<Purified>, _: f64) {
        let found = purified.map(|purified| fingerprint(&purified.outcome));
        let before = self.done.lock().unwrap().insert(name, found);
        assert!(before.is_none(), "{name} is done twice");
    }

    fn lost(&self, device: &str, error: Error, _: Vec<Job<usize>>) {
        panic!("{device}: {error}");
    }

    fn round(&self, device: usize, round: Round) {
        assert_eq!(device, 0);
        self.rounds.lock().unwrap().push(round);
    }
}

#[test]
fn a_feed_s_pictures_have_their_own_options_and_can_be_taken_back() {
    for stop_early in [false, true] {
        let options = options(stop_early);
        let jobs = (0..PICTURES).map(|name| Job {
            name,
            picture: picture(name),
            own: (name > 0).then(|| own(name)),
        });
        let feed = Own {
            waiting: Mutex::new(jobs.collect()),
            rounds: Mutex::default(),
            done: Mutex::default(),
        };
        let mut defenses = [boxed(&SOUND, &options, 3, 20)];
        scheduler::serve(&mut defenses, &feed).unwrap();
        let done = feed.done.into_inner().unwrap();
        assert_eq!(done.len(), PICTURES);
        for (name, found) in done {
            if name == TAKEN_BACK {
                assert!(matches!(found, Err(Error::Interrupted)));
                continue;
            }
            let mut options = options.clone();
            if name > 0 {
                options.reconstruct.seed = own(name).seed;
                options.always = own(name).always;
            }
            let mut alone = defense(&SOUND, &options, 1, 64);
            let alone = fingerprint(&alone.purify(&[&picture(name)]).unwrap()[0]);
            assert!(found.unwrap() == alone, "{name}");
        }
        let rounds = feed.rounds.into_inner().unwrap();
        assert!(
            rounds
                .iter()
                .any(|round| (1..=20).contains(&round.busy_slots))
        );
        let last = rounds.last().unwrap();
        assert_eq!((last.in_flight, last.busy_slots), (0, 0));
        assert!(last.worked > 0.0);
    }
}
