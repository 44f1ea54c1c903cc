//! Writes output pictures: as single files, or in WebDataset's tar files.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::replace::{Replacement, replace, write_error};
use crate::input::Shard;

/// A run's folder of output pictures.
pub(super) const IMAGES: &str = "images";

/// When a tar file is full: at the first of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TarSize {
    /// Number of pictures, at least 1.
    pub pictures: u64,
    /// Bytes of all pictures together.
    pub bytes: u64,
}

/// Writes tar files, one at a time. A tar file gets its name when it is complete.
#[derive(Debug)]
pub(super) struct TarWriter {
    /// The run folder.
    run: PathBuf,
    size: TarSize,
    /// Prefix of the tar files' names, so that those of several processes can be in one folder.
    prefix: String,
    /// The number of the next tar file.
    next: u32,
    open: Option<OpenTar>,
}

struct OpenTar {
    name: String,
    tar: tar::Builder<Replacement>,
    pictures: u64,
    bytes: u64,
}

impl std::fmt::Debug for OpenTar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with {} pictures", self.name, self.pictures)
    }
}

/// Writes the file `name`, `images/x.png`, of the run folder.
pub(super) fn write_file(run: &Path, name: &Path, bytes: &[u8]) -> Result<()> {
    let path = run.join(name);
    let folder = path.parent().expect("it is in a folder of the run");
    std::fs::create_dir_all(folder).map_err(write_error(folder))?;
    replace(&path, bytes)
}

/// The file that holds a result's `output`: the output itself or, for a member of a tar file, the tar file.
pub(super) fn file_of(run: &Path, output: &str) -> Option<PathBuf> {
    file_in(run, IMAGES, output)
}

/// The file that holds a result's `output` in the run's folder `pictures`.
pub(super) fn file_in(run: &Path, pictures: &str, output: &str) -> Option<PathBuf> {
    let output = Path::new(output);
    let inside = output.starts_with(pictures)
        && output
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
    let mut candidates = output.ancestors().take_while(|path| *path != Path::new(""));
    let found = inside.then(|| candidates.find(|path| run.join(path).is_file()));
    found.flatten().map(Path::to_owned)
}

impl TarWriter {
    /// A writer that continues after the tar files of `shard` in the run folder.
    pub(super) fn new(run: &Path, size: TarSize, shard: Option<Shard>) -> Result<TarWriter> {
        let images = run.join(IMAGES);
        std::fs::create_dir_all(&images).map_err(write_error(&images))?;
        let prefix = shard.map_or(String::new(), |shard| format!("{:03}-", shard.index));
        let mut next = 0;
        for entry in std::fs::read_dir(&images).map_err(Error::io(&images))? {
            let name = entry.map_err(Error::io(&images))?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".tar"))
                .and_then(|number| number.parse::<u32>().ok());
            next = next.max(number.map_or(0, |number| number.saturating_add(1)));
        }
        Ok(TarWriter {
            run: run.to_owned(),
            size,
            prefix,
            next,
            open: None,
        })
    }

    /// Adds a picture and its true label to the open tar file, which [`finish`](Self::finish) completes; gives
    /// the picture's `output`.
    ///
    /// # Errors
    /// The disk is full or fails; the open tar file and its pictures are then discarded.
    pub(super) fn add(
        &mut self,
        name: &Path,
        bytes: &[u8],
        label: Option<usize>,
    ) -> Result<String> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let name = format!("images/{}{:06}.tar", self.prefix, self.next);
                self.next += 1;
                OpenTar {
                    tar: tar::Builder::new(Replacement::create(&self.run.join(&name))?),
                    name,
                    pictures: 0,
                    bytes: 0,
                }
            }
        };
        let path = self.run.join(&open.name);
        let mut member = |name: &Path, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            open.tar
                .append_data(&mut header, name, bytes)
                .map_err(write_error(&path))
        };
        member(name, bytes)?;
        if let Some(label) = label {
            member(&name.with_extension("cls"), label.to_string().as_bytes())?;
        }
        open.pictures += 1;
        open.bytes += bytes.len() as u64;
        let output = format!("{}/{}", open.name, crate::input::names::id_of(name));
        self.open = Some(open);
        Ok(output)
    }

    /// Discards the open tar file, whose pictures a resumed run makes again.
    pub(super) fn give_up(&mut self) {
        self.open = None;
    }

    /// Whether the open tar file has reached its size.
    pub(super) fn is_full(&self) -> bool {
        let full =
            |open: &OpenTar| open.pictures >= self.size.pictures || open.bytes >= self.size.bytes;
        self.open.as_ref().is_some_and(full)
    }

    /// Completes the open tar file and gives it its name.
    pub(super) fn finish(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            let path = self.run.join(&open.name);
            open.tar
                .into_inner()
                .map_err(write_error(&path))?
                .finish()?;
        }
        Ok(())
    }
}
