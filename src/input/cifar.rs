//! CIFAR's two formats: the binary one of CIFAR-10, records of a label byte and 3×32×32 pixel bytes, CHW; and
//! Python's batches, pickles of a dict with such pixels as the array `data` and with lists of labels.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::arrays::{ArrayFile, Layout};
use super::pickle::{Array, Pickle, Value};
use super::stored::{Dtype, Stored, c_order, fortran_order};
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::picture::{MAX_BYTES, Picture, rgb};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
const RECORD: usize = 1 + PIXELS;

/// A file of CIFAR-10 records.
#[derive(Debug)]
pub(crate) struct CifarFile {
    path: PathBuf,
    file: Mutex<File>,
    labels: Vec<u8>,
}

impl CifarFile {
    /// Opens a file and reads its labels.
    ///
    /// # Errors
    /// Its size is not a whole number of records, or a label is not 0 to 9.
    pub(crate) fn open(path: &Path) -> Result<CifarFile> {
        let file = open_regular(path)?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        if length == 0 || !length.is_multiple_of(RECORD as u64) {
            return Err(Error::file(
                path,
                format!(
                    "has {length} bytes, no whole number of CIFAR-10 records of {RECORD} bytes (a \
                     .bin input is CIFAR-10's binary form)"
                ),
            ));
        }
        let mut reader = BufReader::with_capacity(64 * RECORD, file);
        let mut record = [0; RECORD];
        let mut labels = Vec::new();
        for row in 0..length / RECORD as u64 {
            reader.read_exact(&mut record).map_err(Error::io(path))?;
            if record[0] > 9 {
                return Err(Error::file(
                    path,
                    format!(
                        "has label {} at record {row}; CIFAR-10 has 0 to 9, so this is another format",
                        record[0]
                    ),
                ));
            }
            labels.push(record[0]);
        }
        Ok(CifarFile {
            path: path.to_owned(),
            file: Mutex::new(reader.into_inner()),
            labels,
        })
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The true label of a picture, 0 to 9.
    pub(crate) fn label(&self, row: usize) -> usize {
        usize::from(self.labels[row])
    }

    /// Reads a picture.
    pub(crate) fn load(&self, row: usize) -> Result<Picture> {
        let mut bytes = [0; PIXELS];
        {
            let mut file = self.file.lock().expect("no thread panics with the file");
            let start = (row * RECORD + 1) as u64;
            file.seek(SeekFrom::Start(start))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(Error::io(&self.path))?;
        }
        Ok(Picture {
            shape: rgb(SIDE, SIDE),
            pixels: bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect(),
            eight_bit: true,
        })
    }
}

/// Whether a file starts as pickles do, from Python 2.3 on; no picture's file does.
pub(crate) fn is_pickle(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = open_regular(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok());
    read && matches!(start, [0x80, 2..=5])
}

impl ArrayFile {
    /// Opens one of Python's batches of CIFAR-10 or CIFAR-100, with the labels `labels` or `fine_labels`; no picture
    /// is read yet.
    ///
    /// # Errors
    /// The file is another pickle, is damaged or cut short, or larger than 1 GiB.
    pub(crate) fn open_cifar_batch(path: &Path) -> Result<ArrayFile> {
        let refused = |message: String| Error::file(path, message);
        let file = open_regular(path)?;
        let mut bytes = Vec::new();
        let mut most = (&file).take(MAX_BYTES as u64 + 1);
        most.read_to_end(&mut bytes).map_err(Error::io(path))?;
        if bytes.len() > MAX_BYTES {
            return Err(refused("is a pickle of more than 1 GiB".into()));
        }
        let pickle = Pickle::parse(&bytes).map_err(|message| {
            refused(format!("its pickle {message}")).hint("save the pictures as .npz")
        })?;
        let Some(Value::Array(Some(data))) = pickle.entry("data") else {
            return Err(refused(
                "is a pickle without an array data: of pickles, CIFAR's batches are read".into(),
            )
            .hint("save the pictures as .npz"));
        };
        let file = Arc::new(Mutex::new(file));
        let mut numbers = numbers_of(path, "data", data, &file)?;
        if numbers.dtype != Dtype::U8 || !matches!(*numbers.shape, [_, PIXELS]) {
            let (dtype, shape) = (numbers.dtype, &numbers.shape);
            let message =
                format!("is {dtype:?} of shape {shape:?}; CIFAR's is U8 with {PIXELS} columns");
            return Err(Error::file(&numbers.name, message));
        }
        if data.fortran_order {
            numbers = numbers.in_rows()?;
        }
        let [row, one] = [numbers.strides[0], numbers.strides[1]];
        numbers.strides = vec![row, SIDE * SIDE * one, SIDE * one, one];
        numbers.shape = vec![numbers.shape[0], 3, SIDE, SIDE];
        let mut array = ArrayFile::new(numbers, Some(Layout::Nchw))?;
        let keys = ["labels", "fine_labels"];
        if let Some((key, labels)) = keys.iter().find_map(|key| Some((key, pickle.entry(key)?))) {
            let labels = match labels {
                Value::Array(Some(labels)) => numbers_of(path, key, labels, &file)?.labels()?,
                list => pickle
                    .integers(list)
                    .and_then(|list| {
                        let label = |label| u32::try_from(label).ok().map(|label| label as usize);
                        list.into_iter().map(label).collect()
                    })
                    .ok_or_else(|| refused(format!("its {key} are no integers from 0")))?,
            };
            if labels.len() != array.len() {
                let (labels, pictures) = (labels.len(), array.len());
                return Err(refused(format!(
                    "has {labels} labels for {pictures} pictures"
                )));
            }
            array.labels = Some(labels);
        }
        Ok(array)
    }
}

/// The numbers of an array in a pickle.
///
/// # Errors
/// They are fewer than its shape says.
fn numbers_of(path: &Path, key: &str, array: &Array, file: &Arc<Mutex<File>>) -> Result<Stored> {
    let shape = &array.shape;
    let bytes = shape
        .iter()
        .try_fold(array.dtype.bytes(), |n, &d| n.checked_mul(d));
    let name = PathBuf::from(format!("{}[{key}]", path.display()));
    if bytes != Some(array.length) {
        let message = format!("has shape {shape:?} and {} bytes", array.length);
        return Err(Error::file(name, message));
    }
    Ok(Stored {
        name,
        dtype: array.dtype,
        big_endian: array.big_endian,
        strides: match array.fortran_order {
            true => fortran_order(shape),
            false => c_order(shape),
        },
        shape: shape.clone(),
        start: array.start as u64,
        data: file.clone(),
    })
}
