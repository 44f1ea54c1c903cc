//! Tensors in the files of PyTorch's `torch.save`: a zip archive with `data.pkl`, which describes the tensors,
//! and one member for each storage, which holds their elements uncompressed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Pickle, Tensor, Value};
use super::stored::{Stored, last};
use crate::error::{Error, Result};
use crate::files::open_regular;

/// The longest member `byteorder` that is read, in bytes: it is `little` or `big`.
const MAX_BYTE_ORDER: u64 = 16;

/// A file of `torch.save`.
pub(crate) struct TorchFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    /// The folder that all members are in, with `/` at its end.
    folder: String,
    pickle: Pickle,
    /// Storages in use: name, start in the file, bytes.
    storages: Vec<(String, u64, u64)>,
    data: Arc<Mutex<File>>,
}

impl TorchFile {
    /// Opens a file, without reading tensors or running code.
    ///
    /// # Errors
    /// The file is not of the format that `torch.save` writes since PyTorch 1.6, is damaged, is from a big-endian
    /// machine, or holds more than dicts, lists, tuples, numbers, text and tensors.
    pub(crate) fn open(path: &Path) -> Result<TorchFile> {
        let named = |message: String| Error::file(path, message);
        let mut file = open_regular(path)?;
        let mut start = Vec::new();
        (&mut file)
            .take(4)
            .read_to_end(&mut start)
            .map_err(Error::io(path))?;
        match start.as_slice() {
            b"PK\x03\x04" => {}
            // A pickle of a long integer: the magic number of older files.
            [0x80, 2, 0x8a, _] => {
                return Err(named(
                    "is of torch.save's form before PyTorch 1.6; load it and save it again".into(),
                ));
            }
            _ => return Err(named("is no file that torch.save writes".into())),
        }
        let data = file.try_clone().map_err(Error::io(path))?;
        let damaged =
            |error: ZipError| named(format!("is cut short or damaged, as an archive: {error}"));
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;

        let names: Vec<_> = archive
            .file_names()
            .collect::<Result<_, _>>()
            .map_err(damaged)?;
        let pickles: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .filter(|folder| folder.ends_with('/') && folder.find('/') == Some(folder.len() - 1))
            .collect();
        let [folder] = pickles.as_slice() else {
            return Err(named(format!(
                "is no file that torch.save writes: it has {} members FOLDER/data.pkl, not 1",
                pickles.len()
            )));
        };
        let folder = folder.to_string();

        let mut member = |name: &str, longest: u64| -> Result<Option<Vec<u8>>> {
            let full = format!("{folder}{name}");
            let entry = match archive.by_name(&full) {
                Ok(entry) => entry,
                Err(ZipError::FileNotFound) => return Ok(None),
                Err(error) => return Err(damaged(error)),
            };
            let mut bytes = Vec::new();
            entry
                .take(longest + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| named(format!("is damaged: its {full}: {error}")))?;
            match bytes.len() as u64 > longest {
                true => Err(named(format!("has a {full} of more than {longest} bytes"))),
                false => Ok(Some(bytes)),
            }
        };
        // Files from before PyTorch 2.1 have no `byteorder`; they are little-endian in practice.
        let order = member("byteorder", MAX_BYTE_ORDER)?.unwrap_or_else(|| b"little".into());
        if order.trim_ascii() != b"little" {
            return Err(named(format!(
                "has byte order {:?}, and only little is read; load it and save it again on a \
                 little-endian machine",
                String::from_utf8_lossy(&order)
            )));
        }
        let bytes = member("data.pkl", pickle::MAX_BYTES)?.unwrap_or_default();
        let pickle =
            Pickle::parse(&bytes).map_err(|message| named(format!("its pickle {message}")))?;
        Ok(TorchFile {
            path: path.to_owned(),
            archive,
            folder,
            pickle,
            storages: Vec::new(),
            data: Arc::new(Mutex::new(data)),
        })
    }

