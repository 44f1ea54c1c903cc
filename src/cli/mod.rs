//! The command line: arguments, progress, interruption, exit codes. One file per subcommand, with no
//! logic of its own.
//!
//! Exit codes: 0, 1 for an error (one line on stderr) or where single pictures failed, 2 for wrong
//! usage, 130 where the user interrupted.

pub(crate) mod attack;
pub(crate) mod batches;
pub(crate) mod bench;
pub(crate) mod classify;
pub mod defense;
pub(crate) mod device;
pub(crate) mod devices;
pub(crate) mod evaluate;
pub(crate) mod inputs;
pub(crate) mod interrupt;
pub(crate) mod merge;
pub(crate) mod messages;
pub(crate) mod model;
pub(crate) mod progress;
pub mod purify;
pub(crate) mod run_folder;
pub mod settings;
pub(crate) mod through;
pub(crate) mod trace;
pub(crate) mod values;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use log::Level;

use crate::error::{Error, Result};
use crate::run::Counts;
use crate::run::Outputs;

/// Removes adversarial noise from images, for any image classifier.
#[derive(Debug, Parser)]
#[command(name = "backstitch", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every subcommand.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Say more about what happens; twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(flatten)]
    pub place: device::Place,
    /// Measure every kernel: a table at the end, and a trace for Perfetto or chrome://tracing in FILE
    #[arg(long, global = true, value_name = "FILE.json")]
    pub profile: Option<PathBuf>,
    /// Form of what is said on stderr: text, or one JSON object a line
    #[arg(long, global = true, value_enum, default_value_t = messages::Format::Text)]
    pub log: messages::Format,
}

impl Global {
    /// The file that every subcommand may write.
    pub(crate) fn outputs(&self) -> Outputs {
        Outputs::default().file("profile", self.profile.as_deref())
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Purify images
    Purify(Box<purify::Args>),
    /// Print labels and confidences, without purification
    Classify(Box<classify::Args>),
    /// Make adversarial images, to test a defense with
    Attack(Box<attack::Args>),
    /// Draw one image's trajectories and its path through the decision space
    Trace(Box<trace::Args>),
    /// Join the run folders of a dataset's shards
    Merge(merge::Args),
    /// Measure the defense against attacks and other defenses, as a table
    Evaluate(Box<evaluate::Args>),
    /// Show what this machine and this build can use
    Devices(devices::Args),
    /// Measure the throughput of the engine on this machine
    Bench(bench::Args),
}

/// How a command ended that was not stopped by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Single pictures failed; the others are done.
    SomeFailed {
        failed: usize,
        of: usize,
    },
    /// The user stopped it; what was finished is kept.
    Interrupted,
}

impl Outcome {
    /// The outcome of a run that ended with these counts.
    pub fn of(counts: Counts) -> Outcome {
        match counts.failed {
            0 => Outcome::Done,
            failed => Outcome::SomeFailed {
                failed,
                of: counts.done + counts.failed,
            },
        }
    }
}

/// Runs the command that the command line asks for.
pub fn run(cli: Cli) -> Result<Outcome> {
    match &cli.command {
        Command::Purify(args) => purify::run(args, &cli.global),
        Command::Classify(args) => classify::run(args, &cli.global),
        Command::Attack(args) => attack::run(args, &cli.global),
        Command::Trace(args) => trace::run(args, &cli.global),
        Command::Merge(args) => merge::run(args),
        Command::Evaluate(args) => evaluate::run(args, &cli.global),
        Command::Devices(args) => devices::run(args),
        Command::Bench(args) => bench::run(args, &cli.global),
    }
}

/// Parses a command line, whose first word is the program, prepares logging and threads, runs the command, and
/// makes its end an exit code.
pub fn start(
    line: impl IntoIterator<Item = OsString>,
    run: impl FnOnce(Cli) -> Result<Outcome>,
) -> u8 {
    // What FAILPOINTS says is to fail does so from here on.
    #[cfg(feature = "faults")]
    let _faults = fail::FailScenario::setup();
    let cli = Cli::parse_from(line);
    messages::start(cli.global.verbose, cli.global.log);
    let result = use_threads(cli.global.place.threads).and_then(|()| run(cli));
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::SomeFailed { failed, of }) => {
            messages::say(Level::Error, &format!("{failed} of {of} pictures failed"));
            1
        }
        Ok(Outcome::Interrupted) | Err(Error::Interrupted) => {
            messages::say(Level::Warn, "interrupted; what was finished is kept");
            130
        }
        Err(error) if is_closed_stdout(&error) => 0,
        Err(error) => {
            messages::say(Level::Error, &messages::line(&error));
            1
        }
    }
}

