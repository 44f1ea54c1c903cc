//! What a command says on stderr: lines of text, or one JSON object a line for machines.

use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter};
use serde_json::{Map, Value, json};

use crate::error::Error;

/// The form of the lines on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    /// One object a line: "time" in seconds since 1970, "level", "message"; progress has the event
    /// "progress" and numbers.
    Json,
}

/// The process's format: as its log, there is one.
static FORMAT: OnceLock<Format> = OnceLock::new();

/// The warnings that were said, each once.
static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The most warnings that are remembered.
const MAX_WARNINGS: usize = 100;

/// The warnings that were said so far, as a run's description has them: what was not as it should be and was used or
/// left all the same. Nothing where there were none.
pub(crate) fn warned() -> Option<(String, Value)> {
    let warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    (!warned.is_empty()).then(|| ("warnings".to_owned(), json!(*warned)))
}

/// The format that [`start`] chose.
pub(crate) fn format() -> Format {
    FORMAT.get().copied().unwrap_or_default()
}

/// Chooses the format, and sends the log to stderr in it.
pub(crate) fn start(verbose: u8, format: Format) {
    // A second start in one process keeps the first's format, as its log does.
    let _ = FORMAT.set(format);
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .format(|out, record| {
            let level = record.level();
            let text = record.args().to_string();
            if level == Level::Warn {
                let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
                if warned.len() < MAX_WARNINGS && !warned.contains(&text) {
                    warned.push(text.clone());
                }
            }
            let line = match self::format() {
                Format::Text => {
                    let text = one_line(&text);
                    format!("backstitch: {}: {text}", name(level))
                }
                Format::Json => object(level, &text, Map::new()),
            };
            writeln!(out, "{line}")
        })
        .init();
}

/// An error's line, its options spelled as flags.
pub(crate) fn line(error: &Error) -> String {
    error.spelled(&|name, value| {
        let value = value.map_or(String::new(), |value| format!(" {value}"));
        let name = match name {
            "random_start" => "no_random_start",
            name => name,
        };
        format!("--{}{value}", name.replace('_', "-"))
    })
}

/// Says a line.
pub(crate) fn say(level: Level, text: &str) {
    event(level, text, Map::new);
}

/// Says a line, which JSON gives `fields` too.
pub(crate) fn event(level: Level, text: &str, fields: impl FnOnce() -> Map<String, Value>) {
    write(match format() {
        Format::Text => format!("backstitch: {}", one_line(text)),
        Format::Json => object(level, text, fields()),
    });
}

/// Says how far a run is: as text without the program's name.
pub(crate) fn progress(text: &str, fields: impl FnOnce() -> Map<String, Value>) {
    write(match format() {
        Format::Text => one_line(text),
        Format::Json => {
            let mut fields = fields();
            fields.insert("event".into(), "progress".into());
            object(Level::Info, text, fields)
        }
    });
}

/// Writes a line to stderr; a closed one is no reason to fail.
fn write(line: String) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Text without line breaks: file names may have them.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

fn name(level: Level) -> String {
    level.as_str().to_ascii_lowercase()
}

fn object(level: Level, message: &str, fields: Map<String, Value>) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = time.map_or(0, |time| time.as_millis() as u64);
    let mut object = json!({
        "time": time as f64 / 1000.0,
        "level": name(level),
        "message": message,
    });
    let all = object.as_object_mut().expect("it is an object");
    all.extend(fields);
    object.to_string()
}
