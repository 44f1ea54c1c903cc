//! WebDataset's `.tar` files: members with the same key are one sample, such as `key.png` beside `key.cls` or
//! `key.json`. Those that are compressed with gzip are unpacked first.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};
use tar::{Archive, Entry, EntryType};

use super::classes::Classes;
use super::folder::is_picture;
use super::manifest::{Names, label_of};
use crate::error::{Error, Result};
use crate::files::{open_regular, text};
use crate::picture::{MAX_BYTES, Picture};

/// What headers and members are padded to.
const BLOCK: u64 = 512;
/// The longest `.cls` that is read: a number.
const MAX_CLS: u64 = 64;
/// The longest `.json` and the longest extended header that is read, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// How much longer than its file an archive may become when it is unpacked: pictures are compressed already.
const MAX_GROWTH: u64 = 32;
/// What an archive may become even if it grows more, in bytes.
const ROOM: u64 = 1 << 30;

/// The pictures of a `.tar` file, in its order; nothing is decoded.
///
/// Members are read from the `.tar` file, or its unpacked copy, and never made files of their own: their names are
/// ids, not paths.
#[derive(Debug)]
pub(crate) struct TarFile {
    path: PathBuf,
    file: Mutex<File>,
    pictures: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// Its name in the archive, numbered if another picture has the same.
    id: Box<str>,
    offset: u64,
    size: u64,
    label: Option<u32>,
    /// The other fields of `key.json`, as JSON.
    more: Option<Box<str>>,
    /// Why it cannot be used.
    broken: Option<Box<str>>,
}

/// The contents of a key's `.cls` and `.json`.
#[derive(Default)]
struct Said {
    label: Option<u32>,
    more: Map<String, Value>,
    /// How often there was a `.cls` and a `.json`.
    times: [u32; 2],
    /// Why one of them cannot be used.
    broken: Option<String>,
}

