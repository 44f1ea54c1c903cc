//! Journals, which are appended to while a run goes on: one JSON object a line. Reading one again after a
//! crash, which may have torn its last line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::replace::{Replacement, write_error};
use crate::error::{Error, Result};

/// Takes the lines out of a journal that `keep` does not want, and a torn last one. A journal that is not
/// there is an empty one.
///
/// # Errors
/// The file cannot be read or written; a line is damaged that is not the last.
pub(crate) fn recover<T: DeserializeOwned>(
    path: &Path,
    mut keep: impl FnMut(T) -> bool,
) -> Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(Error::io(path))?,
    };
    let mut kept = Ranges::default();
    let mut length = 0;
    read(path, &file, |line: Option<T>, size| {
        let start = length;
        length += size;
        if line.is_some_and(&mut keep) {
            kept.add(start, length);
        }
        Ok(())
    })?;
    match kept.0.as_slice() {
        _ if kept.end() == length && kept.0.len() <= 1 && kept.starts_at_0() => {}
        // Only the end is dropped: that needs no room on a full disk.
        [] | [(0, _)] => {
            let file = OpenOptions::new().write(true).open(path);
            let cut = file.and_then(|file| {
                file.set_len(kept.end())?;
                file.sync_data()
            });
            cut.map_err(write_error(path))?;
        }
        ranges => {
            let mut whole = Replacement::create(path)?;
            for &(start, end) in ranges {
                (&file)
                    .seek(SeekFrom::Start(start))
                    .map_err(Error::io(path))?;
                std::io::copy(&mut (&file).take(end - start), &mut whole)
                    .map_err(write_error(path))?;
            }
            whole.finish()?;
        }
    }
    Ok(())
}

/// Parts of a file, in order, those that touch joined.
#[derive(Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn add(&mut self, start: u64, end: u64) {
        match self.0.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.0.push((start, end)),
        }
    }

    fn end(&self) -> u64 {
        self.0.last().map_or(0, |last| last.1)
    }

    fn starts_at_0(&self) -> bool {
        self.0.first().is_none_or(|first| first.0 == 0)
    }
}

/// Gives `each` every line and its bytes; `None` for a torn last one.
///
/// # Errors
/// The file cannot be read, a line is damaged that is not the last; what `each` fails of.
pub(crate) fn read<T: DeserializeOwned>(
    path: &Path,
    file: &File,
    mut each: impl FnMut(Option<T>, u64) -> Result<()>,
) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line);
        if read.map_err(Error::io(path))? == 0 {
            break;
        }
        let parsed = serde_json::from_slice(&line);
        let last = reader.fill_buf().map_err(Error::io(path))?.is_empty();
        let parsed = match parsed {
            Ok(parsed) if line.ends_with(b"\n") => Some(parsed),
            Err(error) if !last => {
                let damaged = Error::file(path, format!("line {number} is damaged: {error}"));
                return Err(damaged.hint("start anew with `overwrite`"));
            }
            _ => None,
        };
        each(parsed, line.len() as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a journal of `text` becomes where numbers below 5 are kept, and those that it has.
    fn recovered(text: &str) -> Result<(String, Vec<u32>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut numbers = vec![];
        recover(&path, |number| {
            numbers.push(number);
            number < 5
        })?;
        Ok((std::fs::read_to_string(&path).unwrap(), numbers))
    }

    #[test]
    fn unwanted_and_torn_lines_are_taken_out() {
        for (text, left, numbers) in [
            ("", "", &[][..]),
            ("1\n2\n", "1\n2\n", &[1, 2]),
            ("1\n2", "1\n", &[1]),
            ("1\n{\"tor", "1\n", &[1]),
            ("1\n}}\n", "1\n", &[1]),
            ("7\n", "", &[7]),
            ("7\n1\n", "1\n", &[7, 1]),
            ("1\n7\n2\n8", "1\n2\n", &[1, 7, 2]),
        ] {
            let found = recovered(text).unwrap();
            assert_eq!(found, (left.to_owned(), numbers.to_vec()), "{text:?}");
        }
        let damaged = recovered("1\n}}\n2\n").unwrap_err().to_string();
        assert!(damaged.contains("line 2 is damaged"), "{damaged}");
    }

    #[test]
    fn a_journal_that_is_not_there_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        recover(&path, |_: u32| true).unwrap();
        assert!(!path.exists());
    }
}
