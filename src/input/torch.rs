//! Tensors in the files of PyTorch's `torch.save`: a zip archive with `data.pkl`, which describes the tensors,
//! and one member for each storage, which holds their elements uncompressed.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use half::{bf16, f16};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Dtype, Pickle, Tensor, Value};
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::picture::MAX_BYTES;

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

/// A tensor of a [`TorchFile`]; all its elements are known to be in the file.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    /// The file's name with the tensor's name, for messages.
    pub name: PathBuf,
    pub tensor: Tensor,
    /// Where its storage starts in the file.
    start: u64,
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
    /// The value is no tensor, or some of its elements are not in the file.
    pub(crate) fn tensor(&mut self, keys: &[&str]) -> Result<Option<StoredTensor>> {
        let found = keys
            .iter()
            .find_map(|&key| Some((key, self.pickle.entry(key)?)));
        let Some((key, value)) = found else {
            return Ok(None);
        };
        let name = PathBuf::from(format!("{}[{key}]", self.path.display()));
        let Value::Tensor(tensor) = value else {
            return Err(Error::file(name, "is no tensor"));
        };
        let tensor = tensor.clone();
        let start = self
            .place(&tensor)
            .map_err(|message| Error::file(&name, message))?;
        Ok(Some(StoredTensor {
            name,
            tensor,
            start,
            data: self.data.clone(),
        }))
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
    match last(tensor).is_some_and(|last| elements == Some(0) || last < tensor.storage_elements) {
        true => Ok(()),
        false => Err(format!(
            "has shape {shape:?} with strides {:?}, which reach beyond its storage of {} elements",
            tensor.strides, tensor.storage_elements
        )),
    }
}

/// Index in the storage of a tensor's last element; `None` if it overflows.
fn last(tensor: &Tensor) -> Option<usize> {
    let axes = tensor.shape.iter().zip(&tensor.strides);
    axes.into_iter()
        .try_fold(tensor.offset, |last, (&n, &stride)| {
            last.checked_add(n.saturating_sub(1).checked_mul(stride)?)
        })
}

impl StoredTensor {
    /// The elements at `index` of the first axis, as float64, in the order of the other axes.
    ///
    /// Reads the file from the first of them to the last, at most 1 GiB.
    ///
    /// # Errors
    /// The file cannot be read, or the elements are too far apart.
    pub(crate) fn row(&self, index: usize) -> Result<Vec<f64>> {
        let Tensor { shape, strides, .. } = &self.tensor;
        let row = Tensor {
            offset: 0,
            shape: shape[1..].to_vec(),
            strides: strides[1..].to_vec(),
            ..self.tensor.clone()
        };
        let elements = row.shape.iter().product();
        if elements == 0 {
            return Ok(Vec::new());
        }
        let span = last(&row).expect("the whole tensor's last place was computed") + 1;
        let size = self.tensor.dtype.bytes();
        if span.saturating_mul(size).max(elements * size_of::<f64>()) > MAX_BYTES {
            return Err(Error::file(
                &self.name,
                format!("has item {index} spread over {span} elements; save its .contiguous()"),
            ));
        }
        let mut bytes = vec![0; span * size];
        let first = self.tensor.offset + index * strides[0];
        {
            let mut file = self.data.lock().expect("no thread panics with the file");
            file.seek(SeekFrom::Start(self.start + (first * size) as u64))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(Error::io(&self.name))?;
        }
        let mut values = Vec::with_capacity(elements);
        let mut at = vec![0; row.shape.len()];
        for _ in 0..elements {
            let place: usize = at
                .iter()
                .zip(&row.strides)
                .map(|(i, stride)| i * stride)
                .sum();
            values.push(number(self.tensor.dtype, &bytes[place * size..][..size]));
            for (i, &n) in at.iter_mut().zip(&row.shape).rev() {
                *i += 1;
                if *i < n {
                    break;
                }
                *i = 0;
            }
        }
        Ok(values)
    }

    /// All elements of a tensor of one axis, which must be integers from 0.
    ///
    /// # Errors
    /// The tensor has another shape or type, or a negative element; the errors of [`row`](Self::row).
    pub(crate) fn labels(&self) -> Result<Vec<usize>> {
        let refused = |message: String| Error::file(&self.name, message);
        let Tensor { dtype, shape, .. } = &self.tensor;
        let integers = [Dtype::U8, Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64];
        let ([count], true) = (shape.as_slice(), integers.contains(dtype)) else {
            return Err(refused(format!(
                "is {dtype:?} of shape {shape:?}; labels are integers of one axis"
            )));
        };
        let mut labels = Vec::new();
        // The tensor is read as the only row of a matrix.
        let whole = StoredTensor {
            name: self.name.clone(),
            tensor: Tensor {
                shape: vec![1, *count],
                strides: vec![0, self.tensor.strides[0]],
                ..self.tensor.clone()
            },
            start: self.start,
            data: self.data.clone(),
        };
        for (i, value) in whole.row(0)?.into_iter().enumerate() {
            if !(0.0..=f64::from(u32::MAX)).contains(&value) {
                return Err(refused(format!(
                    "has label {value} at [{i}]; labels are integers from 0"
                )));
            }
            labels.push(value as usize);
        }
        Ok(labels)
    }
}

/// The number that an element's bytes are.
fn number(dtype: Dtype, bytes: &[u8]) -> f64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(word);
    match dtype {
        Dtype::Bool | Dtype::U8 => bits as f64,
        Dtype::I8 => f64::from(bits as i8),
        Dtype::I16 => f64::from(bits as i16),
        Dtype::I32 => f64::from(bits as i32),
        Dtype::I64 => bits as i64 as f64,
        Dtype::F16 => f16::from_bits(bits as u16).to_f64(),
        Dtype::Bf16 => bf16::from_bits(bits as u16).to_f64(),
        Dtype::F32 => f64::from(f32::from_bits(bits as u32)),
        Dtype::F64 => f64::from_bits(bits),
    }
}
