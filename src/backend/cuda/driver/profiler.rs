//! Measures what a device does.
//!
//! Every launch and every transfer is bracketed by two marks in the device's own order of work. On a GPU
//! these are events, read many at a time, so that measuring hardly holds the work up.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::profile::{Event, Kind, PhaseTotal, Profile, Total};
use super::{Device, DriverError, Launch, Result, Work, lock};

/// Activities between two readings of the device's clock: a reading waits for all that was asked for.
pub(super) const BATCH: usize = 2048;

/// The most events of a trace; some 100 bytes each.
pub(super) const MAX_EVENTS: usize = 1_000_000;

/// Measures when a device's work begins and ends, one piece after another.
pub(super) trait Timeline: Send {
    /// What is asked for from now on belongs to the next piece; a piece that has not ended is forgotten.
    fn begin(&mut self) -> Result<()>;
    /// It does no longer.
    fn end(&mut self) -> Result<()>;
    /// Begin and end of all pieces that have ended since the last call, in seconds since the timeline was
    /// made; waits until they are done.
    fn take(&mut self) -> Result<Vec<[f64; 2]>>;
}

/// The host's clock, for work that is done when its call returns.
pub(super) struct HostTimeline {
    start: Instant,
    begun: f64,
    done: Vec<[f64; 2]>,
}

impl HostTimeline {
    pub fn new() -> Self {
        HostTimeline {
            start: Instant::now(),
            begun: 0.0,
            done: vec![],
        }
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl Timeline for HostTimeline {
    fn begin(&mut self) -> Result<()> {
        self.begun = self.now();
        Ok(())
    }
    fn end(&mut self) -> Result<()> {
        self.done.push([self.begun, self.now()]);
        Ok(())
    }
    fn take(&mut self) -> Result<Vec<[f64; 2]>> {
        Ok(std::mem::take(&mut self.done))
    }
}

/// Something that the device does.
#[derive(Clone, Copy)]
pub(super) struct Activity {
    pub name: &'static str,
    pub kind: Kind,
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
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Runs something, and measures it where that is wanted.
    pub fn time(&self, activity: Activity, run: impl FnOnce() -> Result<()>) -> Result<()> {
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

    fn finish(mut self, device: &Device) -> Result<Profile> {
        self.read()?;
        while let Some(&number) = self.open.keys().next_back() {
            self.close(number);
        }
        let mut totals: Vec<Total> = self.totals.into_values().collect();
        totals.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let mut phases: Vec<PhaseTotal> = self.phases.into_values().collect();
        phases.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(Profile {
            device: device.name().to_owned(),
            peak: device.driver.peak(),
            seconds: self.start.elapsed().as_secs_f64(),
            totals,
            phases,
            events: self.events,
            dropped: self.dropped,
        })
    }
}

impl Device {
    /// Measures from now on what this device does, asked by whomever, until the result is asked for.
    ///
    /// # Errors
    /// It is profiled already, or a graph is recorded; the driver's.
    pub fn profile(&self) -> Result<Profiling> {
        super::graph::refuse(self, "start of a profile")?;
        let mut recording = lock(&self.profiler.recording);
        if recording.is_some() {
            return Err(DriverError::Failed {
                device: self.name().to_owned(),
                operation: "start of a profile".to_owned(),
                cause: "it is profiled already".to_owned(),
            });
        }
        let timeline = self.driver.clone().timeline()?;
        *recording = Some(Recording {
            timeline,
            start: Instant::now(),
            pending: vec![],
            totals: BTreeMap::new(),
            open: BTreeMap::new(),
            open_names: Arc::default(),
            phases: BTreeMap::new(),
            events: vec![],
            dropped: 0,
        });
        self.profiler.active.store(true, Ordering::Relaxed);
        Ok(Profiling {
            device: self.clone(),
        })
    }

    /// Starts a phase of the work, which ends when it is dropped: a range in NVIDIA's profilers (NVTX),
    /// and in the device's own [`Profile`].
    pub fn phase(&self, name: &'static str) -> Phase {
        let number = self.profiler.phases.fetch_add(1, Ordering::Relaxed);
        if self.profiler.is_active()
            && let Some(recording) = lock(&self.profiler.recording).as_mut()
        {
            recording.open(number, name);
        }
        Phase {
            profiler: self.profiler.clone(),
            number,
            on_thread: PhantomData,
            #[cfg(feature = "cuda")]
            _range: super::nvtx::Range::new(name),
        }
    }
}

/// A device that is profiled. Dropped without [`finish`](Self::finish), what was measured is forgotten.
#[must_use]
#[derive(Debug)]
pub struct Profiling {
    device: Device,
}

impl Profiling {
    /// Ends the measuring; phases that have not ended end here.
    ///
    /// # Errors
    /// The driver's.
    pub fn finish(self) -> Result<Profile> {
        let recording = lock(&self.device.profiler.recording).take();
        // Only this value ends what it began.
        let recording = recording.expect("a device that is profiled");
        recording.finish(&self.device)
    }
}

impl Drop for Profiling {
    fn drop(&mut self) {
        self.device.profiler.active.store(false, Ordering::Relaxed);
        lock(&self.device.profiler.recording).take();
    }
}

/// A named stretch of work, until it is dropped. Phases may lie in one another.
#[must_use = "a phase ends when it is dropped"]
pub struct Phase {
    profiler: Arc<Profiler>,
    number: u64,
    /// NVTX's ranges end on the thread that they start on.
    on_thread: PhantomData<*const ()>,
    #[cfg(feature = "cuda")]
    _range: super::nvtx::Range,
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phase {}", self.number)
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if self.profiler.is_active()
            && let Some(recording) = lock(&self.profiler.recording).as_mut()
        {
            recording.close(self.number);
        }
    }
}
