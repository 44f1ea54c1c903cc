//! `.jsonl` manifests: one JSON object a line, with `file`, or `file_name` as in Hugging Face's `metadata.jsonl`, and
//! optionally `label`. Lists of names, one a line, are manifests of nothing else; so are the results of a run, with
//! the `output` and the `label` of each picture.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::array_names::LABELS;
use super::classes::Classes;
use super::folder::{Folder, is_run};
use super::names::in_order;
use super::names::{id_of, numbered};
use crate::error::{Error, Result};
use crate::files::{open_regular, text};

/// The folder of a run's output pictures.
const IMAGES: &str = "images";

/// The longest line that is read, in bytes.
pub(crate) const MAX_LINE: u64 = 1 << 20;

/// The pictures that a manifest lists, in its order; nothing is decoded.
///
/// All texts are in one string, so that a long list needs little more memory than the manifest's own text.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The folder that the files' paths are relative to.
    base: PathBuf,
    /// Each entry's `file`, then its other fields as JSON.
    text: String,
    entries: Vec<Listed>,
    /// Numbered names of files that are listed more than once, by entry.
    again: HashMap<u32, Box<str>>,
    /// What is wrong with lines that are no entries, which stand for pictures called `line 3`.
    broken: HashMap<u32, Box<str>>,
    names: Names,
    /// Bytes of the folder, with its `/`, that all files lie below where all paths are absolute; or else 0.
    common: usize,
}

#[derive(Debug)]
struct Listed {
    /// Where the entry's part of the text ends; it starts where that of the entry before ends.
    end: usize,
    /// Length of `file` in bytes; the rest of the entry's text is the other fields.
    file: u32,
    label: Option<u32>,
}

impl Manifest {
    /// Reads a manifest. `file` is relative to the manifest's folder; `classes` give pictures without a label one by
    /// their folders. A line that is no object with a `file`, or whose `label` is no label, is a picture that cannot
    /// be loaded.
    ///
    /// # Errors
    /// No line is a picture; the message is about the first.
    pub(crate) fn open(path: &Path, classes: Option<&Classes>) -> Result<Manifest> {
        let base = path.parent().unwrap_or(Path::new(""));
        let absolute = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
        Self::read(path, base, |line| {
            let entry = Entry::parse(line)?;
            let of_folder =
                || classes.and_then(|classes| classes.label_of(&absolute.join(&entry.file)));
            let label = entry.label.or_else(|| of_folder()?.try_into().ok());
            Ok(Some(Entry { label, ..entry }))
        })
    }

    /// Reads a list of files, one a line, relative to `base`; `classes` give them true labels by their folders.
    ///
    /// # Errors
    /// It cannot be read, a line is not UTF-8 or too long, or there is none.
    pub(crate) fn open_list(
        path: &Path,
        base: &Path,
        classes: Option<&Classes>,
    ) -> Result<Manifest> {
        let absolute = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
        Self::read(path, base, |line| {
            check_length(line)?;
            let file = str::from_utf8(line).map_err(|_| "is not UTF-8")?;
            let file = file.trim();
            let label = classes.and_then(|classes| classes.label_of(&absolute.join(file)));
            Ok(Some(Entry {
                file: file.to_owned(),
                label: label.and_then(|label| u32::try_from(label).ok()),
                more: None,
            }))
        })
    }

    /// The manifest in a folder, where it has Hugging Face's `metadata.jsonl` or is a [run's](Self::of_run).
    /// Pictures of the folder that it does not list are counted in a warning; a `metadata.jsonl` that is no manifest
    /// is named in one and left. `classes` are for a run's pictures without labels.
    pub(crate) fn in_folder(folder: &Path, classes: Option<&Classes>) -> Option<Manifest> {
        let path = folder.join("metadata.jsonl");
        if !path.is_file() {
            return Self::of_run(folder, classes);
        }
        match Self::open(&path, classes) {
            Ok(manifest) => {
                manifest.name_others(&path, folder);
                Some(manifest)
            }
            Err(error) => {
                log::warn!("{error}; the folder's pictures are taken without it");
                None
            }
        }
    }

