//! Measures what a device does.
//!
//! Every launch and every transfer is bracketed by two marks in the device's own order of work. On a GPU
//! these are events, read many at a time, so that measuring hardly holds the work up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::error::Result;
use super::launch::{Launch, Work};
use super::lock::lock;
use super::profile::{ActivityKind, Event, Peak, PhaseTotal, Profile, Total};
use super::timeline::Timeline;

/// Activities between two readings of the device's clock: a reading waits for all that was asked for.
pub(super) const BATCH: usize = 2048;

/// The most events of a trace; some 100 bytes each.
pub(super) const MAX_EVENTS: usize = 1_000_000;

/// Something that the device does.
#[derive(Clone, Copy)]
pub(super) struct Activity {
    pub name: &'static str,
    pub kind: ActivityKind,
    pub work: Work,
    /// A kernel's.
    pub launch: Option<Launch>,
}

/// A device's profile in the making; the same for all clones of the device.
#[derive(Default)]
pub(super) struct Profiler {
    active: AtomicBool,
    /// Phases so far, in all profiles.
    phases: AtomicU64,
    recording: Mutex<Option<Recording>>,
}

struct Recording {
    timeline: Box<dyn Timeline>,
    start: Instant,
    /// What ended and was not read yet, in the timeline's order, with the phases that it was part of.
    pending: Vec<(Activity, Arc<[&'static str]>)>,
    totals: BTreeMap<&'static str, Total>,
    /// By number.
    open: BTreeMap<u64, Open>,
    /// Their names, each once.
    open_names: Arc<[&'static str]>,
    phases: BTreeMap<&'static str, PhaseTotal>,
    events: Vec<Event>,
    dropped: u64,
}

struct Open {
    name: &'static str,
    since: f64,
}

impl Profiler {
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Measures from now on; whether it did not yet. The timeline is asked for only then.
    pub(super) fn start(
        &self,
        timeline: impl FnOnce() -> Result<Box<dyn Timeline>>,
    ) -> Result<bool> {
        let mut recording = lock(&self.recording);
        if recording.is_some() {
            return Ok(false);
        }
        *recording = Some(Recording {
            timeline: timeline()?,
            start: Instant::now(),
            pending: vec![],
            totals: BTreeMap::new(),
            open: BTreeMap::new(),
            open_names: Arc::default(),
            phases: BTreeMap::new(),
            events: vec![],
            dropped: 0,
        });
        self.active.store(true, Ordering::Relaxed);
        Ok(true)
    }

    /// Ends the measuring: what was measured; `None` where nothing was.
    pub(super) fn finish(&self, device: &str, peak: Peak) -> Option<Result<Profile>> {
        let recording = lock(&self.recording).take();
        recording.map(|recording| recording.finish(device, peak))
    }

    /// Ends the measuring, and forgets what was measured.
    pub(super) fn stop(&self) {
        self.active.store(false, Ordering::Relaxed);
        lock(&self.recording).take();
    }

    /// Begins a phase, and gives its number.
    pub(super) fn open(&self, name: &'static str) -> u64 {
        let number = self.phases.fetch_add(1, Ordering::Relaxed);
        self.with_recording(|recording| recording.open(number, name));
        number
    }

    /// Ends a phase.
    pub(super) fn close(&self, number: u64) {
        self.with_recording(|recording| recording.close(number));
    }

    fn with_recording(&self, f: impl FnOnce(&mut Recording)) {
        if self.is_active()
            && let Some(recording) = lock(&self.recording).as_mut()
        {
            f(recording);
        }
    }

    /// Runs something, and measures it where that is wanted.
    pub(super) fn time(&self, activity: Activity, run: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.is_active() {
            return run();
        }
        // Held while it runs: what other threads ask for is no part of it.
        let mut recording = lock(&self.recording);
        let Some(recording) = recording.as_mut() else {
            return run();
        };
        recording.timeline.begin()?;
        run()?;
        recording.timeline.end()?;
        let phases = recording.open_names.clone();
        recording.pending.push((activity, phases));
        match recording.pending.len() {
            BATCH.. => recording.read(),
            _ => Ok(()),
        }
    }
}

impl Recording {
    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    /// Adds what is pending to the totals.
    fn read(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let spans = self.timeline.take()?;
        for ((activity, phases), [begin, end]) in pending.into_iter().zip(spans) {
            let Activity {
                name, kind, work, ..
            } = activity;
            let seconds = end - begin;
            let total = self
                .totals
                .entry(name)
                .or_insert_with(|| Total::new(name, kind));
            total.count += 1;
            total.seconds += seconds;
            total.work += work;
            for &phase in &*phases {
                let total = self.phases.entry(phase);
                total.or_insert(PhaseTotal::new(phase)).device_seconds += seconds;
            }
            self.event(Event {
                name,
                begin,
                seconds,
                activity: Some((kind, work, activity.launch)),
            });
        }
        Ok(())
    }

    fn open(&mut self, number: u64, name: &'static str) {
        let since = self.now();
        self.open.insert(number, Open { name, since });
        self.name_open();
    }

    fn close(&mut self, number: u64) {
        let Some(Open { name, since }) = self.open.remove(&number) else {
            return;
        };
        self.name_open();
        let seconds = self.now() - since;
        let total = self.phases.entry(name);
        let total = total.or_insert(PhaseTotal::new(name));
        total.count += 1;
        total.seconds += seconds;
        self.event(Event {
            name,
            begin: since,
            seconds,
            activity: None,
        });
    }

    fn name_open(&mut self) {
        let mut names: Vec<&'static str> = self.open.values().map(|open| open.name).collect();
        names.sort_unstable();
        names.dedup();
        self.open_names = names.into();
    }

    fn finish(mut self, device: &str, peak: Peak) -> Result<Profile> {
        self.read()?;
        while let Some(&number) = self.open.keys().next_back() {
            self.close(number);
        }
        let mut totals: Vec<Total> = self.totals.into_values().collect();
        totals.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let mut phases: Vec<PhaseTotal> = self.phases.into_values().collect();
        phases.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(Profile {
            device: device.to_owned(),
            peak,
            seconds: self.start.elapsed().as_secs_f64(),
            totals,
            phases,
            events: self.events,
            dropped: self.dropped,
        })
    }
}