/// What errors in writing to stdout are about.
pub const STDOUT: &str = "stdout";

/// Prints a line to stdout.
///
/// # Errors
/// stdout cannot be written. Where its reader is gone (`| head`), [`start`] then ends quietly.
pub fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").map_err(Error::io(STDOUT))
}

fn is_closed_stdout(error: &Error) -> bool {
    matches!(error, Error::Io { path, source }
        if path == Path::new(STDOUT) && source.kind() == std::io::ErrorKind::BrokenPipe)
}

fn use_threads(threads: Option<u16>) -> Result<()> {
    let Some(threads) = threads else {
        return Ok(());
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.into())
        .build_global()
        .map_err(|error| Error::invalid(format!("{threads} threads cannot be started: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_command_lines_parse() {
        for line in [
            "backstitch purify a.png b/ --classifier m.onnx -o out --resume --save npy --no-report",
            "backstitch purify b --classes c.txt --classifier m.onnx -o out --threads 2 --device cpu -v",
            "backstitch purify b --classifier m.onnx -o out --device cuda:0,cuda:1 --stop-early",
            "backstitch purify b --classifier m.onnx -o out --device cpu,cpu --memory 1.5GiB",
            "backstitch classify a.npy --layout nhwc --classifier m.onnx --json --logits l.npy",
            "backstitch attack b --classifier m.onnx --method pgd --eps 4/255 -o out",
            "backstitch attack b --classifier m.onnx --through trajectory --draws 2 --attacker-seeds fresh \
             --restarts 2 --seed 1 --defense-restarts 3 --defense-seed 4 --iterations 300 -o out",
            "backstitch trace a.png --classes c.txt --classifier m.onnx -o out --overwrite",
            "backstitch purify - --shard 0/8 --classifier m.onnx -o out --jsonl - --log json",
            "backstitch purify a.tar --classifier m.onnx -o out --tar-out --metrics m.prom",
            "backstitch classify a --shard 7/8 --classifier m.onnx",
            "backstitch merge out-0 out-1 -o out --partial",
            "backstitch evaluate b --classes c.txt --classifier m.onnx -o out --suite adaptive --limit 9",
            "backstitch evaluate b --classifier m.onnx -o out --attacks noise,pgd@decision:4/255 --eps 2/255,8/255",
            "backstitch devices --json",
            "backstitch bench --device cpu --json --classifier m.onnx",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "backstitch purify --classifier m.onnx -o out",
            "backstitch purify a.png -o out",
            "backstitch purify a.png --classifier m.onnx",
            "backstitch purify a.png --classifier m.onnx -o out --resume --overwrite",
            "backstitch purify a.png --classifier m.onnx -o out --size 224x",
            "backstitch purify a.png --classifier m.onnx -o out --mean 1,2",
            "backstitch purify a.png --classifier m.onnx -o out --std 1,0,1",
            "backstitch purify a.png --classifier m.onnx -o out --crop-pct 1.5",
            "backstitch purify a.png --classifier m.onnx -o out --threads 0",
            "backstitch purify a.png --classifier m.onnx -o out --memory lots",
            "backstitch purify a.png --classifier m.onnx -o out --shard 8/8",
            "backstitch purify a.png --classifier m.onnx -o out --allow-changes",
            "backstitch purify a.png --classifier m.onnx -o out --tar-pictures 5",
            "backstitch merge -o out",
            "backstitch attack a.png --classifier m.onnx --method pgd --eps 4/0 -o out",
            "backstitch trace a.png b.png --classifier m.onnx -o out",
            "backstitch purify a.png --classifier m.onnx -o out --device cpu,cuda",
            "backstitch purify a.png --classifier m.onnx -o out --settled-probes 4",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
