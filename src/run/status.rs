//! The progress of a run, for the progress bar, `--metrics` and `run.json`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use super::tally::Tally;
use crate::input::Shard;
use crate::run::record::ImageRecord;
use crate::scheduler::Phases;

/// How many pictures are finished, failed or resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Pictures in the input; for a stream, those that arrived so far.
    pub total: usize,
    /// Pictures finished by earlier runs that this run resumes.
    pub resumed: usize,
    /// Pictures finished in this run.
    pub done: usize,
    /// Pictures failed in this run.
    pub failed: usize,
}

/// A kind of work that a run's time is counted under. Threads work at the same time, so the sum of all phases
/// may be more than the run's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading, decoding and preprocessing pictures.
    Decode,
    /// Work of the devices. When pictures are purified, it is the sum of [`Dip`](Phase::Dip),
    /// [`Probe`](Phase::Probe) and [`Restore`](Phase::Restore), which are known only at the run's end.
    Compute,
    /// Iterations of DIP networks.
    Dip,
    /// Probes of the classifier.
    Probe,
    /// Localizing, pushing and stitching.
    Restore,
    /// Waiting of devices, because no picture was ready.
    WaitForPictures,
    /// Waiting of devices, because the writers were behind.
    WaitForWriters,
    /// Making output files and report entries in memory.
    Encode,
    /// Writing output files, report entries and the journal to disk.
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

    /// The phase's name in `run.json`.
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

/// A run's progress, shared by the threads that work and those that report progress.
#[derive(Debug)]
pub struct Status {
    /// The subcommand.
    pub command: &'static str,
    /// The part of the data set that this run works on; `None` for all of it.
    pub shard: Option<Shard>,
    /// Number of pictures; `None` for a stream.
    total: Option<usize>,
    resumed: usize,
    started: Instant,
    ends: Mutex<Ends>,
    /// Nanoseconds of each phase.
    phases: [AtomicU64; Phase::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    done: usize,
    failed: usize,
    tally: Tally,
}

impl Status {
    /// The progress of a run that begins; `resumed` of its pictures have the results in `tally`.
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

    /// Counts a unit of work without a record (a classified picture, a cell of an evaluation), as finished or
    /// failed.
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

    /// How many pictures are finished, failed or resumed so far.
    pub fn counts(&self) -> Counts {
        let Ends { done, failed, .. } = self.ends();
        Counts {
            total: self.total.unwrap_or(self.resumed + done + failed),
            resumed: self.resumed,
            done,
            failed,
        }
    }

    /// The results so far, those of resumed runs included.
    pub fn tally(&self) -> Tally {
        self.ends().tally
    }

    /// Pictures that this run has to work on; `None` for a stream.
    pub fn to_do(&self) -> Option<usize> {
        self.total.map(|total| total.saturating_sub(self.resumed))
    }

    /// Time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Pictures a second, in this run.
    pub fn rate(&self) -> f64 {
        let Counts { done, failed, .. } = self.counts();
        (done + failed) as f64 / self.elapsed().as_secs_f64().max(1e-9)
    }

    /// Runs `work` and adds its time to a phase.
    pub fn time<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let made = work();
        self.spend(phase, start.elapsed());
        made
    }

    /// Adds time to a phase.
    pub fn spend(&self, phase: Phase, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.phases[phase as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Adds the time of the devices' phases.
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

    /// The fields about progress for `run.json`.
    pub fn describe(&self) -> Map<String, Value> {
        let mut more = self.tally().describe(self.command);
        more.insert("seconds_by_phase".into(), self.seconds_by_phase().collect());
        if let Some(bytes) = peak_memory() {
            more.insert("peak_memory_bytes".into(), bytes.into());
        }
        more
    }
}

/// The process's peak memory in bytes; known on Linux only.
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
