//! How far a command is: a bar on a terminal, plain lines otherwise; on stderr.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::Error;

/// Time between plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts pictures and shows the count, the rate and the time left.
///
/// Methods take `&self`: several threads may report.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    total: usize,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

#[derive(Debug)]
struct Lines {
    done: usize,
    last: Instant,
}

impl Progress {
    /// Starts to count to `total` pictures.
    pub fn new(total: usize) -> Progress {
        let now = Instant::now();
        let shown = if std::io::stderr().is_terminal() {
            let bar =
                ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let style = "{bar:30} {pos}/{len} pictures, {per_sec:.2}, {eta} left";
            bar.set_style(ProgressStyle::with_template(style).expect("the template is constant"));
            bar.enable_steady_tick(Duration::from_secs(1));
            Shown::Bar(bar)
        } else {
            Shown::Lines(Mutex::new(Lines { done: 0, last: now }))
        };
        Progress {
            started: now,
            total,
            shown,
        }
    }

    /// A picture is done, and its results are on disk.
    pub fn done(&self) {
        match &self.shown {
            Shown::Bar(bar) => bar.inc(1),
            Shown::Lines(lines) => {
                let mut lines = lines.lock().expect("no thread panics with the count");
                lines.done += 1;
                if lines.last.elapsed() >= INTERVAL && lines.done < self.total {
                    lines.last = Instant::now();
                    say(&describe(lines.done, self.total, self.started.elapsed()));
                }
            }
        }
    }

    /// A picture failed; it counts as done.
    pub fn failed(&self, error: &Error) {
        let line = super::one_line(&format!("backstitch: {error}"));
        match &self.shown {
            Shown::Bar(bar) => bar.println(line),
            Shown::Lines(_) => say(&line),
        }
        self.done();
    }

    /// Ends with a line that says how many pictures took how long.
    pub fn finish(self) {
        let done = match &self.shown {
            Shown::Bar(bar) => {
                bar.finish_and_clear();
                bar.position() as usize
            }
            Shown::Lines(lines) => lines.lock().expect("no thread panics with the count").done,
        };
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = done as f64 / seconds.max(1e-9);
        say(&format!(
            "{done} of {} pictures in {seconds:.1} s ({rate:.2}/s)",
            self.total
        ));
    }
}

/// A plain line in the middle of a run.
fn describe(done: usize, total: usize, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = Duration::try_from_secs_f64((total - done) as f64 / rate).unwrap_or(Duration::MAX);
    format!(
        "{done} of {total} pictures, {rate:.2}/s, {} left",
        HumanDuration(left)
    )
}

/// Writes a line to stderr; a closed one is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_count_rate_and_time_left() {
        assert_eq!(
            describe(20, 100, Duration::from_secs(10)),
            "20 of 100 pictures, 2.00/s, 40 seconds left"
        );
        assert!(describe(1, usize::MAX, Duration::MAX).contains("left"));
    }
}
