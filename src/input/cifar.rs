//! CIFAR-10's binary format: records of a label byte and 3×32×32 pixel bytes, CHW.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::picture::{Picture, rgb};

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
