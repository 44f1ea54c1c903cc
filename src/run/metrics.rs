//! `--metrics FILE`: a run's state in Prometheus' text form, for node_exporter's textfile collector.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::options::RunState;
use super::status::{Counts, Status, peak_memory};
use crate::error::Result;
use crate::files::replace::replace;

/// How often the file is written.
const INTERVAL: Duration = Duration::from_secs(5);

/// Writes the file every few seconds on a thread of its own, and at the end.
#[derive(Debug)]
pub struct Exporter {
    path: PathBuf,
    status: Arc<Status>,
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Exporter {
    /// Writes the file for the first time.
    ///
    /// # Errors
    /// The file cannot be written. Later failures give a warning only.
    pub fn start(path: PathBuf, status: Arc<Status>) -> Result<Exporter> {
        let write = {
            let (path, status) = (path.clone(), status.clone());
            move || replace(&path, text(&status, RunState::Running).as_bytes())
        };
        write()?;
        let (ended, waiting) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let mut said = false;
            while waiting.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = write()
                    && !said
                {
                    log::warn!("{error}");
                    said = true;
                }
            }
        });
        Ok(Exporter {
            path,
            status,
            thread: Some((ended, thread)),
        })
    }

    /// Writes the file for the last time.
    pub fn finish(mut self, state: RunState) -> Result<()> {
        self.stop();
        replace(&self.path, text(&self.status, state).as_bytes())
    }

    fn stop(&mut self) {
        if let Some((ended, thread)) = self.thread.take() {
            drop(ended);
            thread.join().expect("the thread does not panic");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The whole file.
fn text(status: &Status, state: RunState) -> String {
    let Counts {
        total,
        resumed,
        done,
        failed,
    } = status.counts();
    let mut labels = vec![("command", status.command.to_owned())];
    if let Some(shard) = status.shard {
        labels.push(("shard", shard.to_string()));
    }
    let mut page = Page {
        labels,
        text: String::new(),
    };
    let ends = [("done", done), ("failed", failed), ("resumed", resumed)];
    let ends = ends.map(|(end, n)| (end, n as f64));
    page.family(
        "pictures_total",
        "counter",
        "Pictures by their end.",
        "end",
        &ends,
    );
    let verdicts = status.tally().verdicts().map(|(name, n)| (name, n as f64));
    if status.command == "purify" {
        let help = "Results by their verdict, of earlier runs too.";
        page.family("verdicts_total", "counter", help, "verdict", &verdicts);
    }
    let phases: Vec<_> = status.seconds_by_phase().collect();
    let help = "Seconds in each phase, summed over threads.";
    page.family("phase_seconds_total", "counter", help, "phase", &phases);
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = time.map_or(0.0, |time| time.as_secs_f64());
    for (name, help, value) in [
        (
            "pictures",
            "Pictures in the input; of a stream, those that came.",
            total as f64,
        ),
        (
            "pictures_per_second",
            "Pictures a second since the start.",
            status.rate(),
        ),
        (
            "run_seconds",
            "Seconds since the start.",
            status.elapsed().as_secs_f64(),
        ),
        (
            "running",
            "1 while the run goes on.",
            f64::from(state == RunState::Running),
        ),
        ("written_timestamp_seconds", "When this was written.", time),
    ] {
        page.family(name, "gauge", help, "", &[("", value)]);
    }
    if let Some(bytes) = peak_memory() {
        let help = "The most memory of the process at a time.";
        page.family(
            "peak_memory_bytes",
            "gauge",
            help,
            "",
            &[("", bytes as f64)],
        );
    }
    page.text
}

struct Page {
    /// The labels of every sample.
    labels: Vec<(&'static str, String)>,
    text: String,
}

impl Page {
    /// Adds a metric with a sample for each of `values`, which have different values of the label `by`.
    fn family(&mut self, name: &str, kind: &str, help: &str, by: &str, values: &[(&str, f64)]) {
        let text = &mut self.text;
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP backstitch_{name} {help}");
        let _ = writeln!(text, "# TYPE backstitch_{name} {kind}");
        for (value_of_label, value) in values {
            let own = (!by.is_empty()).then_some((by, *value_of_label));
            let labels = self
                .labels
                .iter()
                .map(|(name, value)| (*name, value.as_str()));
            let labels: Vec<String> = labels
                .chain(own)
                .map(|(name, value)| format!("{name}=\"{value}\""))
                .collect();
            let _ = writeln!(text, "backstitch_{name}{{{}}} {value}", labels.join(","));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defense::Verdict;
    use crate::run::ImageRecord;
    use crate::run::{Phase, Tally};

    #[test]
    fn the_page_has_every_metric_once_in_the_text_form() {
        let shard = "2/4".parse().unwrap();
        let status = Status::new("purify", Some(shard), Some(9), 3, Tally::default());
        status.add(&ImageRecord {
            verdict: Some(Verdict::Clean),
            ..ImageRecord::default()
        });
        status.add(&ImageRecord {
            error: Some("damaged".into()),
            ..ImageRecord::default()
        });
        status.spend(Phase::Decode, Duration::from_millis(1500));
        let text = text(&status, RunState::Done);
        for line in [
            r#"backstitch_pictures_total{command="purify",shard="2/4",end="done"} 1"#,
            r#"backstitch_pictures_total{command="purify",shard="2/4",end="failed"} 1"#,
            r#"backstitch_pictures_total{command="purify",shard="2/4",end="resumed"} 3"#,
            r#"backstitch_verdicts_total{command="purify",shard="2/4",verdict="clean"} 1"#,
            r#"backstitch_phase_seconds_total{command="purify",shard="2/4",phase="decode"} 1.5"#,
            r#"backstitch_pictures{command="purify",shard="2/4"} 9"#,
            r#"backstitch_running{command="purify",shard="2/4"} 0"#,
        ] {
            assert_eq!(
                text.lines().filter(|l| *l == line).count(),
                1,
                "{line}\n{text}"
            );
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let family = name.split('{').next().unwrap();
            let typed = format!("# TYPE {family} ");
            assert_eq!(text.matches(&typed).count(), 1, "{line}");
        }
    }
}
