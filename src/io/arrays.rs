//! Pictures in `.npy` and `.npz` arrays, read row by row.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use npyz::zip::ZipArchive;

use super::npy::Header;
use super::picture::{Picture, check_size, open_regular, rgb};
use crate::error::{Error, Result};

/// The order of an array's axes: N pictures, C channels, H rows, W columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    Nchw,
    Nhwc,
    /// One picture.
    Chw,
    /// One picture.
    Hwc,
}

impl Layout {
    /// The layout of an array, where its shape says it: the channel axis is the only one of the two
    /// candidates with 1 or 3 entries.
    ///
    /// # Errors
    /// The shape leaves it open, or is that of no pictures at all.
    fn infer(shape: &[usize]) -> Result<Layout, String> {
        let channels = |n: usize| n == 1 || n == 3;
        let (first, last, [channels_first, channels_last]) = match *shape {
            [_, a, _, b] => (a, b, [Layout::Nchw, Layout::Nhwc]),
            [a, _, b] => (a, b, [Layout::Chw, Layout::Hwc]),
            _ => {
                return Err(format!(
                    "has shape {shape:?}; pictures take 4 axes, or 3 for a single one, with 1 or 3 \
                     channels"
                ));
            }
        };
        match (channels(first), channels(last)) {
            (true, false) => Ok(channels_first),
            (false, true) => Ok(channels_last),
            (true, true) => Err(format!(
                "has shape {shape:?}, which fits channels first and channels last; say which with \
                 --layout {} or --layout {}",
                channels_first.name(),
                channels_last.name()
            )),
            (false, false) => Err(format!(
                "has shape {shape:?}, in which no axis is 1 or 3 channels"
            )),
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
    fn dimensions(self, shape: &[usize]) -> Result<[usize; 4], String> {
        let dimensions = match (self, shape) {
            (Layout::Nchw, &[n, c, h, w]) | (Layout::Nhwc, &[n, h, w, c]) => [n, c, h, w],
            (Layout::Chw, &[c, h, w]) | (Layout::Hwc, &[h, w, c]) => [1, c, h, w],
            _ => {
                return Err(format!(
                    "has shape {shape:?}, which is not --layout {}",
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

    /// Whether a pixel's channels lie side by side.
    fn interleaved(self) -> bool {
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
pub struct ArrayFile {
    /// The file, with the array's name in it for `.npz`: for messages.
    name: PathBuf,
    /// The file that holds the numbers as they are; a nameless temporary one for `.npz`.
    data: Mutex<File>,
    offset: u64,
    sample: Sample,
    layout: Layout,
    shape: Vec<usize>,
    /// Pictures, channels, height, width.
    dimensions: [usize; 4],
    /// The pictures' true labels, where the file has them.
    labels: Option<Vec<usize>>,
}

impl ArrayFile {
    /// Opens a `.npy` array; no picture is read yet.
    ///
    /// # Errors
    /// The file is no array of float32 or uint8 pictures, is cut short, or its layout is open.
    pub fn open_npy(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        let file = open_regular(path)?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let mut reader = BufReader::new(file);
        let named = |message: String| Error::file(path, message);
        let header = Header::read(&mut reader).map_err(named)?;
        let array =
            Self::new(path.to_owned(), reader.into_inner(), &header, layout).map_err(named)?;
        array
            .check_length(length - header.data_offset.min(length))
            .map_err(named)?;
        Ok(array)
    }

    /// Opens a `.npz` archive: the array called `images` or `x` (`x_test` and the like), or the only
    /// one of 3 or 4 axes; labels are an integer array of one axis called `labels`, `label` or `y`.
    /// The pictures are unpacked once, to a temporary file.
    ///
    /// # Errors
    /// As [`open_npy`](Self::open_npy); or no array, or several, can be the pictures; or the labels
    /// are not as many as the pictures.
    pub fn open_npz(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        let named = |message: String| Error::file(path, message);
        let damaged = |error: npyz::zip::result::ZipError| {
            named(format!("is a damaged .npz archive: {error}"))
        };
        let mut archive = ZipArchive::new(BufReader::new(open_regular(path)?)).map_err(damaged)?;
        let members = Self::list(&mut archive).map_err(named)?;
        let pictures = choose_pictures(&members).map_err(named)?;
        let labels = members.iter().find(|m| m.is_labels());

        let full_name =
            |member: &Member| PathBuf::from(format!("{}[{}]", path.display(), member.name));
        let mut entry = archive.by_index(pictures.index).map_err(damaged)?;
        let header = Header::read(&mut entry).map_err(named)?;
        let file = tempfile::tempfile().map_err(Error::io(std::env::temp_dir()))?;
        let mut array = Self::new(
            full_name(pictures),
            file,
            &Header {
                data_offset: 0,
                ..header
            },
            layout,
        )
        .map_err(|message| Error::file(full_name(pictures), message))?;
        let bytes = array.bytes().map_err(named)?;
        let mut unpacked = array.data.lock().expect("no thread panics with the file");
        let copied = copy(
            &mut // One byte more, so that the end is reached and the checksum compared.
        entry.take(bytes.saturating_add(1)),
            &mut unpacked,
        )
        .map_err(|error| named(format!("cannot be unpacked: {error}")))?;
        drop(unpacked);
        array
            .check_length(copied)
            .map_err(|message| Error::file(full_name(pictures), message))?;

        if let Some(member) = labels {
            let mut entry = archive.by_index(member.index).map_err(damaged)?;
            let labels = read_labels(&mut entry)
                .map_err(|message| Error::file(full_name(member), message))?;
            if labels.len() != array.len() {
                return Err(Error::file(
                    full_name(member),
                    format!("has {} labels for {} pictures", labels.len(), array.len()),
                ));
            }
            array.labels = Some(labels);
        }
        Ok(array)
    }

    /// Every array of an archive, with its header.
    fn list(archive: &mut ZipArchive<BufReader<File>>) -> Result<Vec<Member>, String> {
        let mut members = Vec::new();
        for index in 0..archive.len() {
            let mut entry = archive
                .by_index(index)
                .map_err(|error| format!("is a damaged .npz archive: {error}"))?;
            let Some(name) = entry.name().strip_suffix(".npy").map(str::to_owned) else {
                continue;
            };
            let header = Header::read(&mut entry)
                .map_err(|message| format!("is no .npz to read: its array {name} {message}"))?;
            members.push(Member {
                index,
                name,
                header,
            });
        }
        Ok(members)
    }

    fn new(
        name: PathBuf,
        data: File,
        header: &Header,
        layout: Option<Layout>,
    ) -> Result<ArrayFile, String> {
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
            return Err(format!("has shape {:?}: no pictures", header.shape));
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
    fn bytes(&self) -> Result<u64, String> {
        let elements = self
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        elements
            .and_then(|n| n.checked_mul(self.sample.bytes() as u64))
            .and_then(|n| n.checked_add(self.offset).map(|_| n))
            .ok_or_else(|| format!("has shape {:?}, more than a file can hold", self.shape))
    }

    fn check_length(&self, there: u64) -> Result<(), String> {
        let needed = self.bytes()?;
        if there < needed {
            return Err(format!(
                "is truncated: shape {:?} takes {needed} bytes and there are {there}",
                self.shape
            ));
        }
        Ok(())
    }

    /// Pictures.
    pub fn len(&self) -> usize {
        self.dimensions[0]
    }

    /// Whether there are none; never so after opening.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The true label of a picture.
    pub fn label(&self, row: usize) -> Option<usize> {
        self.labels.as_ref().map(|labels| labels[row])
    }

    /// Reads a picture.
    ///
    /// # Errors
    /// The file cannot be read, or a float is not a number from 0 to 1; the message has its index in
    /// the array.
    pub fn load(&self, row: usize) -> Result<Picture> {
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
        if let Some(bad) = (0..elements).find(|&i| !(0.0..=1.0).contains(&value(i))) {
            return Err(Error::file(
                &self.name,
                self.describe_bad(row, bad, value(bad)),
            ));
        }
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

    /// The message about an element that is no pixel, with its index as NumPy writes it.
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

/// An array of a `.npz` archive.
struct Member {
    index: usize,
    name: String,
    header: Header,
}

impl Member {
    fn is_labels(&self) -> bool {
        let kind = self.header.descr.trim_start_matches(['<', '>', '|', '=']);
        self.header.shape.len() == 1
            && kind.starts_with(['i', 'u'])
            && ["labels", "label", "y"]
                .iter()
                .any(|name| self.is_called(name))
    }

    /// Whether this is `name`, or `name_train` and the like.
    fn is_called(&self, name: &str) -> bool {
        let own = self.name.to_ascii_lowercase();
        own == name
            || own
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('_'))
    }
}

/// The array of an archive that holds the pictures.
fn choose_pictures(members: &[Member]) -> Result<&Member, String> {
    let candidates: Vec<&Member> = members
        .iter()
        .filter(|m| matches!(m.header.shape.len(), 3 | 4))
        .collect();
    let called: Vec<&Member> = candidates
        .iter()
        .copied()
        .filter(|m| m.is_called("images") || m.is_called("x"))
        .collect();
    match (called.as_slice(), candidates.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one),
        (_, []) => Err("has no array of 3 or 4 axes".into()),
        _ => {
            let names: Vec<&str> = candidates.iter().map(|m| m.name.as_str()).collect();
            Err(format!(
                "has several arrays that could be the pictures ({}); call one of them images, or \
                 save it alone",
                names.join(", ")
            ))
        }
    }
}

/// The non-negative integers of a `.npy` of one axis.
fn read_labels(reader: &mut impl Read) -> Result<Vec<usize>, String> {
    let header = Header::read(reader)?;
    let big_endian = header.descr.starts_with('>');
    let kind = header.descr.trim_start_matches(['<', '>', '|', '=']);
    let (signed, size) = match kind {
        "i1" | "i2" | "i4" | "i8" => (true, kind.as_bytes()[1] - b'0'),
        _ => (false, kind.as_bytes()[1] - b'0'),
    };
    let size = usize::from(size);
    if !matches!(size, 1 | 2 | 4 | 8) {
        return Err(format!(
            "has dtype {}; labels must be integers",
            header.descr
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

/// Copies all of `from`; bytes copied.
fn copy(from: &mut impl Read, to: &mut File) -> std::io::Result<u64> {
    let bytes = std::io::copy(from, to)?;
    to.flush()?;
    Ok(bytes)
}
