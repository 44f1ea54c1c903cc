//! Numbers that lie in a file as they are, in the order of any strides; none is read before it is asked for.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::picture::MAX_BYTES;

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Dtype {
    /// Bytes of an element.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 => 8,
        }
    }

    /// What NumPy calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Dtype::Bool => "bool",
            Dtype::U8 => "uint8",
            Dtype::I8 => "int8",
            Dtype::U16 => "uint16",
            Dtype::I16 => "int16",
            Dtype::U32 => "uint32",
            Dtype::I32 => "int32",
            Dtype::U64 => "uint64",
            Dtype::I64 => "int64",
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
        }
    }

    /// Whether it is one of integers.
    pub(crate) fn is_integer(self) -> bool {
        !matches!(
            self,
            Dtype::Bool | Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64
        )
    }

    /// The number that an element's bytes are, the least significant first.
    fn number(self, bytes: &[u8]) -> f64 {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(word);
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => bits as f64,
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
}

/// The type that NumPy calls `name` without a byte order: `u1`, `f4` and the like; `None` for what is no number.
pub(crate) fn numpy_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "b1" => Dtype::Bool,
        "u1" => Dtype::U8,
        "i1" => Dtype::I8,
        "u2" => Dtype::U16,
        "i2" => Dtype::I16,
        "u4" => Dtype::U32,
        "i4" => Dtype::I32,
        "u8" => Dtype::U64,
        "i8" => Dtype::I64,
        "f2" => Dtype::F16,
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        _ => return None,
    })
}

/// An array in a file, whose every element is known to lie in the file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The file, with the array's name in it where it has several: for messages.
    pub name: PathBuf,
    pub dtype: Dtype,
    pub big_endian: bool,
    pub shape: Vec<usize>,
    /// Elements between neighbors along each axis.
    pub strides: Vec<usize>,
    /// Where its first element starts in the file.
    pub start: u64,
    pub data: Arc<Mutex<File>>,
}

/// The place of the last element of an array, counted in elements from the first; `None` where that overflows.
pub(crate) fn last(shape: &[usize], strides: &[usize]) -> Option<usize> {
    let axes = shape.iter().zip(strides);
    axes.into_iter().try_fold(0usize, |last, (&n, &stride)| {
        last.checked_add(n.saturating_sub(1).checked_mul(stride)?)
    })
}

/// The strides of an array whose last axis is the innermost one; saturating, as its length is checked elsewhere.
pub(crate) fn c_order(shape: &[usize]) -> Vec<usize> {
    let mut stride = 1usize;
    let mut strides: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&n| {
            let wider = stride.saturating_mul(n);
            std::mem::replace(&mut stride, wider)
        })
        .collect();
    strides.reverse();
    strides
}

/// The strides of an array whose first axis is the innermost one.
pub(crate) fn fortran_order(shape: &[usize]) -> Vec<usize> {
    let turned: Vec<usize> = shape.iter().rev().copied().collect();
    let mut strides = c_order(&turned);
    strides.reverse();
    strides
}

impl Stored {
    /// The elements at `index` of the first axis, each as `of` makes it, in the order of the other axes.
    ///
    /// Reads the file from the first of them to the last, at most 1 GiB.
    ///
    /// # Errors
    /// The file cannot be read, or the elements are too far apart.
    pub(crate) fn row<T>(&self, index: usize, of: impl Fn(f64) -> T) -> Result<Vec<T>> {
        let (shape, strides) = (&self.shape[1..], &self.strides[1..]);
        let elements: usize = shape.iter().product();
        if elements == 0 {
            return Ok(Vec::new());
        }
        let span = last(shape, strides).expect("the whole array's last place was computed") + 1;
        let size = self.dtype.bytes();
        let bytes = span.saturating_mul(size);
        if bytes.max(elements.saturating_mul(size_of::<T>())) > MAX_BYTES {
            let message = format!("has item {index} spread over {span} elements");
            return Err(Error::file(&self.name, message).hint("save a contiguous() copy of it"));
        }
        let mut bytes = vec![0; bytes];
        self.read((index * self.strides[0] * size) as u64, &mut bytes)?;
        if self.big_endian {
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        let mut values = Vec::with_capacity(elements);
        let mut at = vec![0; shape.len()];
        let mut place = 0;
        for _ in 0..elements {
            values.push(of(self.dtype.number(&bytes[place * size..][..size])));
            for ((i, &n), &stride) in at.iter_mut().zip(shape).zip(strides).rev() {
                *i += 1;
                place += stride;
                if *i < n {
                    break;
                }
                place -= n * stride;
                *i = 0;
            }
        }
        Ok(values)
    }

    /// Fills `bytes` from `offset` bytes behind the first element.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = self.data.lock().expect("no thread panics with the file");
        file.seek(SeekFrom::Start(self.start + offset))
            .and_then(|_| file.read_exact(bytes))
            .map_err(Error::io(&self.name))
    }

