//! `INPUT...` and what says how to read it.

use std::path::{Path, PathBuf};

use super::{interrupt, messages};
use crate::error::{Error, Result};
use crate::input::stream::Stream;
use crate::input::{Classes, Dataset, Layout, Shard};
use crate::run::Outputs;

#[derive(Clone, Debug, clap::Args)]
pub struct Inputs {
    /// Images (PNG, JPEG, WebP, BMP, GIF, TIFF), folders of them, .npy, .npz or .pt arrays (floats from 0
    /// to 1, or uint8), CIFAR's .bin files and batches for Python, .tar and .tgz files (WebDataset), .parquet with a
    /// column of images, folders of runs, .jsonl manifests with "file" and "label"; - is such a manifest on standard input, worked on as it
    /// comes
    #[arg(value_name = "INPUT", required_unless_present = "list")]
    pub inputs: Vec<PathBuf>,
    /// File with the names of the pictures to take, one a line: relative to INPUT, a folder, or without one to
    /// this file's folder
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// File with one class-folder name a line, in label order (a tab and a name to show may follow):
    /// pictures in such folders get true labels
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Order of an array's axes, where its shape leaves it open
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    /// Take the pictures of one of N shards only, from 0/N to N-1/N; a picture's name says which it is in
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
}

impl Inputs {
    /// Lists the pictures; none is decoded yet. `overwrite` says that an earlier run's pictures are removed.
    ///
    /// # Errors
    /// Those of [`Dataset::open`]; a file that is read is one of `outputs`. In a stream, such a file fails
    /// alone.
    pub(crate) fn open(&self, outputs: &Outputs, overwrite: bool) -> Result<Dataset> {
        outputs.check(self.classes.iter().chain(&self.list))?;
        let classes = self.classes.as_deref().map(Classes::open).transpose()?;
        let is_stdin = |path: &PathBuf| path == Path::new("-");
        if let Some(list) = &self.list {
            return self.part(open_list(list, &self.inputs, classes)?, outputs);
        }
        let dataset = match self.inputs.as_slice() {
            [input] if is_stdin(input) => {
                outputs.check_stream(overwrite)?;
                let stream = Stream::new(std::io::stdin(), interrupt::requested);
                let outputs = outputs.clone();
                let refuse = move |path: &Path| {
                    let line = messages::line(&outputs.check_one(path).err()?);
                    let named = format!("{}: ", path.display());
                    Some(line.strip_prefix(&named).unwrap_or(&line).to_owned())
                };
                Dataset::stream(stream.refusing(refuse), classes)
            }
            inputs if inputs.iter().any(is_stdin) => {
                return Err(Error::invalid(
                    "standard input (-) must be the only INPUT; a file of this name is ./-",
                ));
            }
            inputs => Dataset::open(inputs, self.layout, classes)?,
        };
        self.part(dataset, outputs)
    }

    /// The shard that was asked for, or all, where none of its files is one of `outputs`.
    fn part(&self, dataset: Dataset, outputs: &Outputs) -> Result<Dataset> {
        outputs.check(dataset.files())?;
        let mut folders = self.inputs.iter();
        folders.try_for_each(|input| outputs.check_folder(input))?;
        Ok(match self.shard {
            Some(shard) => dataset.only(shard),
            None => dataset,
        })
    }
}

/// The pictures that a list names, of the only one of `inputs` or of the list's own folder.
///
/// # Errors
/// Those of [`Dataset::open_list`]; the inputs are no folder, or several.
pub(crate) fn open_list(
    list: &Path,
    inputs: &[PathBuf],
    classes: Option<Classes>,
) -> Result<Dataset> {
    let folder = match inputs {
        [] => None,
        [folder] if folder.is_dir() => Some(folder.as_path()),
        _ => {
            let text = "names pictures of one folder: name that alone, or none";
            return Err(Error::option("list", text));
        }
    };
    Dataset::open_list(list, folder, classes)
}