impl TarFile {
    /// Lists the pictures of a `.tar` file. A key is a member's name up to the first dot of its last
    /// part; `key.cls` has the true label, or `key.json` with `label`, whose other fields are kept; or else
    /// the class folder that a picture lies in.
    ///
    /// Where the archive is cut short, its last member is a picture that cannot be loaded; so are the pictures
    /// of a key that comes twice with labels, or whose label is no label. What gzip compressed, whatever its name, is unpacked to a temporary
    /// file first.
    ///
    /// # Errors
    /// It is damaged, has no whole pictures, or unpacks to more than an archive of pictures would.
    pub(crate) fn open(path: &Path, classes: Option<&Classes>) -> Result<TarFile> {
        let (file, packed_is_cut) = unpacked(path, open_regular(path)?)?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let damaged =
            |error: std::io::Error| Error::file(path, format!("is a damaged tar archive: {error}"));
        let headers = check_headers(&file, length);
        let cut_short = headers.map_err(|message| Error::file(path, message))? || packed_is_cut;
        let mut archive = Archive::new(rewound(&file).map_err(Error::io(path))?);
        let mut names = Names::default();
        let mut pictures = Vec::new();
        let mut said: HashMap<String, Said> = HashMap::new();
        // The keys of pictures that were numbered, by the pictures' places.
        let mut repeated: HashMap<usize, String> = HashMap::new();
        let mut last = None;
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let mut entry = match entry {
                Err(_) if cut_short => break,
                entry => entry.map_err(damaged)?,
            };
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > length) {
                last = Some(String::from_utf8_lossy(&entry.path_bytes()).into_owned());
                break;
            }
            let kind = entry.header().entry_type();
            if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some((key, extension)) = split(&name) else {
                continue;
            };
            match extension.to_ascii_lowercase().as_str() {
                "cls" => {
                    let label = read_text(&mut entry, MAX_CLS).and_then(|text| {
                        text.trim().parse().map_err(|_| {
                            let text = text.trim().escape_debug();
                            format!("has label {text}; labels are integers from 0")
                        })
                    });
                    let said = said.entry(key.to_owned()).or_default();
                    said.times[0] += 1;
                    match label {
                        Ok(label) => said.label = Some(label),
                        Err(why) => said.broken = Some(format!("its {name}: {why}")),
                    }
                }
                "json" => {
                    let fields = read_text(&mut entry, MAX_TEXT).and_then(|text| {
                        let mut fields: Map<String, Value> = serde_json::from_str(&text)
                            .map_err(|error| format!("is no JSON object: {error}"))?;
                        let label = fields.shift_remove("label").unwrap_or_default();
                        Ok((label_of(&label)?, fields))
                    });
                    let said = said.entry(key.to_owned()).or_default();
                    said.times[1] += 1;
                    match fields {
                        Ok((label, fields)) => {
                            // The label of `.cls` is preferred.
                            said.label = said.label.or(label);
                            said.more = fields;
                        }
                        Err(why) => said.broken = Some(format!("its {name}: {why}")),
                    }
                }
                _ if is_picture(Path::new(&name)) => {
                    let again = names.again(&name);
                    if again.is_some() {
                        repeated.insert(pictures.len(), key.to_owned());
                    }
                    pictures.push(Member {
                        id: again.unwrap_or(name).into(),
                        offset,
                        size,
                        label: None,
                        more: None,
                        broken: None,
                    });
                }
                _ => {}
            }
        }
        if pictures.is_empty() {
            let message = match cut_short {
                true => "is a truncated tar archive",
                false => "holds no pictures",
            };
            return Err(Error::file(path, message));
        }
        let twice: HashSet<&str> = repeated.values().map(String::as_str).collect();
        let folder = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        for (place, picture) in pictures.iter_mut().enumerate() {
            let key = match repeated.get(&place) {
                Some(key) => Some(key.as_str()),
                None => split(&picture.id).map(|(key, _)| key),
            };
            if let Some(key) = key
                && let Some(Said {
                    label,
                    more,
                    times,
                    broken,
                }) = said.get(key)
            {
                picture.label = *label;
                picture.more =
                    (!more.is_empty()).then(|| Value::from(more.clone()).to_string().into());
                let twice = twice.contains(key) || times.iter().any(|&times| times > 1);
                picture.broken = match broken {
                    Some(why) => Some(why.escape_debug().to_string().into()),
                    None => twice.then(|| {
                        let key = key.escape_debug();
                        let why = "comes twice in the archive, so that its label is not certain";
                        format!("its key {key} {why}").into()
                    }),
                };
            }
            if let (None, Some(classes)) = (picture.label, classes) {
                let label = classes.label_of(&folder.with_file_name(&*picture.id));
                picture.label = label.and_then(|label| u32::try_from(label).ok());
            }
        }
        if cut_short {
            let last = last.unwrap_or_else(|| "end".into());
            pictures.push(Member {
                id: names.again(&last).unwrap_or(last).into(),
                offset: 0,
                size: 0,
                label: None,
                more: None,
                broken: Some("the tar archive is cut short here".into()),
            });
        }
        Ok(TarFile {
            path: path.to_owned(),
            file: Mutex::new(file),
            pictures,
        })
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.pictures.len()
    }

    /// A picture's name in the archive.
    pub(crate) fn id(&self, row: usize) -> &str {
        &self.pictures[row].id
    }

    /// A picture's true label.
    pub(crate) fn label(&self, row: usize) -> Option<usize> {
        self.pictures[row].label.map(|label| label as usize)
    }

    /// The fields of `key.json` other than `label`.
    pub(crate) fn more(&self, row: usize) -> Map<String, Value> {
        let more = self.pictures[row].more.as_deref();
        more.and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default()
    }

    /// Reads and decodes a picture.
    ///
    /// # Errors
    /// It is damaged or too large.
    pub(crate) fn load(&self, row: usize) -> Result<Picture> {
        let Member {
            id,
            offset,
            size,
            broken,
            ..
        } = &self.pictures[row];
        let name = || PathBuf::from(format!("{}/{id}", self.path.display()));
        if let Some(broken) = broken {
            return Err(Error::file(name(), &**broken));
        }
        if *size > MAX_BYTES as u64 {
            return Err(Error::file(
                name(),
                "is larger than 1 GiB, too large for a picture",
            ));
        }
        let mut bytes = Vec::new();
        {
            let mut file = self.file.lock().expect("no thread panics with the file");
            file.seek(SeekFrom::Start(*offset))
                .and_then(|_| (&*file).take(*size).read_to_end(&mut bytes))
                .map_err(Error::io(&self.path))?;
        }
        Picture::decode(&bytes).map_err(|message| Error::file(name(), message))
    }
}