    /// The same array, of [`fortran_order`], with each row in one piece, in a nameless temporary file. Otherwise every
    /// row would be spread over the whole file.
    ///
    /// # Errors
    /// The file cannot be read, or the temporary one not written.
    pub(crate) fn in_rows(self) -> Result<Stored> {
        /// Bytes of the rows that are gathered at once.
        const ROOM: usize = 64 << 20;
        let size = self.dtype.bytes();
        let (rows, inner) = (self.shape[0], &self.shape[1..]);
        let elements: usize = inner.iter().product();
        let failed = || Error::io(std::env::temp_dir());
        let file = tempfile::tempfile().map_err(failed())?;
        let mut out = BufWriter::new(file.try_clone().map_err(failed())?);
        let together = (ROOM / (elements * size).max(1)).clamp(1, rows.max(1));
        let mut run = vec![0; together * size];
        let mut gathered = vec![0; together * elements * size];
        for first in (0..rows).step_by(together) {
            let some = together.min(rows - first);
            for element in 0..elements {
                let run = &mut run[..some * size];
                self.read(((element * rows + first) * size) as u64, run)?;
                for (row, bytes) in run.chunks_exact(size).enumerate() {
                    gathered[(row * elements + element) * size..][..size].copy_from_slice(bytes);
                }
            }
            out.write_all(&gathered[..some * elements * size])
                .map_err(failed())?;
        }
        out.flush().map_err(failed())?;
        drop(out);
        let mut strides = vec![elements];
        strides.extend(fortran_order(inner));
        Ok(Stored {
            strides,
            start: 0,
            data: Arc::new(Mutex::new(file)),
            ..self
        })
    }

    /// The true labels that the array says, one for each entry of its first axis: numbers that are integers from
    /// 0, alone or in a second axis of one, or rows of a single 1 among zeros.
    ///
    /// # Errors
    /// It has another shape, a number that is no label, or more than 1 GiB; or the file cannot be read.
    pub(crate) fn labels(&self) -> Result<Vec<usize>> {
        let refused = |message: String| Error::file(&self.name, message);
        let columns = match *self.shape.as_slice() {
            [_] | [_, 1] => 1,
            [_, columns] if columns > 1 => columns,
            _ => {
                return Err(refused(format!(
                    "has shape {:?}; labels are integers of one axis, or one-hot rows",
                    self.shape
                )));
            }
        };
        // All of them as one row of an array of one row.
        let whole = Stored {
            shape: [&[1][..], &self.shape].concat(),
            strides: [&[0][..], &self.strides].concat(),
            ..self.clone()
        };
        if columns > 1 {
            let kinds = whole.row(0, |x| match x {
                0.0 => 0u8,
                1.0 => 1,
                _ => 2,
            })?;
            let one_hot = |(index, row): (usize, &[u8])| {
                let one = row.iter().position(|kind| *kind == 1);
                let not_zero = row.iter().filter(|kind| **kind != 0).count();
                one.filter(|_| not_zero == 1).ok_or_else(|| {
                    refused(format!(
                        "has shape {:?} and no single 1 among zeros in row {index}; labels are integers of \
                         one axis, or one-hot rows",
                        self.shape
                    ))
                })
            };
            return kinds
                .chunks_exact(columns)
                .enumerate()
                .map(one_hot)
                .collect();
        }
        let label = |(index, value): (usize, f64)| match value {
            _ if value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value) => {
                Ok(value as usize)
            }
            _ => Err(refused(format!(
                "has label {value} at [{index}]; labels must be integers from 0"
            ))),
        };
        whole
            .row(0, |x| x)?
            .into_iter()
            .enumerate()
            .map(label)
            .collect()
    }
}
