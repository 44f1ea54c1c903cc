//! Pictures on their way to the devices.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::Job;
use crate::error::Error;

/// How often a waiting thread checks whether the run should stop.
const POLL: Duration = Duration::from_millis(50);

/// The queue that all devices share. It ends the run when its source has no more pictures and no device has
/// images in flight that may come back, when the user stops it, or at the first error.
pub(super) struct Queue<'s, T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Jobs that the queue may hold.
    limit: usize,
    stop: &'s (dyn Fn() -> bool + Sync),
}

struct State<T> {
    waiting: VecDeque<Job<T>>,
    /// Whether the source may have more.
    open: bool,
    devices: usize,
    /// Jobs that devices have in flight.
    taken: usize,
    failure: Option<Error>,
}

impl<'s, T> Queue<'s, T> {
    /// An empty queue of up to `limit` jobs for `devices` devices; `stop` says whether the user wants to
    /// stop.
    pub(super) fn new(devices: usize, limit: usize, stop: &'s (dyn Fn() -> bool + Sync)) -> Self {
        Queue {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                open: true,
                devices,
                taken: 0,
                failure: None,
            }),
            changed: Condvar::new(),
            limit,
            stop,
        }
    }

    /// Waits for room and appends a job; gives whether the run continues.
    pub(super) fn put(&self, job: Job<T>) -> bool {
        let mut state = self.lock();
        while !self.ends(&state) {
            if state.waiting.len() < self.limit {
                state.waiting.push_back(job);
                self.changed.notify_all();
                return true;
            }
            state = self.wait(state);
        }
        false
    }

    /// The source has no more.
    pub(super) fn close(&self) {
        self.lock().open = false;
        self.changed.notify_all();
    }

    /// Up to `most` jobs for one device: its share of the queue. If the queue is empty and `wait` is true, waits
    /// for jobs; none then means that there will be no more.
    pub(super) fn take(&self, most: usize, wait: bool) -> Vec<Job<T>> {
        let mut state = self.lock();
        loop {
            if self.ends(&state) {
                return vec![];
            }
            let share = state.waiting.len().div_ceil(state.devices.max(1)).min(most);
            let may_come = state.open || state.taken > 0;
            if share > 0 || !wait || !may_come {
                state.taken += share;
                let jobs = state.waiting.drain(..share).collect();
                self.changed.notify_all();
                return jobs;
            }
            state = self.wait(state);
        }
    }

    /// `count` jobs that were taken are done.
    pub(super) fn done(&self, count: usize) {
        self.lock().taken -= count;
        self.changed.notify_all();
    }

    /// A device is lost: its jobs go back to the front of the queue. The loss of the last device ends the run;
    /// that of another gives a warning.
    pub(super) fn lose_device(&self, device: &str, error: Error, jobs: Vec<Job<T>>) {
        let mut state = self.lock();
        state.devices -= 1;
        state.taken -= jobs.len();
        for job in jobs.into_iter().rev() {
            state.waiting.push_front(job);
        }
        if state.devices == 0 {
            state.failure.get_or_insert(error);
        } else {
            log::warn!("{device} is dropped, the other devices go on: {error}");
        }
        self.changed.notify_all();
    }

    /// Ends the run.
    pub(super) fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Whether the user or an error ended the run.
    pub(super) fn is_over(&self) -> bool {
        self.ends(&self.lock())
    }

    /// Whether an error ended the run.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    /// The error that ended the run.
    pub(super) fn into_failure(self) -> Option<Error> {
        let state = self.state.into_inner();
        state.expect("no thread panics with the queue").failure
    }

    fn ends(&self, state: &State<T>) -> bool {
        state.failure.is_some() || (self.stop)()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no thread panics with the queue")
    }

    fn wait<'q>(&self, state: MutexGuard<'q, State<T>>) -> MutexGuard<'q, State<T>> {
        let (state, _) =
            (self.changed.wait_timeout(state, POLL)).expect("no thread panics with the queue");
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ImageShape;
    use crate::picture::Picture;

    fn job(name: usize) -> Job<usize> {
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        Job {
            name,
            picture: Picture {
                shape,
                pixels: vec![0.0],
                eight_bit: true,
            },
            own: None,
        }
    }

    fn names(jobs: &[Job<usize>]) -> Vec<usize> {
        jobs.iter().map(|job| job.name).collect()
    }

    #[test]
    fn devices_share_what_is_there() {
        let queue = Queue::new(2, 9, &|| false);
        assert!((0..5).all(|name| queue.put(job(name))));
        assert_eq!(names(&queue.take(9, true)), [0, 1, 2]);
        assert_eq!(names(&queue.take(1, true)), [3]);
        assert_eq!(names(&queue.take(9, true)), [4]);
        assert!(queue.take(9, false).is_empty());
    }

    #[test]
    fn a_lost_device_s_jobs_come_first_and_the_last_loss_ends_the_run() {
        let queue = Queue::new(2, 9, &|| false);
        assert!((0..4).all(|name| queue.put(job(name))));
        queue.close();
        let lost = queue.take(9, true);
        let error = || Error::Device("it fell off the bus".into());
        queue.lose_device("a device", error(), lost);
        assert!(!queue.has_failed());
        let jobs = queue.take(9, true);
        assert_eq!(names(&jobs), [0, 1, 2, 3]);
        queue.lose_device("the other", error(), jobs);
        assert!(queue.take(9, true).is_empty() && !queue.put(job(4)));
        assert!(matches!(queue.into_failure(), Some(Error::Device(_))));
    }

    #[test]
    fn a_device_waits_for_what_another_may_give_back() {
        let queue = Queue::new(2, 9, &|| false);
        assert!(queue.put(job(0)));
        queue.close();
        let lost = queue.take(9, true);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| names(&queue.take(9, true)));
            queue.lose_device("a device", Error::Device("lost".into()), lost);
            assert_eq!(waiting.join().unwrap(), [0]);
            queue.done(1);
            assert!(queue.take(9, true).is_empty());
        });
    }

    #[test]
    fn a_full_queue_waits_and_a_stopped_one_takes_nothing() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let asked = || stop.load(std::sync::atomic::Ordering::Relaxed);
        let queue = Queue::new(1, 1, &asked);
        assert!(queue.put(job(0)));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| queue.put(job(1)));
            assert_eq!(names(&queue.take(9, true)), [0]);
            assert!(second.join().unwrap());
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(!queue.put(job(2)) && queue.take(9, true).is_empty());
        assert!(queue.into_failure().is_none());
    }
}