    /// The tensor of the first of `keys` that the file's dict has; `None` if it has none of them.
    ///
    /// # Errors
    /// The value is no tensor, or its elements are not all in the file.
    pub(crate) fn tensor(&mut self, keys: &[&str]) -> Result<Option<Stored>> {
        let found = keys
            .iter()
            .find_map(|&key| Some((key, self.pickle.entry(key)?.clone())));
        let Some((key, value)) = found else {
            return Ok(None);
        };
        let name = PathBuf::from(format!("{}[{key}]", self.path.display()));
        self.stored(name, &value).map(Some)
    }

    /// The tensor that is all that was saved; `None` where something else was.
    ///
    /// # Errors
    /// Its elements are not all in the file.
    pub(crate) fn alone(&mut self) -> Result<Option<Stored>> {
        match self.pickle.root().clone() {
            tensor @ Value::Tensor(_) => self.stored(self.path.clone(), &tensor).map(Some),
            _ => Ok(None),
        }
    }

    fn stored(&mut self, name: PathBuf, value: &Value) -> Result<Stored> {
        let Value::Tensor(tensor) = value else {
            return Err(Error::file(name, "is no tensor"));
        };
        let start = self
            .place(tensor)
            .map_err(|message| Error::file(&name, message))?;
        Ok(Stored {
            name,
            dtype: tensor.dtype,
            big_endian: false,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            // An offset of a tensor without elements may be anything.
            start: start
                .saturating_add((tensor.offset as u64).saturating_mul(tensor.dtype.bytes() as u64)),
            data: self.data.clone(),
        })
    }

    /// Where a tensor's storage starts in the file.
    ///
    /// # Errors
    /// The tensor reaches beyond its storage, or the storage is missing, compressed or cut short.
    fn place(&mut self, tensor: &Tensor) -> Result<u64, String> {
        check_extent(tensor)?;
        let bytes = (tensor.storage_elements as u64)
            .checked_mul(tensor.dtype.bytes() as u64)
            .ok_or("has more elements than a file can hold")?;
        let name = format!("{}data/{}", self.folder, tensor.storage);
        let (start, stored) = {
            let entry = self
                .archive
                .by_name(&name)
                .map_err(|error| format!("has its elements in {name}: {error}"))?;
            if entry.compression() != CompressionMethod::Stored {
                return Err(format!("has its elements in {name}, which is compressed"));
            }
            let start = entry.data_start().expect("opening the entry found it");
            (start, entry.compressed_size())
        };
        let length = {
            let file = self.data.lock().expect("no thread panics with the file");
            file.metadata().map_err(|error| error.to_string())?.len()
        };
        if stored < bytes || start.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(format!(
                "is truncated: its {} elements take {bytes} bytes and {name} has {stored}",
                tensor.storage_elements
            ));
        }
        for (other, at, size) in &self.storages {
            if *other != name && start < at + size && *at < start + bytes {
                return Err(format!(
                    "has its elements in {name}, which overlaps {other}: the file is damaged"
                ));
            }
        }
        self.storages.push((name, start, bytes));
        Ok(start)
    }
}

/// Refuses a tensor that reaches beyond its storage, or that uses an element more than once.
fn check_extent(tensor: &Tensor) -> Result<(), String> {
    let shape = &tensor.shape;
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if elements.is_none_or(|n| n > tensor.storage_elements) {
        return Err(format!(
            "has shape {shape:?} in a storage of {} elements; save its .contiguous()",
            tensor.storage_elements
        ));
    }
    let last = last(shape, &tensor.strides).and_then(|last| last.checked_add(tensor.offset));
    match last.is_some_and(|last| elements == Some(0) || last < tensor.storage_elements) {
        true => Ok(()),
        false => Err(format!(
            "has shape {shape:?} with strides {:?}, which reach beyond its storage of {} elements",
            tensor.strides, tensor.storage_elements
        )),
    }
}
