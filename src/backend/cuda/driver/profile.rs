//! What a device did in a stretch of time: a table, and a trace to look at.

use std::fmt::{self, Write as _};
use std::io;

use serde::Serialize;

use super::launch::{Launch, Work};

/// What a chip can do at most, each in units a second; `None` where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Peak {
    /// Bytes of the device's memory.
    pub bytes: Option<f64>,
    /// Multiply-adds of the arithmetic units, in float32.
    pub multiply_adds: Option<f64>,
    /// Multiply-adds of the matrix units, in bfloat16 without sparsity.
    pub matrix_multiply_adds: Option<f64>,
}

/// What a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    Kernel,
    /// Moving or setting bytes.
    Transfer,
}

/// All launches of a kernel, or all transfers of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Total {
    pub name: &'static str,
    pub kind: ActivityKind,
    pub count: u64,
    /// Of the device's time.
    pub seconds: f64,
    pub work: Work,
}

impl Total {
    pub(super) fn new(name: &'static str, kind: ActivityKind) -> Self {
        Total {
            name,
            kind,
            count: 0,
            seconds: 0.0,
            work: Work::default(),
        }
    }

    /// Bytes a second.
    pub fn bandwidth(&self) -> f64 {
        per(self.work.bytes as f64, self.seconds)
    }

    /// Operations a second; a multiply-add is two.
    pub fn arithmetic(&self) -> f64 {
        let Work {
            multiply_adds,
            matrix_multiply_adds,
            ..
        } = self.work;
        per(
            2.0 * (multiply_adds + matrix_multiply_adds) as f64,
            self.seconds,
        )
    }

    /// How much of the time moving the bytes takes at the chip's peak; `None` where that is not known,
    /// or no peak limits it.
    pub fn bandwidth_share(&self, peak: &Peak) -> Option<f64> {
        match self.kind {
            ActivityKind::Kernel => Some(self.bandwidth() / peak.bytes?),
            ActivityKind::Transfer => None,
        }
    }

    /// How much of the time the arithmetic takes at the chip's peak, one unit after the other.
    pub fn arithmetic_share(&self, peak: &Peak) -> Option<f64> {
        let needed = |work: u64, peak: Option<f64>| match work {
            0 => Some(0.0),
            _ => Some(work as f64 / peak?),
        };
        let plain = needed(self.work.multiply_adds, peak.multiply_adds)?;
        let matrix = needed(self.work.matrix_multiply_adds, peak.matrix_multiply_adds)?;
        Some(per(plain + matrix, self.seconds))
    }

    /// The least seconds that the chip's peak allows: for moving the bytes, or for the arithmetic if that takes
    /// longer. `None` where the peak is not known, or for transfers.
    pub fn floor_seconds(&self, peak: &Peak) -> Option<f64> {
        let share = self
            .bandwidth_share(peak)?
            .max(self.arithmetic_share(peak)?);
        Some(share * self.seconds)
    }
}

/// `amount / seconds`; nothing takes no time.
fn per(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// All phases of a name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PhaseTotal {
    pub name: &'static str,
    pub count: u64,
    /// From the starts to the ends, by the host's clock.
    pub seconds: f64,
    /// The device's time for what was asked of it meanwhile.
    pub device_seconds: f64,
}

impl PhaseTotal {
    pub(super) fn new(name: &'static str) -> Self {
        PhaseTotal {
            name,
            count: 0,
            seconds: 0.0,
            device_seconds: 0.0,
        }
    }
}

/// Something that began and ended.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub name: &'static str,
    /// In seconds since the profile began.
    pub begin: f64,
    pub seconds: f64,
    /// `None` for a phase.
    pub activity: Option<(ActivityKind, Work, Option<Launch>)>,
}

/// What a device did while it was profiled (`Device::profile`).
///
/// It prints as a table. Bytes and operations are what the launches say that they cannot do without
/// ([`Work`]), so a rate is at most what the chip did, and the share of the peak what is left to win.
#[derive(Clone, Debug)]
pub struct Profile {
    pub device: String,
    pub peak: Peak,
    /// From begin to end, by the host's clock.
    pub seconds: f64,
    /// The longest first.
    pub totals: Vec<Total>,
    /// The longest first.
    pub phases: Vec<PhaseTotal>,
    pub(super) events: Vec<Event>,
    pub(super) dropped: u64,
}

impl Profile {
    /// The device's time for all that it did.
    pub fn device_seconds(&self) -> f64 {
        self.totals.iter().map(|total| total.seconds).sum()
    }

    /// Events that the trace lacks, because it would have become too long.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes a trace that Perfetto and `chrome://tracing` show: an array of complete events in JSON, the
    /// device's on one track and the phases' on another.
    ///
    /// The device's clock is set by the host's once, when the profile begins.
    pub fn write_trace(&self, out: &mut impl io::Write) -> io::Result<()> {
        for (track, name) in [(DEVICE, &*self.device), (PHASES, "phases")] {
            let start = if track == DEVICE { "[\n" } else { ",\n" };
            out.write_all(start.as_bytes())?;
            let name = TraceName {
                name: "thread_name",
                ph: 'M',
                pid: 0,
                tid: track,
                args: TrackName { name },
            };
            serde_json::to_writer(&mut *out, &name)?;
        }
        for event in &self.events {
            out.write_all(b",\n")?;
            serde_json::to_writer(&mut *out, &TraceEvent::new(event))?;
        }
        out.write_all(b"\n]\n")
    }
}

