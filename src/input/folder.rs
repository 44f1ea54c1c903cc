//! Folders of pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::classes::Classes;
use crate::error::{Error, Result};
use crate::files::{open_regular, text};

/// The longest `run.json` that is read, in bytes.
const MAX_RECORD: u64 = 64 << 20;

/// Extensions of the files in a folder that are taken for pictures.
const EXTENSIONS: [&str; 10] = [
    "png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff",
];

/// The pictures under a folder, in the order of their names; nothing is decoded.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    /// Paths relative to the root, with the true label if a class folder gives one.
    files: Vec<(Box<Path>, Option<u32>)>,
    skipped: BTreeMap<String, u64>,
}

/// Kinds of files that are told apart where they are skipped; those beyond are counted together.
const MAX_KINDS: usize = 20;

impl Folder {
    /// Lists a folder and all folders in it. Links are followed; hidden files and folders and run folders are
    /// skipped.
    ///
    /// # Errors
    /// A folder cannot be read, there is no picture, or classes are given and no picture is in a class folder.
    pub(crate) fn open(root: &Path, classes: Option<&Classes>) -> Result<Folder> {
        let mut files = Vec::new();
        let mut skipped: BTreeMap<String, u64> = BTreeMap::new();
        let walk = walkdir::WalkDir::new(root)
            .follow_links(true)
            .sort_by_file_name();
        let visible = |entry: &walkdir::DirEntry| {
            let hidden = || entry.file_name().as_encoded_bytes().starts_with(b".");
            entry.depth() == 0 || !(hidden() || holds_run(entry))
        };
        // A class folder may be above `root`, and `root` may be written as `.`.
        let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        for entry in walk.into_iter().filter_entry(visible) {
            let path = match entry {
                Ok(entry) if entry.file_type().is_file() => entry.into_path(),
                Ok(_) => continue,
                Err(error) => missing_target(root, error)?,
            };
            if !is_picture(&path) {
                let mut kind = match path.extension().and_then(|e| e.to_str()) {
                    Some(extension) => format!(".{}", extension.to_ascii_lowercase()),
                    None => "without extension".to_owned(),
                };
                if skipped.len() >= MAX_KINDS && !skipped.contains_key(&kind) {
                    kind = "others".into();
                }
                *skipped.entry(kind).or_default() += 1;
                continue;
            }
            let relative = path.strip_prefix(root).unwrap_or(&path);
            let label = classes.and_then(|classes| classes.label_of(&absolute.join(relative)));
            files.push((
                relative.into(),
                label.and_then(|label| u32::try_from(label).ok()),
            ));
        }
        let others: u64 = skipped.values().sum();
        let kinds = skipped
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"));
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        if files.is_empty() {
            let others = match others {
                0 => String::new(),
                n => format!(
                    " ({n} other files: {kinds}; arrays and manifests must be named themselves)"
                ),
            };
            return Err(Error::file(root, format!("holds no pictures{others}")));
        }
        if others > 0 {
            let message =
                format!("{others} files are skipped, which are no pictures that are read");
            log::warn!("{}: {message}: {kinds}", root.display());
        }
        if classes.is_some() {
            let without = files.iter().filter(|(_, label)| label.is_none()).count();
            if without == files.len() {
                let without = Error::file(root, "has no folder that the list of classes names");
                return Err(
                    without.hint("the first column of `classes` must be the class folders' names")
                );
            }
            if without > 0 {
                log::warn!(
                    "{}: {without} of {} pictures are in no class folder and have no true label",
                    root.display(),
                    files.len()
                );
            }
        }
        Ok(Folder {
            root: root.to_owned(),
            files,
            skipped,
        })
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// How many files are no pictures that are read, by their extensions.
    pub(crate) fn skipped(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }

    /// A picture's path relative to the folder.
    pub(crate) fn relative(&self, index: usize) -> &Path {
        &self.files[index].0
    }

    /// A picture's path.
    pub(crate) fn path(&self, index: usize) -> PathBuf {
        self.root.join(self.relative(index))
    }

    /// A picture's true label.
    pub(crate) fn label(&self, index: usize) -> Option<usize> {
        self.files[index].1.map(|label| label as usize)
    }
}

/// Whether a folder is one of our runs, by its `run.json`: other programs call files so, too.
pub(super) fn is_run(folder: &Path) -> bool {
    let path = folder.join("run.json");
    if !path.is_file() {
        return false;
    }
    let file = open_regular(&path);
    let text = file.ok().and_then(|file| text::read(file, MAX_RECORD).ok());
    let record = text.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    record.is_some_and(|record| record["backstitch"].is_string())
}

/// Whether a folder below an input is a run folder: a resumed run of `purify . -o out` would otherwise take its
/// own outputs for inputs.
fn holds_run(entry: &walkdir::DirEntry) -> bool {
    let holds = |name| entry.path().join(name).is_file();
    let run = entry.file_type().is_dir()
        && ((holds("results.jsonl") || holds("cells.jsonl")) && is_run(entry.path())
            || holds("trace.json") && holds("trace.svg"));
    if run {
        log::warn!("{}: skipped, holds a run", entry.path().display());
    }
    run
}

/// The path of a link whose target does not exist: it is listed, and fails when it is read. Any other error
/// ends the listing.
fn missing_target(root: &Path, error: walkdir::Error) -> Result<PathBuf> {
    let path = error.path().unwrap_or(root).to_owned();
    if error.loop_ancestor().is_some() {
        return Err(Error::file(path, "is a link to a folder that contains it"));
    }
    let source = std::io::Error::from(error);
    match source.kind() {
        std::io::ErrorKind::NotFound if path != root => Ok(path),
        // A link to itself.
        _ if path.is_symlink() && is_picture(&path) => Ok(path),
        _ => Err(Error::Io { path, source }),
    }
}

/// Whether a file's name is that of a picture.
pub(crate) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}
