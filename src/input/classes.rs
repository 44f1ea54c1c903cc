//! The names of a classifier's labels.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{open_regular, text};

/// The longest list that is read.
const MAX_BYTES: u64 = 64 << 20;

/// A class list: one class folder's name in each line, in the order of the labels, optionally followed by a tab
/// and a name to show.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    names: Vec<String>,
    labels: HashMap<String, usize>,
}

impl Classes {
    /// Reads a class list.
    ///
    /// # Errors
    /// The file cannot be read, is empty, has an empty line in the middle, or the same folder twice.
    pub fn open(path: &Path) -> Result<Classes> {
        let text = text::read(open_regular(path)?, MAX_BYTES).map_err(Error::io(path))?;
        let mut classes = Classes::default();
        for (label, line) in text.trim_end().lines().enumerate() {
            let (folder, name) = line.split_once('\t').unwrap_or((line, line));
            let folder = folder.trim();
            if folder.is_empty() {
                return Err(Error::file(
                    path,
                    format!(
                        "line {} is empty; a line is a label's class folder",
                        label + 1
                    ),
                ));
            }
            if let Some(first) = classes.labels.insert(folder.to_owned(), label) {
                return Err(Error::file(
                    path,
                    format!("has {folder} in lines {} and {}", first + 1, label + 1),
                ));
            }
            classes.names.push(name.trim().to_owned());
        }
        if classes.names.is_empty() {
            return Err(Error::file(path, "has no classes"));
        }
        Ok(classes)
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no classes, which is never true after opening.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name to show for a label.
    pub fn name(&self, label: usize) -> Option<&str> {
        self.names.get(label).map(String::as_str)
    }

    /// The true label of `file`: that of the nearest class folder above it.
    pub fn label_of(&self, file: &Path) -> Option<usize> {
        file.ancestors()
            .skip(1)
            .filter_map(|folder| folder.file_name().and_then(OsStr::to_str))
            .find_map(|name| self.labels.get(name).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Classes> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Classes::open(file.path())
    }

    #[test]
    fn folders_give_labels_and_the_second_column_names() {
        let classes = open("n01\ttench\nn02\nn03\tgreat white shark\n").unwrap();
        assert_eq!(classes.len(), 3);
        assert_eq!(classes.name(0), Some("tench"));
        assert_eq!(classes.name(1), Some("n02"));
        assert_eq!(classes.name(3), None);
        assert_eq!(classes.label_of(Path::new("clean/n03/deep/x.png")), Some(2));
        assert_eq!(classes.label_of(Path::new("n01/n02/x.png")), Some(1));
        assert_eq!(classes.label_of(Path::new("n03")), None);
    }

    #[test]
    fn damaged_lists_are_refused_with_the_line() {
        let message = |text| open(text).unwrap_err().to_string();
        assert!(message("a\n\nb\n").contains("line 2 is empty"));
        assert!(message("a\nb\na\n").contains("has a in lines 1 and 3"));
        assert!(message("\n").contains("has no classes"));
    }
}
