//! How far a command is: a bar on a terminal, plain lines or JSON otherwise; on stderr.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::Level;
use serde_json::{Map, Value, json};

use super::messages::{self, Format};
use crate::error::Error;
use crate::run::{Counts, Status};

/// Time between plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Shows a run's counts, rate, verdicts and the time left.
///
/// Methods take `&self`: several threads may report.
#[derive(Debug)]
pub(crate) struct Progress {
    status: Arc<Status>,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    /// When the last line was.
    Lines(Mutex<Instant>),
}

impl Progress {
    /// Starts to show a run's status.
    pub(crate) fn new(status: &Arc<Status>) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let shown = if is_terminal && messages::format() == Format::Text {
            let to_do = status.to_do().map(|n| n as u64);
            let bar = ProgressBar::with_draw_target(to_do, ProgressDrawTarget::stderr());
            let template = match to_do {
                Some(_) => "{bar:30} {pos}/{len} pictures, {per_sec:.2}, {eta} left{msg}",
                None => "{spinner} {pos} pictures, {per_sec:.2}{msg}",
            };
            bar.set_style(
                ProgressStyle::with_template(template).expect("the template is constant"),
            );
            bar.enable_steady_tick(Duration::from_secs(1));
            Shown::Bar(bar)
        } else {
            Shown::Lines(Mutex::new(Instant::now()))
        };
        Progress {
            status: status.clone(),
            shown,
        }
    }

    /// A picture is done, and its results are on disk.
    pub(crate) fn done(&self) {
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_message(verdicts(&self.status));
                bar.inc(1);
            }
            Shown::Lines(last) => {
                let mut last = last.lock().expect("no thread panics with the time");
                let Counts { done, failed, .. } = self.status.counts();
                if last.elapsed() >= INTERVAL && self.status.to_do() != Some(done + failed) {
                    *last = Instant::now();
                    let elapsed = self.status.elapsed();
                    let line = describe(done + failed, self.status.to_do(), elapsed);
                    messages::progress(&(line + &verdicts(&self.status)), || self.fields());
                }
            }
        }
    }

    /// A picture failed; it counts as done.
    pub(crate) fn failed(&self, error: &Error) {
        match &self.shown {
            Shown::Bar(bar) => {
                bar.println(messages::one_line(&format!("backstitch: {error}")));
            }
            Shown::Lines(_) => messages::say(Level::Error, &messages::line(error)),
        }
        self.done();
    }

    /// Ends with a line that says how many pictures took how long.
    pub(crate) fn finish(self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        let Counts { done, failed, .. } = self.status.counts();
        let done = done + failed;
        let of = self.status.to_do().unwrap_or(done);
        let seconds = self.status.elapsed().as_secs_f64();
        let rate = self.status.rate();
        let line = format!("{done} of {of} pictures in {seconds:.1} s ({rate:.2}/s)");
        messages::progress(&line, || self.fields());
    }

    /// For machines.
    fn fields(&self) -> Map<String, Value> {
        let status = &self.status;
        let Counts { done, failed, .. } = status.counts();
        let rate = status.rate();
        let left = status
            .to_do()
            .map(|to_do| to_do.saturating_sub(done + failed));
        let verdicts = status
            .tally()
            .verdicts()
            .map(|(name, n)| (name.to_owned(), n.into()));
        let fields = [
            ("images", json!(status.counts())),
            ("seconds", json!(status.elapsed().as_secs_f64())),
            ("images_per_second", json!(rate)),
            ("seconds_left", json!(left.map(|left| left as f64 / rate))),
            ("verdicts", Value::Object(verdicts.into_iter().collect())),
            ("seconds_by_phase", status.seconds_by_phase().collect()),
        ];
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}

/// The verdicts so far, to follow the count; nothing where there are none.
fn verdicts(status: &Status) -> String {
    let found = status.tally().verdicts();
    let found: Vec<String> = found
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    match found.is_empty() {
        true => String::new(),
        false => format!(" ({})", found.join(", ")),
    }
}

/// A plain line in the middle of a run.
fn describe(done: usize, to_do: Option<usize>, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let Some(to_do) = to_do else {
        return format!("{done} pictures, {rate:.2}/s");
    };
    let left = to_do.saturating_sub(done) as f64 / rate;
    let left = HumanDuration(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX));
    format!("{done} of {to_do} pictures, {rate:.2}/s, {left} left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_count_rate_and_time_left() {
        let ten = Duration::from_secs(10);
        assert_eq!(
            describe(20, Some(100), ten),
            "20 of 100 pictures, 2.00/s, 40 seconds left"
        );
        assert_eq!(describe(20, None, ten), "20 pictures, 2.00/s");
        assert!(describe(1, Some(usize::MAX), Duration::MAX).contains("left"));
    }
}
