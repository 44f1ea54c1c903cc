//! Whether a run may resume the run in a folder: whether both give the same results.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::options::RunDescription;
use crate::error::{Error, Result};

/// The fields of `run.json` that results depend on.
pub(super) const SAME: [&str; 5] = ["backstitch", "command", "configuration", "output", "shard"];

/// The fields of `run.json` that results depend on, for the run of `description`.
pub(crate) fn identity(description: &RunDescription, output: Value, shard: Value) -> Value {
    json!({
        "backstitch": env!("CARGO_PKG_VERSION"),
        "command": description.command,
        "configuration": description.configuration,
        "output": output,
        "shard": shard,
    })
}

/// What a run changes, and what earlier resumed runs in the folder changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub now: Vec<String>,
    pub before: Vec<Value>,
}

/// Compares the run in `folder`, whose journal has the name `journal`, with `identity`.
///
/// # Errors
/// `run.json` is damaged, or missing although the journal has lines.
pub(super) fn compare(folder: &Path, journal: &str, identity: &Value) -> Result<Changes> {
    let path = folder.join("run.json");
    if !path.exists() && has_no_line(&folder.join(journal))? {
        // A run that was killed before it began.
        return Ok(Changes::default());
    }
    let run = read(folder)?;
    // Written and read like the file, because that may change a number's last bit.
    let now: Value = serde_json::from_str(&identity.to_string()).expect("it was just written");
    let mut changes = Changes {
        before: run["changes"].as_array().cloned().unwrap_or_default(),
        ..Changes::default()
    };
    for key in SAME {
        differences(key, &run[key], &now[key], &mut changes.now);
    }
    Ok(changes)
}

/// A folder's `run.json`.
///
/// # Errors
/// It is missing or damaged.
pub(super) fn read(folder: &Path) -> Result<Value> {
    let path = folder.join("run.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::file(&path, format!("is damaged: {error}")).hint("use `overwrite`"))
}

/// Whether a journal has no line, or does not exist.
fn has_no_line(journal: &Path) -> Result<bool> {
    match std::fs::metadata(journal) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        metadata => Ok(metadata.map_err(Error::io(journal))?.len() == 0),
    }
}

/// The values in which two configurations differ.
pub(super) fn differences(name: &str, old: &Value, new: &Value, all: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys {
                let value = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences(key, &value(a), &value(b), all);
            }
        }
        _ if old == new => {}
        _ => all.push(format!("{name} was {old} and is {new}")),
    }
}
