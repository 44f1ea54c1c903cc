//! Pictures in `.npy` arrays, and in those of `.npz` archives once they are unpacked, read row by row.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::npy::Header;
use crate::error::{Error, Message, Result};
use crate::files::open_regular;
use crate::picture::{Picture, check_size, rgb};

/// The order of an array's axes: N pictures, C channels, H rows, W columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Layout {
    /// Several pictures, channels first.
    Nchw,
    /// Several pictures, channels last.
    Nhwc,
    /// One picture, channels first.
    Chw,
    /// One picture, channels last.
    Hwc,
}

impl Layout {
    /// The layout that follows from an array's shape: of the two axes that can be the channels, exactly one has 1
    /// or 3 entries.
    ///
    /// # Errors
    /// Both have 1 or 3 entries, or the shape is not that of pictures.
    pub(super) fn infer(shape: &[usize]) -> Result<Layout, Message> {
        let channels = |n: usize| n == 1 || n == 3;
        let (first, last, [channels_first, channels_last]) = match *shape {
            [_, a, _, b] => (a, b, [Layout::Nchw, Layout::Nhwc]),
            [a, _, b] => (a, b, [Layout::Chw, Layout::Hwc]),
            _ => {
                return Err(format!(
                    "has shape {shape:?}; pictures take 4 axes, or 3 for a single one, with 1 or 3 \
                     channels"
                )
                .into());
            }
        };
        match (channels(first), channels(last)) {
            (true, false) => Ok(channels_first),
            (false, true) => Ok(channels_last),
            (true, true) => {
                let open =
                    format!("has shape {shape:?}, which fits channels first and channels last");
                Err(Message::from(open).hint(format!(
                    "say which with `layout={}` or `layout={}`",
                    channels_first.name(),
                    channels_last.name()
                )))
            }
            (false, false) => {
                Err(format!("has shape {shape:?}, in which no axis is 1 or 3 channels").into())
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
            Layout::Chw => "chw",
            Layout::Hwc => "hwc",
        }
    }

    /// Pictures, channels, height and width of an array of `shape`.
    pub(super) fn dimensions(self, shape: &[usize]) -> Result<[usize; 4], String> {
        let dimensions = match (self, shape) {
            (Layout::Nchw, &[n, c, h, w]) | (Layout::Nhwc, &[n, h, w, c]) => [n, c, h, w],
            (Layout::Chw, &[c, h, w]) | (Layout::Hwc, &[h, w, c]) => [1, c, h, w],
            _ => {
                return Err(format!(
                    "has shape {shape:?}, which is not the layout {}",
                    self.name()
                ));
            }
        };
        if dimensions[1] != 1 && dimensions[1] != 3 {
            return Err(format!(
                "has shape {shape:?}: as {} that is {} channels, and 1 or 3 are needed",
                self.name(),
                dimensions[1]
            ));
        }
        Ok(dimensions)
    }

    /// Whether a pixel's channels are neighbors in memory.
    pub(super) fn interleaved(self) -> bool {
        matches!(self, Layout::Nhwc | Layout::Hwc)
    }
}

/// How an array stores a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sample {
    U8,
    F32 { big_endian: bool },
}

impl Sample {
    fn of(descr: &str) -> Result<Sample, String> {
        match descr {
            "|u1" | "u1" | "<u1" | ">u1" => Ok(Sample::U8),
            "<f4" => Ok(Sample::F32 { big_endian: false }),
            ">f4" => Ok(Sample::F32 { big_endian: true }),
            other => Err(format!(
                "has dtype {other}; pictures must be uint8, or float32 from 0 to 1: convert it with \
                 numpy's astype"
            )),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Sample::U8 => 1,
            Sample::F32 { .. } => 4,
        }
    }
}

/// An array of pictures on disk.
#[derive(Debug)]
pub(crate) struct ArrayFile {
    /// The file's name for messages, with the array's name for `.npz`.
    name: PathBuf,
    /// The file that holds the uncompressed numbers; a temporary file without a name for `.npz`.
    pub(super) data: Mutex<File>,
    offset: u64,
    sample: Sample,
    layout: Layout,
    shape: Vec<usize>,
    /// Number of pictures, channels, height, width.
    dimensions: [usize; 4],
    /// The pictures' true labels, if the file has them.
    pub(super) labels: Option<Vec<usize>>,
}

impl ArrayFile {
    /// Opens a `.npy` array; no picture is read yet.
    ///
    /// # Errors
    /// The file is no array of float32 or uint8 pictures, is cut short, or does not determine its layout.
    pub(crate) fn open_npy(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        let file = open_regular(path)?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut reader = BufReader::new(file);
        let named = |message: String| Error::file(path, message);
        let header = Header::read(&mut reader).map_err(named)?;
        let array = Self::new(path.to_owned(), reader.into_inner(), &header, layout)
            .map_err(|message| Error::file(path, message))?;
        array
            .check_length(length - header.data_offset.min(length))
            .map_err(named)?;
        Ok(array)
    }

