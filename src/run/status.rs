//! How far a run is: what progress, `--metrics` and `run.json` say.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use super::tally::Tally;
use crate::input::Shard;
use crate::run::record::ImageRecord;
use crate::scheduler::Phases;

/// How many pictures have which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// In the input; of a stream, those that came.
    pub total: usize,
    /// Finished before this run, which resumes.
    pub resumed: usize,
    /// Finished in this run.
    pub done: usize,
    /// Failed in this run.
    pub failed: usize,
}

/// What a run's time goes to. Phases overlap: their seconds, summed over threads, may be more than the
/// run's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading, decoding and preprocessing pictures.
    Decode,
    /// The devices worked: for purified pictures [`Dip`](Phase::Dip), [`Probe`](Phase::Probe) and
    /// [`Restore`](Phase::Restore), which are known at a run's end, together.
    Compute,
    /// Iterations of DIP networks.
    Dip,
    /// Probes of the classifier.
    Probe,
    /// Localizing, pushing and stitching.
    Restore,
    /// Devices had nothing to do: no picture was ready.
    WaitForPictures,
    /// Devices had results that no writer took yet.
    WaitForWriters,
    /// Making output files and report entries in memory.
    Encode,
    /// Putting them, and the journal, on disk.
    Write,
}

impl Phase {
    /// Every phase, in the order of a picture's way through a run.
    pub const ALL: [Phase; 9] = [
        Phase::Decode,
        Phase::Compute,
        Phase::Dip,
        Phase::Probe,
        Phase::Restore,
        Phase::WaitForPictures,
        Phase::WaitForWriters,
        Phase::Encode,
        Phase::Write,
    ];

    /// Its name in `run.json`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Decode => "decode",
            Phase::Compute => "compute",
            Phase::Dip => "dip",
            Phase::Probe => "probe",
            Phase::Restore => "restore",
            Phase::WaitForPictures => "wait_for_pictures",
            Phase::WaitForWriters => "wait_for_writers",
            Phase::Encode => "encode",
            Phase::Write => "write",
        }
    }
}

/// A run's state, shared by the threads that work on it and those that tell of it.
#[derive(Debug)]
pub struct Status {
    /// The subcommand.
    pub command: &'static str,
    /// The part of the data set that this run works on; `None` for all of it.
    pub shard: Option<Shard>,
    /// `None` for a stream.
    total: Option<usize>,
    resumed: usize,
    started: Instant,
    ends: Mutex<Ends>,
    /// Nanoseconds, by phase.
    phases: [AtomicU64; Phase::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    done: usize,
    failed: usize,
    tally: Tally,
}

impl Status {
    /// The state of a run that begins: `resumed` of its pictures have the results in `tally`.
    pub fn new(
        command: &'static str,
        shard: Option<Shard>,
        total: Option<usize>,
        resumed: usize,
        tally: Tally,
    ) -> Status {
        Status {
            command,
            shard,
            total,
            resumed,
            started: Instant::now(),
            ends: Mutex::new(Ends {
                tally,
                ..Ends::default()
            }),
            phases: Default::default(),
        }
    }

    /// Counts a picture.
    pub fn add(&self, record: &ImageRecord) {
        let mut ends = self.ends.lock().expect("no thread panics with the counts");
        match record.error {
            Some(_) => ends.failed += 1,
            None => {
                ends.done += 1;
                ends.tally.add_record(record);
            }
        }
    }

    /// Counts something done, or failed, that has no record.
    pub fn count(&self, failed: bool) {
        let mut ends = self.ends.lock().expect("no thread panics with the counts");
        match failed {
            true => ends.failed += 1,
            false => ends.done += 1,
        }
    }

    fn ends(&self) -> Ends {
        *self.ends.lock().expect("no thread panics with the counts")
    }

    /// Pictures by their end, so far.
    pub fn counts(&self) -> Counts {
        let Ends { done, failed, .. } = self.ends();
        Counts {
            total: self.total.unwrap_or(self.resumed + done + failed),
            resumed: self.resumed,
            done,
            failed,
        }
    }

    /// The results so far, also of the run that this one resumes.
    pub fn tally(&self) -> Tally {
        self.ends().tally
    }

    /// Pictures that this run has to work on; `None` where nobody knows.
    pub fn to_do(&self) -> Option<usize> {
        self.total.map(|total| total.saturating_sub(self.resumed))
    }

    /// Since the run began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Pictures a second, in this run.
    pub fn rate(&self) -> f64 {
        let Counts { done, failed, .. } = self.counts();
        (done + failed) as f64 / self.elapsed().as_secs_f64().max(1e-9)
    }

    /// Adds what `work` takes to a phase.
    pub fn time<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let made = work();
        self.spend(phase, start.elapsed());
        made
    }

    /// Adds to a phase.
    pub fn spend(&self, phase: Phase, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.phases[phase as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Adds what the devices' threads did.
    pub fn spend_devices(&self, phases: &Phases) {
        for (phase, seconds) in [
            (Phase::WaitForPictures, phases.waiting_for_pictures),
            (Phase::Dip, phases.dip),
            (Phase::Probe, phases.probing),
            (Phase::Restore, phases.restoring),
            (Phase::WaitForWriters, phases.waiting_for_writers),
        ] {
            self.spend(phase, Duration::from_secs_f64(seconds));
        }
    }

    /// The phases that took any time, with their seconds.
    pub fn seconds_by_phase(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let phases = Phase::ALL.iter().zip(&self.phases);
        let seconds = phases.map(|(phase, time)| {
            let time = Duration::from_nanos(time.load(Ordering::Relaxed));
            (phase.name(), time.as_secs_f64())
        });
        seconds.filter(|(_, seconds)| *seconds > 0.0)
    }

    /// For `run.json`.
    pub fn describe(&self) -> Map<String, Value> {
        let mut more = self.tally().describe(self.command);
        more.insert("seconds_by_phase".into(), self.seconds_by_phase().collect());
        if let Some(bytes) = peak_memory() {
            more.insert("peak_memory_bytes".into(), bytes.into());
        }
        more
    }
}

/// The most memory that the process had at a time, in bytes; known on Linux alone.
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_over_threads() {
        let status = Status::new("purify", None, None, 0, Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| status.spend(Phase::Encode, Duration::from_millis(250)));
            }
        });
        let seconds: Vec<_> = status.seconds_by_phase().collect();
        assert_eq!(seconds, [("encode", 1.0)]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_memory_has_seen_what_was_used() {
        let before = peak_memory().unwrap();
        let used = vec![1u8; 64 << 20];
        assert!(used.iter().map(|&x| u64::from(x)).sum::<u64>() == 64 << 20);
        assert!(peak_memory().unwrap() >= before);
        assert!(peak_memory().unwrap() > 64 << 20);
    }
}