    /// The outputs of the run that a folder holds, or the folder above it where it is the run's `images`, as far as
    /// they are files; `None` where there are none.
    pub(crate) fn of_run(folder: &Path, classes: Option<&Classes>) -> Option<Manifest> {
        let absolute = std::path::absolute(folder).ok()?;
        let holds_run = |run: &&Path| run.join("results.jsonl").is_file() && is_run(run);
        let above = (absolute.file_name()? == IMAGES).then(|| absolute.parent());
        let run = [Some(absolute.as_path()), above.flatten()];
        let run = run.into_iter().flatten().find(holds_run)?;
        let inside = absolute.strip_prefix(run).ok()?;
        let results = run.join("results.jsonl");
        let mut entries = Vec::new();
        Self::read_lines(&results, |_, line| {
            // A line that a crash cut short is of a picture that is not done.
            let Ok(Done { output, label }) = serde_json::from_slice(line) else {
                return Ok(());
            };
            let Some(file) = output.as_deref().and_then(|output| {
                let file = Path::new(output).strip_prefix(inside).ok()?;
                let in_tar = |part: &Path| part.extension().is_some_and(|e| e == "tar");
                (!file.ancestors().skip(1).any(in_tar)).then(|| id_of(file))
            }) else {
                return Ok(());
            };
            let of_folder = || classes.and_then(|classes| classes.label_of(&absolute.join(&file)));
            let label = label.or_else(|| of_folder()?.try_into().ok());
            entries.push(Entry {
                file,
                label,
                more: None,
            });
            Ok(())
        })
        .ok()?;
        // A run's results are in the order in which pictures were finished, which is another in every run.
        entries.sort_by(|a, b| in_order(&a.file, &b.file));
        let mut manifest = Manifest::new(folder);
        entries.into_iter().for_each(|entry| manifest.add(entry));
        if manifest.entries.is_empty() {
            return None;
        }
        manifest.common = manifest.common_folder();
        let images = match inside == Path::new("") {
            true => folder.join(IMAGES),
            false => folder.to_owned(),
        };
        manifest.name_others(&results, &images);
        Some(manifest)
    }

    /// Counts the pictures of a folder that are not listed in a warning, which names the list.
    fn name_others(&self, list: &Path, folder: &Path) {
        let listed: HashSet<PathBuf> = (0..self.len()).map(|i| self.path(i)).collect();
        // A folder without any pictures is one whose pictures lie elsewhere.
        let others = Folder::open(folder, None).map_or(0, |pictures| {
            let others = (0..pictures.len()).filter(|&i| !listed.contains(&pictures.path(i)));
            others.count()
        });
        if others > 0 {
            log::warn!(
                "{}: does not list {others} of the pictures in its folder, which are left out",
                list.display()
            );
        }
    }

    /// A list of nothing yet, of files relative to `base`.
    fn new(base: &Path) -> Manifest {
        Manifest {
            base: base.to_owned(),
            text: String::new(),
            entries: Vec::new(),
            again: HashMap::new(),
            broken: HashMap::new(),
            names: Names::default(),
            common: 0,
        }
    }

    fn add(&mut self, entry: Entry) {
        if let Some(id) = self.names.again(&entry.file) {
            self.again.insert(self.entries.len() as u32, id.into());
        }
        self.text += &entry.file;
        if let Some(more) = &entry.more {
            self.text += more;
        }
        self.entries.push(Listed {
            end: self.text.len(),
            file: entry.file.len() as u32,
            label: entry.label,
        });
    }

    /// Reads the entries that `parse` makes of a file's lines.
    fn read(
        path: &Path,
        base: &Path,
        parse: impl Fn(&[u8]) -> Result<Option<Entry>, String>,
    ) -> Result<Manifest> {
        let mut manifest = Manifest::new(base);
        Self::read_lines(path, |number, line| {
            match parse(line) {
                Ok(entry) => entry.into_iter().for_each(|entry| manifest.add(entry)),
                Err(why) => {
                    let index = manifest.entries.len() as u32;
                    manifest.broken.insert(index, why.into());
                    manifest.add(Entry {
                        file: format!("line {number}"),
                        label: None,
                        more: None,
                    });
                }
            }
            Ok(())
        })?;
        if manifest.entries.len() == manifest.broken.len() {
            let first = manifest.broken.get(&0);
            let message = first.map_or("lists no pictures".to_owned(), |why| {
                format!("{} {why}", manifest.texts(0).0)
            });
            return Err(Error::file(path, message));
        }
        manifest.common = manifest.common_folder();
        manifest.names = Names::default();
        Ok(manifest)
    }

    /// Gives each line of a file that is not blank to `take`, with its number from 1.
    fn read_lines(path: &Path, mut take: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let mut reader = BufReader::with_capacity(1 << 16, open_regular(path)?);
        let mut line = Vec::new();
        for number in 1.. {
            if !read_line(&mut reader, &mut line).map_err(Error::io(path))? {
                break;
            }
            if !line.trim_ascii().is_empty() {
                take(number, &line)?;
            }
        }
        Ok(())
    }