    pub(super) fn new(
        name: PathBuf,
        data: File,
        header: &Header,
        layout: Option<Layout>,
    ) -> Result<ArrayFile, Message> {
        let sample = Sample::of(&header.descr)?;
        if header.fortran_order && header.shape.len() > 1 {
            return Err("is in Fortran order; save numpy.ascontiguousarray of it".into());
        }
        let layout = match layout {
            Some(layout) => layout,
            None => Layout::infer(&header.shape)?,
        };
        let dimensions @ [pictures, _, height, width] = layout.dimensions(&header.shape)?;
        if pictures == 0 {
            return Err(format!("has shape {:?}: no pictures", header.shape).into());
        }
        check_size(width, height)?;
        let array = ArrayFile {
            name,
            data: Mutex::new(data),
            offset: header.data_offset,
            sample,
            layout,
            shape: header.shape.clone(),
            dimensions,
            labels: None,
        };
        array.bytes()?;
        Ok(array)
    }

    /// Bytes of the whole array.
    pub(super) fn bytes(&self) -> Result<u64, String> {
        let elements = self
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        elements
            .and_then(|n| n.checked_mul(self.sample.bytes() as u64))
            .and_then(|n| n.checked_add(self.offset).map(|_| n))
            .ok_or_else(|| format!("has shape {:?}, more than a file can hold", self.shape))
    }

    pub(super) fn check_length(&self, there: u64) -> Result<(), String> {
        let needed = self.bytes()?;
        if there < needed {
            return Err(format!(
                "is truncated: shape {:?} takes {needed} bytes and there are {there}",
                self.shape
            ));
        }
        Ok(())
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.dimensions[0]
    }

    /// The true label of a picture.
    pub(crate) fn label(&self, row: usize) -> Option<usize> {
        self.labels.as_ref().map(|labels| labels[row])
    }

    /// Reads a picture.
    ///
    /// # Errors
    /// The file cannot be read, or a float is not a number from 0 to 1; the message gives the float's index in
    /// the array.
    pub(crate) fn load(&self, row: usize) -> Result<Picture> {
        self.load_near(row, 0.0)
    }

    /// Reads a picture like [`load`](Self::load), but accepts and clips floats up to `slack` outside `[0, 1]`.
    pub(crate) fn load_near(&self, row: usize, slack: f32) -> Result<Picture> {
        let [_, channels, height, width] = self.dimensions;
        let plane = height * width;
        let elements = channels * plane;
        let mut bytes = vec![0; elements * self.sample.bytes()];
        {
            let mut file = self.data.lock().expect("no thread panics with the file");
            let start = self.offset + row as u64 * bytes.len() as u64;
            file.seek(SeekFrom::Start(start))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(Error::io(&self.name))?;
        }
        let value = |i: usize| match self.sample {
            Sample::U8 => f32::from(bytes[i]) / 255.0,
            Sample::F32 { big_endian } => {
                let word = [
                    bytes[4 * i],
                    bytes[4 * i + 1],
                    bytes[4 * i + 2],
                    bytes[4 * i + 3],
                ];
                if big_endian {
                    f32::from_be_bytes(word)
                } else {
                    f32::from_le_bytes(word)
                }
            }
        };
        if let Some(bad) = (0..elements).find(|&i| !(-slack..=1.0 + slack).contains(&value(i))) {
            return Err(Error::file(
                &self.name,
                self.describe_bad(row, bad, value(bad)),
            ));
        }
        let value = |i: usize| value(i).clamp(0.0, 1.0);
        let mut pixels = Vec::with_capacity(3 * plane);
        for channel in 0..3 {
            let channel = channel.min(channels - 1);
            if self.layout.interleaved() {
                pixels.extend((0..plane).map(|i| value(i * channels + channel)));
            } else {
                pixels.extend((0..plane).map(|i| value(channel * plane + i)));
            }
        }
        Ok(Picture {
            shape: rgb(height, width),
            pixels,
            eight_bit: self.sample == Sample::U8,
        })
    }

    /// The message about a value that is not valid in a picture, with its index as NumPy writes it.
    fn describe_bad(&self, row: usize, element: usize, value: f32) -> String {
        let mut index = vec![0; self.shape.len()];
        let mut rest = element;
        for (i, &size) in index.iter_mut().zip(&self.shape).rev() {
            *i = rest % size;
            rest /= size;
        }
        if self.shape.len() == 4 {
            index[0] = row;
        }
        let hint = if value > 1.0 && value <= 255.0 {
            "; divide by 255, or save as uint8"
        } else {
            ""
        };
        format!("has {value} at {index:?}; pixels must be from 0 to 1{hint}")
    }
}
