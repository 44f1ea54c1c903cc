//! Arrays of `.npz` archives.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::result::ZipError;

use super::arrays::{ArrayFile, Layout};
use super::npy::Header;
use crate::error::{Error, Result};
use crate::files::open_regular;

/// Names of arrays of true labels.
const LABELS: [&str; 3] = ["labels", "label", "y"];

/// A `.npz` archive.
pub(crate) struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    members: Vec<Member>,
}

impl ArrayFile {
    /// Opens a `.npz` archive: the array called `images` or `x` (`x_test` and the like), or the only
    /// one of 3 or 4 axes; labels are an integer array of one axis called `labels`, `label` or `y`.
    /// The pictures are unpacked once, to a temporary file.
    ///
    /// # Errors
    /// Those of [`open_npy`](Self::open_npy); no array, or several, can be the pictures; the number of labels is
    /// not that of the pictures.
    pub(crate) fn open_npz(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        let mut npz = Npz::open(path)?;
        let pictures =
            choose_pictures(&npz.members).map_err(|message| Error::file(path, message))?;
        let mut array = npz.unpack(pictures, layout)?;
        array.labels = npz.labels(&LABELS, array.len())?;
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

    /// Unpacks the array with index `place` to a temporary file.
    ///
    /// # Errors
    /// Those of [`ArrayFile::open_npy`].
    pub(crate) fn unpack(&mut self, place: usize, layout: Option<Layout>) -> Result<ArrayFile> {
        let name = self.full_name(place);
        let named = |message: String| Error::file(&self.path, message);
        let mut entry = self
            .archive
            .by_index(self.members[place].index)
            .map_err(|error| damaged(&self.path, error))?;
        let header = Header::read(&mut entry).map_err(named)?;
        let header = Header {
            data_offset: 0,
            ..header
        };
        let file = tempfile::tempfile().map_err(Error::io(std::env::temp_dir()))?;
        let array = ArrayFile::new(name.clone(), file, &header, layout)
            .map_err(|message| Error::file(&name, message))?;
        let bytes = array.bytes().map_err(named)?;
        let copied = {
            let mut unpacked = array.data.lock().expect("no thread panics with the file");
            // One byte more, so that the reader reaches the end and compares the checksum.
            let mut whole = entry.take(bytes.saturating_add(1));
            let copied = std::io::copy(&mut whole, &mut *unpacked);
            copied.and_then(|copied| unpacked.flush().map(|()| copied))
        }
        .map_err(|error| named(format!("cannot be unpacked: {error}")))?;
        array
            .check_length(copied)
            .map_err(|message| Error::file(&name, message))?;
        Ok(array)
    }

    /// The integers of the array of one axis whose name is one of `names`; `None` if there is no such array.
    ///
    /// # Errors
    /// The array is damaged, or has a negative number, or not one number for each of `pictures` pictures.
    pub(crate) fn labels(&mut self, names: &[&str], pictures: usize) -> Result<Option<Vec<usize>>> {
        let Some(place) = self.members.iter().position(|m| m.is_labels(names)) else {
            return Ok(None);
        };
        let name = self.full_name(place);
        let mut entry = self
            .archive
            .by_index(self.members[place].index)
            .map_err(|error| damaged(&self.path, error))?;
        let labels = read_labels(&mut entry).map_err(|message| Error::file(&name, message))?;
        if labels.len() != pictures {
            let message = format!("has {} labels for {pictures} pictures", labels.len());
            return Err(Error::file(&name, message));
        }
        Ok(Some(labels))
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
    fn is_labels(&self, names: &[&str]) -> bool {
        let kind = self.header.descr.trim_start_matches(['<', '>', '|', '=']);
        self.header.shape.len() == 1
            && kind.starts_with(['i', 'u'])
            && names.iter().any(|name| self.is_called(name))
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

/// The non-negative integers of a `.npy` of one axis.
pub(super) fn read_labels(reader: &mut impl Read) -> Result<Vec<usize>, String> {
    let header = Header::read(reader)?;
    let big_endian = header.descr.starts_with('>');
    let kind = header.descr.trim_start_matches(['<', '>', '|', '=']);
    let (signed, size) = match kind {
        "i1" | "i2" | "i4" | "i8" => (true, kind.as_bytes()[1] - b'0'),
        "u1" | "u2" | "u4" | "u8" => (false, kind.as_bytes()[1] - b'0'),
        _ => {
            return Err(format!(
                "has dtype {}; labels must be integers",
                header.descr
            ));
        }
    };
    let size = usize::from(size);
    if header.shape.len() != 1 {
        return Err(format!(
            "has shape {:?}; labels take one axis",
            header.shape
        ));
    }
    let count = header.elements().unwrap_or(usize::MAX);
    let mut labels = Vec::new();
    for index in 0..count {
        let mut word = [0; 8];
        reader.read_exact(&mut word[..size]).map_err(|_| {
            format!("is truncated: {count} labels are announced, {index} are there")
        })?;
        if big_endian {
            word[..size].reverse();
        }
        if signed && word[size - 1] >= 0x80 {
            return Err(format!("has a negative label at [{index}]"));
        }
        let label = u64::from_le_bytes(word);
        labels.push(usize::try_from(label).map_err(|_| format!("has label {label} at [{index}]"))?);
    }
    Ok(labels)
}
