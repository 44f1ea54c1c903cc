//! `.jsonl` manifests: one JSON object a line, with `file` and optionally `label`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::names::numbered;
use super::picture::open_regular;
use crate::error::{Error, Result};

/// The longest line that is read.
const MAX_LINE: u64 = 1 << 20;

/// The pictures that a manifest lists, in its order; nothing is decoded.
#[derive(Debug)]
pub struct Manifest {
    /// What the files are relative to.
    base: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    file: Box<str>,
    /// `file`, or a numbered form of it where the manifest lists it again.
    id: Option<Box<str>>,
    label: Option<usize>,
    /// The other fields, as JSON.
    more: Option<Box<str>>,
}

impl Manifest {
    /// Reads a manifest. `file` is relative to the manifest's folder.
    ///
    /// # Errors
    /// A line is no object with a `file`, or its `label` is no label; the message has its number.
    pub fn open(path: &Path) -> Result<Manifest> {
        let mut reader = BufReader::new(open_regular(path)?);
        let mut entries = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            if read.map_err(Error::io(path))? == 0 {
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let mut entry = parse(&line)
                .map_err(|message| Error::file(path, format!("line {number} {message}")))?;
            let times = seen.entry(entry.file.to_string()).or_default();
            *times += 1;
            if *times > 1 {
                // The numbered name itself may be in the list: go on until one is free.
                let id = loop {
                    let id = numbered(&entry.file, seen[&*entry.file]);
                    if !seen.contains_key(&id) {
                        break id;
                    }
                    *seen.get_mut(&*entry.file).expect("it was just counted") += 1;
                };
                seen.insert(id.clone(), 1);
                entry.id = Some(id.into());
            }
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(Error::file(path, "lists no pictures"));
        }
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Manifest { base, entries })
    }

    /// Pictures.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; never so after opening.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The name of a picture: `file`, numbered where it is listed more than once.
    pub fn id(&self, index: usize) -> &str {
        let entry = &self.entries[index];
        entry.id.as_deref().unwrap_or(&entry.file)
    }

    /// A picture's path.
    pub fn path(&self, index: usize) -> PathBuf {
        self.base.join(&*self.entries[index].file)
    }

    /// A picture's true label.
    pub fn label(&self, index: usize) -> Option<usize> {
        self.entries[index].label
    }

    /// The fields beside `file` and `label`.
    pub fn more(&self, index: usize) -> Map<String, Value> {
        let more = self.entries[index].more.as_deref();
        more.and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default()
    }
}

/// One line.
fn parse(line: &[u8]) -> Result<Entry, String> {
    if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
        return Err("is longer than 1 MiB".into());
    }
    let mut fields: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("is no JSON object: {error}"))?;
    let file = match fields.shift_remove("file") {
        Some(Value::String(file)) if !file.is_empty() => file,
        Some(other) => return Err(format!("has a file that is no path: {other}")),
        None => return Err("has no field file".into()),
    };
    let label = match fields.shift_remove("label") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let label = value.as_u64().and_then(|label| usize::try_from(label).ok());
            let refused = || format!("has label {value}; labels are integers from 0");
            Some(label.ok_or_else(refused)?)
        }
    };
    let more = (!fields.is_empty()).then(|| Value::Object(fields).to_string().into());
    Ok(Entry {
        file: file.into(),
        id: None,
        label,
        more,
    })
}
