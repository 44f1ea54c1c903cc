//! The `.npy` header, and writing `.npy` files.
//!
//! The header is parsed here because it may be damaged: the product of a shape may overflow, and a header may
//! claim a length of 4 GiB.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::stored::{Dtype, Stored, c_order, fortran_order, numpy_dtype};
use crate::error::{Error, Result};
use crate::files::replace::Replacement;

/// The longest header that is read; NumPy itself refuses more than 10,000 bytes.
const MAX_HEADER: usize = 65_536;

/// The header of a `.npy` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// NumPy's type string: `<f4`, `|u1` and so on; `?` for a structured type.
    pub descr: String,
    pub fortran_order: bool,
    pub shape: Vec<usize>,
    /// Where the data starts.
    pub data_offset: u64,
}

impl Header {
    /// Reads a header, leaving `reader` at the data.
    ///
    /// # Errors
    /// What is wrong with the header; the caller's message names the array.
    pub(crate) fn read(reader: &mut impl Read) -> Result<Header, String> {
        let mut start = [0; 8];
        fill(reader, &mut start)?;
        if start[..6] != *b"\x93NUMPY" {
            return Err("is not a NumPy array (its first bytes are not those of .npy)".into());
        }
        let (width, version) = match start[6] {
            1 => (2, 1),
            version @ (2 | 3) => (4, version),
            version => {
                return Err(format!(
                    "has .npy format version {version}; 1 to 3 are known"
                ));
            }
        };
        let mut length = [0; 4];
        fill(reader, &mut length[..width])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER {
            return Err(format!(
                "has a .npy header of {length} bytes; it is damaged"
            ));
        }
        let mut text = vec![0; length];
        fill(reader, &mut text)?;
        let text = String::from_utf8(text)
            .map_err(|_| format!("has a .npy version {version} header that is not text"))?;
        let (descr, fortran_order, shape) = parse(&text)
            .ok_or_else(|| format!("has a .npy header that cannot be read: {}", text.trim()))?;
        Ok(Header {
            descr,
            fortran_order,
            shape,
            data_offset: (8 + width + length) as u64,
        })
    }

    /// How the array stores a number, and whether its most significant byte comes first; `None` for what is no
    /// number.
    pub(crate) fn dtype(&self) -> Option<(Dtype, bool)> {
        let kind = self.descr.trim_start_matches(['<', '>', '|', '=']);
        Some((numpy_dtype(kind)?, self.descr.starts_with('>')))
    }

    /// Bytes of the whole array.
    ///
    /// # Errors
    /// It has no numbers, or more than a file can hold.
    pub(crate) fn bytes(&self) -> Result<u64, String> {
        let Some((dtype, _)) = self.dtype() else {
            return Err(format!(
                "has dtype {}; arrays of uint8 or floats are read: convert it with numpy's astype",
                self.descr
            ));
        };
        let elements = self
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        elements
            .and_then(|n| n.checked_mul(dtype.bytes() as u64))
            .filter(|n| n.checked_add(self.data_offset).is_some())
            .ok_or_else(|| format!("has shape {:?}, more than a file can hold", self.shape))
    }

    /// The numbers of the array called `name`, of which `data` holds `there` bytes from `data_offset` on.
    ///
    /// # Errors
    /// They are not all there, or of another type.
    pub(crate) fn numbers(&self, name: &Path, data: File, there: u64) -> Result<Stored> {
        let refused = |message: String| Error::file(name, message);
        let needed = self.bytes().map_err(refused)?;
        let (dtype, big_endian) = self.dtype().expect("it has a size");
        if there < needed {
            return Err(refused(format!(
                "is truncated: shape {:?} takes {needed} bytes and there are {there}",
                self.shape
            )));
        }
        let strides = match self.fortran_order {
            true => fortran_order(&self.shape),
            false => c_order(&self.shape),
        };
        Ok(Stored {
            name: name.to_owned(),
            dtype,
            big_endian,
            shape: self.shape.clone(),
            strides,
            start: self.data_offset,
            data: Arc::new(Mutex::new(data)),
        })
    }
}

/// Like `read_exact`, with an error that says that the file ends early.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), String> {
    reader
        .read_exact(buffer)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "ends inside its .npy header".to_owned(),
            _ => error.to_string(),
        })
}