    /// What is wrong with the line of a picture that is none; `None` for the others.
    pub(crate) fn broken(&self, index: usize) -> Option<&str> {
        self.broken.get(&(index as u32)).map(|why| &**why)
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// An entry's `file`, and its other fields as JSON, which is empty if there are none.
    fn texts(&self, index: usize) -> (&str, &str) {
        let start = index.checked_sub(1).map_or(0, |i| self.entries[i].end);
        let entry = &self.entries[index];
        self.text[start..entry.end].split_at(entry.file as usize)
    }

    /// Bytes of the folder that all files lie below; 0 where a path is relative.
    fn common_folder(&self) -> usize {
        let mut whole = (0..self.len()).filter(|&index| self.broken(index).is_none());
        let Some(first) = whole.next() else {
            return 0;
        };
        let first = self.texts(first).0;
        let folder = |text: &str| {
            let text = text.trim_end_matches('/');
            text.rfind('/').map_or(0, |slash| slash + 1)
        };
        let mut common = folder(first);
        if !Path::new(first).is_absolute() {
            return 0;
        }
        for index in whole {
            let file = self.texts(index).0;
            if !Path::new(file).is_absolute() {
                return 0;
            }
            let pairs = file.bytes().zip(first.bytes());
            let same = pairs.take_while(|(a, b)| a == b).count();
            let same = same.min(folder(file));
            if same < common {
                // A `/` is a character's boundary, and so is what follows it.
                common = first.as_bytes()[..same]
                    .iter()
                    .rposition(|&byte| byte == b'/')
                    .map_or(0, |slash| slash + 1);
            }
        }
        common
    }

    /// The name of a picture: `file`, numbered where it is listed more than once; where all are absolute,
    /// below the folder that they have in common.
    pub(crate) fn id(&self, index: usize) -> &str {
        let again = self.again.get(&(index as u32));
        let name = again.map_or(self.texts(index).0, |id| id);
        match self.broken(index) {
            Some(_) => name,
            None => &name[self.common..],
        }
    }

    /// A picture's path.
    pub(crate) fn path(&self, index: usize) -> PathBuf {
        self.base.join(self.texts(index).0)
    }

    /// A picture's true label.
    pub(crate) fn label(&self, index: usize) -> Option<usize> {
        self.entries[index].label.map(|label| label as usize)
    }

    /// The fields beside `file` and `label`.
    pub(crate) fn more(&self, index: usize) -> Map<String, Value> {
        match self.texts(index).1 {
            "" => Map::new(),
            json => serde_json::from_str(json).expect("it was read from JSON"),
        }
    }
}

/// Reads a line of at most [`MAX_LINE`] bytes; gives false at the end of the file. A longer line is cut there,
/// and [`Entry::parse`] refuses it.
pub(crate) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    text::read_line(reader, line, MAX_LINE)
}

/// Gives a file that is listed again another name.
///
/// Names are kept as hashes. Different names with equal hashes only number a picture without need.
#[derive(Debug, Default)]
pub(crate) struct Names {
    times: HashMap<u64, u32>,
}

impl Names {
    /// Counts `file`; gives its numbered name if it was counted before.
    pub(crate) fn again(&mut self, file: &str) -> Option<String> {
        let hash = |name: &str| xxh3_64(name.as_bytes());
        let mut n = *self.times.get(&hash(file)).unwrap_or(&0) + 1;
        let mut id = None;
        if n > 1 {
            // The list may contain the numbered name itself, so numbers are tried until a name is free.
            let free = loop {
                let id = numbered(file, n as usize);
                if !self.times.contains_key(&hash(&id)) {
                    break id;
                }
                n += 1;
            };
            self.times.insert(hash(&free), 1);
            id = Some(free);
        }
        self.times.insert(hash(file), n);
        id
    }
}

/// Refuses a line that was cut.
fn check_length(line: &[u8]) -> Result<(), String> {
    match line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") {
        true => Err("is longer than 1 MiB".into()),
        false => Ok(()),
    }
}

/// What is read of a line of a run's results.
#[derive(serde::Deserialize)]
struct Done {
    output: Option<String>,
    label: Option<u32>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Entry {
    pub file: String,
    pub label: Option<u32>,
    /// The other fields, as JSON.
    pub more: Option<String>,
}

impl Entry {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with the line; the message follows "line 7".
    pub(crate) fn parse(line: &[u8]) -> Result<Entry, String> {
        check_length(line)?;
        let fields: Fields =
            serde_json::from_slice(line).map_err(|error| format!("is no JSON object: {error}"))?;
        let Fields {
            file,
            label,
            mut more,
        } = fields;
        // Under the names that labels have in arrays, other values are other fields.
        let other = LABELS
            .iter()
            .find(|name| more.get(**name).is_some_and(Value::is_u64));
        let label = match (label, other) {
            (Value::Null, Some(name)) => more.shift_remove(*name).unwrap_or_default(),
            (label, _) => label,
        };
        let file = match file.or_else(|| more.shift_remove("file_name")) {
            Some(Value::String(file)) if !file.is_empty() => file,
            Some(other) => return Err(format!("has a file that is no path: {other}")),
            None => return Err("has no field file".into()),
        };
        Ok(Entry {
            file,
            label: label_of(&label)?,
            more: (!more.is_empty()).then(|| Value::Object(more).to_string()),
        })
    }
}

/// A true label in JSON: an integer from 0, or null.
pub(crate) fn label_of(value: &Value) -> Result<Option<u32>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let label = value.as_u64().and_then(|label| u32::try_from(label).ok());
    match label {
        Some(label) => Ok(Some(label)),
        None => Err(format!("has label {value}; labels are integers from 0")),
    }
}

/// A line's fields. A line with only `file` and `label` needs no map, because lists may have millions of lines.
#[derive(Default)]
struct Fields {
    file: Option<Value>,
    label: Value,
    more: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    match key.as_str() {
                        "file" => fields.file = Some(value),
                        "label" => fields.label = value,
                        _ => drop(fields.more.insert(key, value)),
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}
