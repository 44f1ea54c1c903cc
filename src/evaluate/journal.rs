//! The journal of an evaluation, `OUT/cells.jsonl`, from which it resumes.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::cell::Cell;
use crate::error::{Error, Result};
use crate::files::jsonl;
use crate::files::replace::{replace, write_error};
use crate::run::{self, ATTACKED, CELLS, Existing, RunDescription, RunState};

/// An evaluation's run folder, locked by this process, and its cells.
///
/// ```text
/// OUT/cells.jsonl      one line a picture and attack; appended to
/// OUT/run.json         configuration, versions, state
/// OUT/evaluation.*     the results, as JSON, Markdown and HTML
/// OUT/attacked/…       the attacked pictures, if they are kept
/// OUT/.lock            held while a run writes
/// ```
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    description: RunDescription,
    file: File,
    cells: Vec<Cell>,
    /// The picture and the attack of each cell.
    done: HashSet<(String, String)>,
    _lock: File,
}

impl Journal {
    /// Starts or resumes the evaluation in `folder`, which will keep the pictures `kept` there.
    ///
    /// # Errors
    /// The folder cannot be written, another process writes it, it holds a run and `existing` does not
    /// allow that, or the run to resume has another configuration; or the folder has one of the pictures, and no
    /// run wrote it.
    pub fn open(
        folder: &Path,
        existing: Existing,
        description: RunDescription,
        kept: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Journal> {
        let identity = run::identity(&description, Value::Null, Value::Null);
        let taken = run::take_folder(folder, existing, CELLS, &identity)?;
        if !taken.resumes && folder.join(ATTACKED).is_dir() {
            for picture in kept {
                run::refuse_stranger(&folder.join(picture))?;
            }
        }
        let path = folder.join(CELLS);
        let cells = match taken.resumes {
            true => read(&path)?,
            false => Vec::new(),
        };
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let done = cells.iter().map(key).collect();
        let journal = Journal {
            folder: folder.to_owned(),
            description,
            file: file.map_err(Error::io(&path))?,
            cells,
            done,
            _lock: taken.lock,
        };
        journal.describe(RunState::Running, &Map::new())?;
        Ok(journal)
    }

    /// The run folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cells, in the order in which they were recorded.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Whether there is a cell of this picture and this attack.
    pub fn has(&self, image: &str, attack: &str) -> bool {
        // Copying two short strings costs nothing compared with computing a cell.
        self.done.contains(&(image.to_owned(), attack.to_owned()))
    }

    /// Adds a cell, and returns when it is on disk.
    ///
    /// # Errors
    /// The disk is full or fails; cells recorded before stay whole.
    pub fn record(&mut self, cell: Cell) -> Result<()> {
        let path = self.folder.join(CELLS);
        let mut line = serde_json::to_vec(&cell).expect("a cell is plain data");
        line.push(b'\n');
        self.file.write_all(&line).map_err(write_error(&path))?;
        self.file.sync_data().map_err(write_error(&path))?;
        self.done.insert(key(&cell));
        self.cells.push(cell);
        Ok(())
    }

    /// Writes a file of the run folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace(&self.folder.join(name), bytes)
    }

    /// Writes `run.json`, with `more` in it.
    pub fn describe(&self, state: RunState, more: &Map<String, Value>) -> Result<()> {
        let mut run = json!({
            "backstitch": env!("CARGO_PKG_VERSION"),
            "command": self.description.command,
            "state": state,
            "configuration": self.description.configuration,
        });
        let fields = run.as_object_mut().expect("it is an object");
        fields.extend(self.description.more.clone());
        fields.extend(more.clone());
        let text = serde_json::to_string_pretty(&run).expect("it is plain data") + "\n";
        self.write("run.json", text.as_bytes())
    }
}

fn key(cell: &Cell) -> (String, String) {
    (cell.image.clone(), cell.attack.clone())
}

/// The cells of a journal. Removes a line that a crash cut short, and the failed pictures, which are tried
/// again.
fn read(path: &Path) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    jsonl::recover(path, |cell: Cell| {
        let done = cell.error.is_none();
        if done {
            cells.push(cell);
        }
        done
    })?;
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(seed: u64) -> RunDescription {
        RunDescription {
            command: "evaluate",
            configuration: json!({ "seed": seed }),
            more: Map::new(),
        }
    }

    fn cell(image: &str, attack: &str) -> Cell {
        Cell {
            image: image.into(),
            label: Some(3),
            attack: attack.into(),
            ..Cell::default()
        }
    }

    #[test]
    fn a_torn_journal_goes_on_where_it_was_whole() {
        let folder = tempfile::tempdir().unwrap();
        let open = |existing, seed| Journal::open(folder.path(), existing, description(seed), []);
        let mut journal = open(Existing::Refuse, 1).unwrap();
        journal.record(cell("a", "clean")).unwrap();
        let failed = Cell {
            error: Some("is damaged".into()),
            ..cell("b", "clean")
        };
        journal.record(failed).unwrap();
        journal.record(cell("a", "pgd")).unwrap();
        journal.record(cell("c", "clean")).unwrap();
        drop(journal);
        let path = folder.path().join(CELLS);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();

        let refused = |existing, seed| open(existing, seed).unwrap_err().to_string();
        assert!(refused(Existing::Refuse, 1).contains("`resume`"));
        assert!(refused(Existing::Resume, 2).contains("seed was 1 and is 2"));
        let mut journal = open(Existing::Resume, 1).unwrap();
        assert_eq!(journal.cells(), [cell("a", "clean"), cell("a", "pgd")]);
        assert!(
            journal.has("a", "pgd") && !journal.has("c", "clean") && !journal.has("b", "clean")
        );
        journal.record(cell("c", "clean")).unwrap();
        drop(journal);
        assert_eq!(open(Existing::Resume, 1).unwrap().cells().len(), 3);
        assert!(open(Existing::Overwrite, 2).unwrap().cells().is_empty());
    }

    #[test]
    fn damage_in_the_middle_is_said_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let open = |existing| Journal::open(folder.path(), existing, description(1), []);
        drop(open(Existing::Refuse).unwrap());
        let line = serde_json::to_string(&cell("a", "clean")).unwrap();
        let path = folder.path().join(CELLS);
        std::fs::write(&path, format!("{line}\n{{\n{line}\n")).unwrap();
        let error = open(Existing::Resume).unwrap_err().to_string();
        assert!(error.contains("line 2 is damaged"), "{error}");
    }

    #[test]
    fn two_runs_do_not_write_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Journal::open(folder.path(), Existing::Overwrite, description(1), []);
        let first = open().unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("is being written by another run"), "{error}");
        drop(first);
        open().unwrap();
    }
}