/// The three values of `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, in any order.
fn parse(text: &str) -> Option<(String, bool, Vec<usize>)> {
    let body = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let value = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let at = quoted
            .iter()
            .find_map(|q| body.find(q).map(|at| at + q.len()))?;
        body[at..]
            .trim_start()
            .strip_prefix(':')
            .map(str::trim_start)
    };
    let descr = value("descr")?;
    let descr = match descr.chars().next()? {
        quote @ ('\'' | '"') => descr[1..].split_once(quote)?.0.to_owned(),
        _ => "?".to_owned(),
    };
    let order = value("fortran_order")?;
    let fortran_order = order.starts_with("True");
    if !fortran_order && !order.starts_with("False") {
        return None;
    }
    let (shape, _) = value("shape")?.strip_prefix('(')?.split_once(')')?;
    let shape = shape
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.trim_end_matches('L').parse().ok())
        .collect::<Option<_>>()?;
    Some((descr, fortran_order, shape))
}

/// Writes a float32 `.npy` array, C order.
///
/// # Errors
/// The writer fails, or the number of `values` is not that of `shape`.
pub(crate) fn write_f32(
    mut out: impl Write,
    shape: &[usize],
    values: &[f32],
) -> std::io::Result<()> {
    if shape.iter().product::<usize>() != values.len() {
        let message = format!("{} numbers for an array of shape {shape:?}", values.len());
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            message,
        ));
    }
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    out.write_all(&header_f32(&shape))?;
    out.write_all(&le_bytes(values))
}

/// The header of a float32 array in C order, such that its data starts at a multiple of 64 bytes.
fn header_f32(shape: &str) -> Vec<u8> {
    let mut header = Vec::from(*b"\x93NUMPY\x01\x00\x00\x00");
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    header.extend(text.as_bytes());
    header.resize((header.len() + 1).next_multiple_of(64) - 1, b' ');
    header.push(b'\n');
    let length = (header.len() - 10) as u16;
    header[8..10].copy_from_slice(&length.to_le_bytes());
    header
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A float32 `.npy` file that is written row by row and whose number of rows is known only at the end, for the
/// logits of `classify`.
pub struct RowWriter {
    file: Replacement,
    columns: usize,
    rows: usize,
}

impl RowWriter {
    /// Bytes of the header that [`finish`](Self::finish) fills in.
    const HEADER: usize = 128;

    /// Starts `path` with rows of `columns` numbers; the file appears when it is finished.
    pub fn create(path: &std::path::Path, columns: usize) -> Result<RowWriter> {
        // The file is renamed to this path at the end, which would replace a device such as `/dev/null`.
        if path.exists() && !path.is_file() {
            return Err(Error::file(path, "is not a regular file; name another"));
        }
        let mut file = Replacement::create(path)?;
        file.write(&[0; Self::HEADER])?;
        Ok(RowWriter {
            file,
            columns,
            rows: 0,
        })
    }

    /// Appends one row.
    ///
    /// # Errors
    /// `row` does not have the length that was given at first, or the file cannot be written.
    pub fn push(&mut self, row: &[f32]) -> Result<()> {
        if row.len() != self.columns {
            return Err(Error::invalid(format!(
                "a row of {} numbers where {} are needed",
                row.len(),
                self.columns
            )));
        }
        self.rows += 1;
        self.file.write(&le_bytes(row))
    }

    /// Writes the header and gives the file its name.
    pub fn finish(mut self) -> Result<()> {
        let header = header_f32(&format!("{}, {}", self.rows, self.columns));
        debug_assert_eq!(header.len(), Self::HEADER);
        self.file.write_at_start(&header)?;
        self.file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut bytes = Vec::new();
        write_f32(&mut bytes, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let header = Header::read(&mut bytes.as_slice()).unwrap();
        assert_eq!(
            (header.descr.as_str(), header.fortran_order),
            ("<f4", false)
        );
        assert_eq!(header.shape, [2, 3]);
        assert_eq!(header.data_offset as usize + 24, bytes.len());
    }

    #[test]
    fn rows_become_an_array() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits.npy");
        let mut rows = RowWriter::create(&path, 3).unwrap();
        for i in 0..5 {
            rows.push(&[i as f32, 0.5, -1.0]).unwrap();
        }
        assert!(rows.push(&[1.0]).is_err());
        assert!(!path.exists());
        rows.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        // What NumPy writes for this array.
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 3), }";
        assert_eq!(bytes[..10], *b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(bytes[10..128], *format!("{text:117}\n").as_bytes());
        assert_eq!(bytes[128..].len(), 5 * 3 * 4);
        assert_eq!(bytes[128 + 12 * 4..], le_bytes(&[4.0, 0.5, -1.0]));
    }

    #[test]
    fn headers_are_read_whatever_their_order_and_quotes() {
        let text = "{\"shape\": (7,), 'fortran_order': True, 'descr': '|u1'}";
        assert_eq!(parse(text), Some(("|u1".into(), true, vec![7])));
        let structured = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}";
        assert_eq!(parse(structured), Some(("?".into(), false, vec![])));
        for wrong in [
            "",
            "{}",
            "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
        ] {
            assert_eq!(parse(wrong), None);
        }
    }
}