/// The tracks of a trace.
const DEVICE: u32 = 0;
const PHASES: u32 = 1;

/// Names a track.
#[derive(Serialize)]
struct TraceName<'a> {
    name: &'static str,
    ph: char,
    pid: u32,
    tid: u32,
    args: TrackName<'a>,
}

#[derive(Serialize)]
struct TrackName<'a> {
    name: &'a str,
}

/// An event of the trace format, times in microseconds.
#[derive(Serialize)]
struct TraceEvent {
    name: &'static str,
    ph: char,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<TraceWork>,
}

#[derive(Serialize)]
struct TraceWork {
    #[serde(skip_serializing_if = "Option::is_none")]
    launch: Option<String>,
    #[serde(flatten)]
    work: Work,
}

impl TraceEvent {
    fn new(event: &Event) -> Self {
        TraceEvent {
            name: event.name,
            ph: 'X',
            ts: event.begin * 1e6,
            dur: event.seconds * 1e6,
            pid: 0,
            tid: if event.activity.is_some() {
                DEVICE
            } else {
                PHASES
            },
            args: event.activity.map(|(_, work, launch)| TraceWork {
                launch: launch.map(|launch| launch.to_string()),
                work,
            }),
        }
    }
}

/// Writes lines whose columns are as wide as their widest cell: the first to the left, numbers to the
/// right.
fn write_columns<const N: usize>(f: &mut fmt::Formatter<'_>, lines: &[[String; N]]) -> fmt::Result {
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for line in lines {
        let mut text = format!("{:<1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(widths).skip(1) {
            write!(text, "  {cell:>width$}")?;
        }
        writeln!(f, "{}", text.trim_end())?;
    }
    Ok(())
}

fn percent(share: Option<f64>) -> String {
    share.map_or("unknown".to_owned(), |share| {
        format!("{:.1}%", 100.0 * share)
    })
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device_seconds = self.device_seconds();
        let busy = percent(Some(per(device_seconds, self.seconds)));
        writeln!(f, "{}: {:.3} s, busy {busy}", self.device, self.seconds)?;
        let peak = |rate: Option<f64>, unit: &str, scale: f64| match rate {
            Some(rate) => format!("{:.0} {unit}", rate * scale),
            None => format!("unknown {unit}"),
        };
        writeln!(
            f,
            "peak: {}, {} float32, {} bfloat16 by matrix units\n",
            peak(self.peak.bytes, "GB/s", 1e-9),
            peak(self.peak.multiply_adds, "GFLOP/s", 2e-9),
            peak(self.peak.matrix_multiply_adds, "GFLOP/s", 2e-9),
        )?;
        let head = [
            "kernel or transfer",
            "count",
            "ms",
            "of all",
            "floor ms",
            "µs each",
            "GB/s",
            "of peak",
            "GFLOP/s",
            "of peak",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        for total in &self.totals {
            let kernel = total.kind == ActivityKind::Kernel;
            let rate = |rate: f64| format!("{:.1}", rate * 1e-9);
            lines.push([
                total.name.to_owned(),
                total.count.to_string(),
                format!("{:.3}", 1e3 * total.seconds),
                percent(Some(per(total.seconds, device_seconds))),
                match (kernel, total.floor_seconds(&self.peak)) {
                    (false, _) => String::new(),
                    (true, None) => "unknown".to_owned(),
                    (true, Some(floor)) => format!("{:.3}", 1e3 * floor),
                },
                format!("{:.1}", 1e6 * total.seconds / total.count as f64),
                rate(total.bandwidth()),
                match kernel {
                    true => percent(total.bandwidth_share(&self.peak)),
                    false => String::new(),
                },
                match kernel {
                    true => rate(total.arithmetic()),
                    false => String::new(),
                },
                match kernel {
                    true => percent(total.arithmetic_share(&self.peak)),
                    false => String::new(),
                },
            ]);
        }
        write_columns(f, &lines)?;
        if !self.phases.is_empty() {
            let mut lines = vec![["phase", "count", "ms", "device ms", "busy"].map(str::to_owned)];
            for phase in &self.phases {
                lines.push([
                    phase.name.to_owned(),
                    phase.count.to_string(),
                    format!("{:.3}", 1e3 * phase.seconds),
                    format!("{:.3}", 1e3 * phase.device_seconds),
                    percent(Some(per(phase.device_seconds, phase.seconds))),
                ]);
            }
            writeln!(f)?;
            write_columns(f, &lines)?;
        }
        if self.dropped > 0 {
            writeln!(
                f,
                "\nthe trace holds the first {} events; {} later ones are only in the sums",
                self.events.len(),
                self.dropped
            )?;
        }
        Ok(())
    }
}