/// Refuses an archive whose extended headers, which are read into memory, are no names. Says whether it is cut
/// short: a member or its padding is not whole, or the block of zeros at the end is missing.
fn check_headers(file: &File, length: u64) -> Result<bool, String> {
    let damaged = |error: std::io::Error| format!("is a damaged tar archive: {error}");
    let mut archive = Archive::new(rewound(file).map_err(damaged)?);
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(damaged)?.raw(true) {
        let entry = match entry {
            Err(_) if length < end + BLOCK => return Ok(true),
            entry => entry.map_err(damaged)?,
        };
        let extended = matches!(
            entry.header().entry_type(),
            EntryType::GNULongName
                | EntryType::GNULongLink
                | EntryType::XHeader
                | EntryType::XGlobalHeader
        );
        if extended && entry.size() > MAX_TEXT {
            return Err("is a damaged tar archive: it has a name longer than 1 MiB".into());
        }
        let data_end = entry.raw_file_position().checked_add(entry.size());
        let Some(data_end) = data_end.filter(|data_end| *data_end <= length) else {
            return Ok(true);
        };
        end = data_end.next_multiple_of(BLOCK);
    }
    Ok(length < end + BLOCK)
}

/// The file itself, or what gzip compressed in it as a temporary file; and whether that was cut short.
fn unpacked(path: &Path, file: File) -> Result<(File, bool)> {
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut start = Vec::new();
    let mut reader = rewound(&file).map_err(Error::io(path))?.take(2);
    reader.read_to_end(&mut start).map_err(Error::io(path))?;
    if start != [0x1f, 0x8b] {
        return Ok((file, false));
    }
    let most = ROOM.max(length.saturating_mul(MAX_GROWTH));
    let packed = BufReader::new(rewound(&file).map_err(Error::io(path))?);
    let mut content = MultiGzDecoder::new(packed).take(most + 1);
    let failed = || Error::io(std::env::temp_dir());
    let mut whole = tempfile::tempfile().map_err(failed())?;
    let mut chunk = vec![0; 1 << 16];
    loop {
        match content.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => whole.write_all(&chunk[..read]).map_err(failed())?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok((whole, true)),
            Err(error) => {
                let message = format!("is a damaged gzip archive: {error}");
                return Err(Error::file(path, message));
            }
        }
    }
    match content.limit() {
        0 => Err(Error::file(
            path,
            format!("unpacks to more than {most} bytes, which no archive of pictures does"),
        )
        .hint("unpack it with gunzip if it is one")),
        _ => Ok((whole, false)),
    }
}

/// The file, from its start.
fn rewound(mut file: &File) -> std::io::Result<&File> {
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// A member's key and what follows it; `None` for hidden files.
fn split(name: &str) -> Option<(&str, &str)> {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[last..].find('.') {
        Some(dot) if dot > 0 => Some((&name[..last + dot], &name[last + dot + 1..])),
        _ => None,
    }
}

/// A member's text.
fn read_text(entry: &mut Entry<'_, &File>, most: u64) -> Result<String, String> {
    text::read(entry, most).map_err(|error| format!("cannot be read: {error}"))
}
