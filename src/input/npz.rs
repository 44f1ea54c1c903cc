//! Arrays of `.npz` archives.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::array_names::{ADVERSARIAL, LABELS, PREDICTED};
use super::arrays::{ArrayFile, Layout};
use super::npy::Header;
use super::stored::Stored;
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::picture::MAX_BYTES;

/// A `.npz` archive.
pub(crate) struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    members: Vec<Member>,
}

impl ArrayFile {
    /// Opens a `.npz` archive: the attacked pictures where it has those, the array called `images` or `x` (`x_test`
    /// and the like), or the only one of 3 or 4 axes; labels are the array called `labels`, `label`, `y`, `target` or
    /// `targets`. The pictures are unpacked once, to a temporary file.
    ///
    /// # Errors
    /// Those of [`open_npy`](Self::open_npy); no array, or several, can be the pictures; the number of labels is
    /// not that of the pictures.
    pub(crate) fn open_npz(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        let mut npz = Npz::open(path)?;
        let pictures = match npz.pictures(&ADVERSARIAL) {
            Some(place) => place,
            None => choose_pictures(&npz.members).map_err(|message| Error::file(path, message))?,
        };
        let mut array = npz.unpack(pictures, layout)?;
        array.labels = npz.labels(&LABELS, array.len())?;
        if array.labels.is_none() {
            npz.name_lookalikes(array.len());
        }
        Ok(array)
    }
}

impl Npz {
    /// Opens an archive; no array is read yet.
    ///
    /// # Errors
    /// It is damaged, or an array's header is.
    pub(crate) fn open(path: &Path) -> Result<Npz> {
        let damaged = |error: ZipError| damaged(path, error);
        let mut archive = ZipArchive::new(BufReader::new(open_regular(path)?)).map_err(damaged)?;
        let mut members = Vec::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else {
                continue;
            };
            let header = Header::read(&mut entry).map_err(|message| {
                let message = format!("is no .npz to read: its array {name} {message}");
                Error::file(path, message)
            })?;
            members.push(Member {
                index,
                name,
                header,
            });
        }
        Ok(Npz {
            path: path.to_owned(),
            archive,
            members,
        })
    }

    /// Index of the array of 3 or 4 axes that has the first of `names` that is found.
    pub(crate) fn pictures(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| {
            let called = |member: &Member| member.name.eq_ignore_ascii_case(name);
            self.members
                .iter()
                .position(|member| member.is_pictures() && called(member))
        })
    }

    /// Unpacks the pictures at a place to a temporary file.
    ///
    /// # Errors
    /// Those of [`ArrayFile::open_npy`].
    pub(crate) fn unpack(&mut self, place: usize, layout: Option<Layout>) -> Result<ArrayFile> {
        ArrayFile::new(self.numbers(place)?, layout)
    }

    /// Unpacks the array at a place to a temporary file.
    ///
    /// # Errors
    /// It is damaged, cut short, or none of numbers.
    fn numbers(&mut self, place: usize) -> Result<Stored> {
        let name = self.full_name(place);
        let named = |message: String| Error::file(&name, message);
        let mut entry = self
            .archive
            .by_index(self.members[place].index)
            .map_err(|error| damaged(&self.path, error))?;
        let header = Header::read(&mut entry).map_err(named)?;
        let header = Header {
            data_offset: 0,
            ..header
        };
        let bytes = header.bytes().map_err(named)?;
        let mut file = tempfile::tempfile().map_err(Error::io(std::env::temp_dir()))?;
        // One byte more, so that the end is reached and the checksum compared.
        let mut whole = entry.take(bytes.saturating_add(1));
        let copied = std::io::copy(&mut whole, &mut file)
            .map_err(|error| named(format!("cannot be unpacked: {error}")))?;
        header.numbers(&name, file, copied)
    }

    /// The labels of the array that is called one of `names`; `None` where there is none. One that is no labels,
    /// and no row of integers either, is named in a warning and left.
    ///
    /// # Errors
    /// The array is damaged, or has a negative number, or not one number for each of `pictures` pictures.
    pub(crate) fn labels(&mut self, names: &[&str], pictures: usize) -> Result<Option<Vec<usize>>> {
        let called = |member: &&Member| names.iter().any(|name| member.is_called(name));
        let plain = |member: &Member| member.header.shape.len() == 1 && member.is_integer();
        let first = |fits: &dyn Fn(&Member) -> bool| {
            let mut members = self.members.iter().enumerate();
            let found = members.find(|(_, member)| called(member) && fits(member));
            found.map(|(place, _)| place)
        };
        let first_plain = first(&plain);
        let place = first_plain
            .or_else(|| first(&|member| member.is_for_each(pictures) && !member.is_pictures()));
        let Some(place) = place else {
            let other = |member: &&Member| called(member) && !member.is_pictures();
            if let Some(member) = self.members.iter().find(other) {
                let (path, name, shape) = (self.path.display(), &member.name, &member.header.shape);
                log::warn!(
                    "{path}: its {name} of shape {shape:?} is no label for each of {pictures} pictures; it is not used"
                );
            }
            return Ok(None);
        };
        let labels = match self.members[place].header.bytes() {
            Ok(bytes) if bytes > MAX_BYTES as u64 => Err(Error::file(
                self.full_name(place),
                format!("takes {bytes} bytes, which is too much for labels"),
            )),
            _ => self.numbers(place).and_then(|numbers| numbers.labels()),
        };
        match labels {
            Ok(labels) if labels.len() != pictures => Err(Error::file(
                self.full_name(place),
                format!("has {} labels for {pictures} pictures", labels.len()),
            )),
            Err(error) if first_plain.is_none() => {
                log::warn!("{error}; it is not used");
                Ok(None)
            }
            labels => labels.map(Some),
        }
    }

    /// Names, in a warning, arrays of an integer for each picture that have none of the names of labels.
    fn name_lookalikes(&self, pictures: usize) {
        let known = |member: &Member| {
            let names = LABELS.iter().chain(&PREDICTED);
            names.into_iter().any(|name| member.is_called(name))
        };
        let alike = |member: &&Member| {
            let columns = &member.header.shape[1.min(member.header.shape.len())..];
            member.is_for_each(pictures)
                && member.is_integer()
                && matches!(columns, [] | [1])
                && !known(member)
        };
        let names: Vec<&str> = self
            .members
            .iter()
            .filter(alike)
            .map(|member| member.name.as_str())
            .collect();
        if !names.is_empty() {
            log::warn!(
                "{}: has integers for each picture that are not taken for true labels ({}); call them labels if \
                 they are",
                self.path.display(),
                names.join(", ")
            );
        }
    }

    /// The archive's path with an array's name in it, for messages.
    fn full_name(&self, place: usize) -> PathBuf {
        PathBuf::from(format!(
            "{}[{}]",
            self.path.display(),
            self.members[place].name
        ))
    }
}

fn damaged(path: &Path, error: ZipError) -> Error {
    Error::file(path, format!("is a damaged .npz archive: {error}"))
}

/// An array of a `.npz` archive.
struct Member {
    index: usize,
    name: String,
    header: Header,
}

impl Member {
    /// Whether its numbers are integers.
    fn is_integer(&self) -> bool {
        let dtype = self.header.dtype();
        dtype.is_some_and(|(dtype, _)| dtype.is_integer())
    }

    /// Whether its first axis is as long as there are `pictures`.
    fn is_for_each(&self, pictures: usize) -> bool {
        self.header.shape.first() == Some(&pictures)
    }

    /// Whether the array can hold pictures.
    fn is_pictures(&self) -> bool {
        matches!(self.header.shape.len(), 3 | 4)
    }

    /// Whether the array's name is `name`, or `name_train` and the like.
    fn is_called(&self, name: &str) -> bool {
        let own = self.name.to_ascii_lowercase();
        own == name
            || own
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('_'))
    }
}

/// Index of the array that holds the pictures of an archive.
fn choose_pictures(members: &[Member]) -> Result<usize, String> {
    let places = || (0..members.len()).filter(|&place| members[place].is_pictures());
    let called = |&place: &usize| ["images", "x"].iter().any(|n| members[place].is_called(n));
    let candidates: Vec<usize> = places().collect();
    let named: Vec<usize> = places().filter(called).collect();
    match (named.as_slice(), candidates.as_slice()) {
        (&[one], _) | ([], &[one]) => Ok(one),
        (_, []) => Err("has no array of 3 or 4 axes".into()),
        _ => {
            let names: Vec<&str> = candidates
                .iter()
                .map(|&place| members[place].name.as_str())
                .collect();
            Err(format!(
                "has several arrays that could be the pictures ({}); call one of them images, or \
                 save it alone",
                names.join(", ")
            ))
        }
    }
}
