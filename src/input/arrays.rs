//! Pictures in arrays: of `.npy` files, of `.npz` archives once they are unpacked, and of PyTorch's `.pt` files. They
//! are read row by row, in one way.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::array_names::{ADVERSARIAL, CLEAN, LABELS, no_pictures};
use super::npy::Header;
use super::stored::{Dtype, Stored, fortran_order};
use super::torch::TorchFile;
use crate::error::{Error, Message, Result};
use crate::files::open_regular;
use crate::picture::{ImageShape, Picture, check_size, rgb};

/// How far beyond 0 and 1 a float may lie: what arithmetic in float16 or a round trip through mean and standard
/// deviation leaves. It is clipped.
const SLACK: f32 = 1e-3;

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
    pub fn infer(shape: &[usize]) -> Result<Layout, Message> {
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
    ///
    /// # Errors
    /// It has another number of axes, or of channels; the message is about the array.
    pub fn dimensions(self, shape: &[usize]) -> Result<[usize; 4], String> {
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
    pub fn interleaved(self) -> bool {
        matches!(self, Layout::Nhwc | Layout::Hwc)
    }
}

/// An array of pictures in a file.
#[derive(Debug)]
pub(crate) struct ArrayFile {
    /// The numbers, with an axis of pictures at the front.
    numbers: Stored,
    interleaved: bool,
    /// Whether the file has no axis of pictures.
    single: bool,
    /// Pictures, channels, height, width.
    dimensions: [usize; 4],
    /// The pictures' true labels, if the file has them.
    pub(super) labels: Option<Vec<usize>>,
}

impl ArrayFile {
    /// Opens a `.npy`, `.npz` or `.pt` file, with the labels in it or, as `labels.npy` or `labels.pt`, beside it; no
    /// picture is read yet.
    ///
    /// # Errors
    /// The file is no array of pictures, is damaged or cut short, its layout is open; or its labels are no labels.
    pub(crate) fn open(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        let mut array = match extension.to_ascii_lowercase().as_str() {
            "npz" => return Self::open_npz(path, layout),
            "npy" => Self::open_npy(path, layout)?,
            _ => Self::open_torch(path, layout)?,
        };
        if array.labels.is_none()
            && let Some((source, labels)) = labels_beside(path)?
        {
            if labels.len() == array.len() {
                array.labels = Some(labels);
            } else {
                log::warn!(
                    "{}: has {} labels and {} {} pictures, which stay without",
                    source.display(),
                    labels.len(),
                    path.display(),
                    array.len()
                );
            }
        }
        Ok(array)
    }

    /// Opens a `.npy` array; no picture is read yet.
    ///
    /// # Errors
    /// The file is no array of pictures, is cut short, or its layout is open.
    pub(crate) fn open_npy(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        Self::new(open_numbers(path)?, layout)
    }

    /// Opens the tensor of pictures of a `.pt` file: the attacked ones where it has those, the only one where it
    /// is all that was saved.
    fn open_torch(path: &Path, layout: Option<Layout>) -> Result<ArrayFile> {
        let mut file = TorchFile::open(path)?;
        let numbers = match file.tensor(&[&ADVERSARIAL[..], &CLEAN].concat())? {
            Some(numbers) => numbers,
            None => file.alone()?.ok_or_else(|| no_pictures(path))?,
        };
        let mut array = Self::new(numbers, layout)?;
        array.labels = match file.tensor(&LABELS)? {
            Some(labels) => Some(labels.labels()?),
            None => None,
        };
        match &array.labels {
            Some(labels) if labels.len() != array.len() => Err(Error::file(
                path,
                format!("has {} labels for {} pictures", labels.len(), array.len()),
            )),
            _ => Ok(array),
        }
    }

    /// The pictures that numbers are.
    ///
    /// # Errors
    /// They have another type or shape, or their layout is open.
    pub(super) fn new(numbers: Stored, layout: Option<Layout>) -> Result<ArrayFile> {
        let refused = |message: Message| Error::file(&numbers.name, message);
        let Stored { dtype, shape, .. } = &numbers;
        if !matches!(
            dtype,
            Dtype::U8 | Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::F64
        ) {
            let other = format!(
                "has dtype {}; pictures must be uint8, or floats from 0 to 1: convert it with astype",
                dtype.name()
            );
            return Err(refused(other.into()));
        }
        let layout = layout.map_or_else(|| Layout::infer(shape), Ok);
        let layout = layout.map_err(refused)?;
        let dimensions = layout.dimensions(shape).map_err(|m| refused(m.into()))?;
        let [pictures, _, height, width] = dimensions;
        if pictures == 0 {
            return Err(refused(format!("has shape {shape:?}: no pictures").into()));
        }
        check_size(width, height).map_err(|m| refused(m.into()))?;
        let single = shape.len() == 3;
        let mut numbers = numbers;
        if single {
            numbers.shape.insert(0, 1);
            numbers.strides.insert(0, 0);
        } else if pictures > 1 && numbers.strides == fortran_order(&numbers.shape) {
            numbers = numbers.in_rows()?;
        }
        Ok(ArrayFile {
            numbers,
            interleaved: layout.interleaved(),
            single,
            dimensions,
            labels: None,
        })
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.dimensions[0]
    }

    /// The true label of a picture.
    pub(crate) fn label(&self, row: usize) -> Option<usize> {
        self.labels.as_ref().map(|labels| labels[row])
    }

    /// Reads a picture as [`picture`] makes it.
    ///
    /// # Errors
    /// The file cannot be read, or a float is not a number from 0 to 1; the message gives the float's index in
    /// the array.
    pub(crate) fn load(&self, row: usize) -> Result<Picture> {
        let [_, channels, height, width] = self.dimensions;
        let plane = height * width;
        let eight_bit = self.numbers.dtype == Dtype::U8;
        let divisor = if eight_bit { 255.0 } else { 1.0 };
        let values = self.numbers.row(row, |x| x as f32 / divisor)?;
        let values = match self.interleaved {
            true => (0..channels)
                .flat_map(|channel| (0..plane).map(move |i| i * channels + channel))
                .map(|place| values[place])
                .collect(),
            false => values,
        };
        picture(values, rgb(height, width), eight_bit).map_err(|wrong| {
            let [channel, y, x] = wrong.place;
            let index = match self.interleaved {
                true => [row, y, x, channel],
                false => [row, channel, y, x],
            };
            let index = &index[usize::from(self.single)..];
            Error::file(&self.numbers.name, wrong.message(index))
        })
    }
}

/// A number of a picture that is no pixel.
#[derive(Clone, Debug, PartialEq)]
pub struct WrongPixel {
    /// Its channel, row and column.
    pub place: [usize; 3],
    value: f32,
    hint: Option<&'static str>,
}

impl WrongPixel {
    /// What is said of it, with its index in an array of pictures.
    pub fn message(&self, index: &[usize]) -> Message {
        let text = format!(
            "has {} at {index:?}; pixels must be from 0 to 1",
            self.value
        );
        match self.hint {
            Some(hint) => Message::from(text).hint(hint),
            None => text.into(),
        }
    }
}

/// A picture's own file: an image, or a `.npy` array of one picture.
///
/// # Errors
/// It is missing or damaged, or has several pictures.
pub(super) fn open_picture(path: &Path) -> Result<Picture> {
    if path
        .extension()
        .is_none_or(|e| !e.eq_ignore_ascii_case("npy"))
    {
        return Picture::open(path);
    }
    let array = ArrayFile::open_npy(path, None)?;
    match array.len() {
        1 => array.load(0),
        several => {
            let message = format!("has {several} pictures where one is listed");
            Err(Error::file(path, message).hint("name the array itself as the input"))
        }
    }
}

/// The picture of `values`: planes of 1 or 3 channels, in `[0, 1]`. Floats that lie up to 0.001 beyond are clipped,
/// and gray is replicated. `shape` is the picture's; `eight_bit` says that the values are multiples of 1/255.
///
/// # Errors
/// A value is not a number from 0 to 1.
pub fn picture(
    mut values: Vec<f32>,
    shape: ImageShape,
    eight_bit: bool,
) -> Result<Picture, WrongPixel> {
    let is_bad = |x: &f32| !(-SLACK..=1.0 + SLACK).contains(x);
    if let Some(bad) = values.iter().position(is_bad) {
        let plane = shape.height * shape.width;
        return Err(WrongPixel {
            place: [bad / plane, bad % plane / shape.width, bad % shape.width],
            value: values[bad],
            hint: hint(&values),
        });
    }
    for value in &mut values {
        *value = value.clamp(0.0, 1.0);
    }
    if values.len() < shape.elements() {
        values = [&values[..]; 3].concat();
    }
    Ok(Picture {
        shape,
        pixels: values,
        eight_bit,
    })
}

/// What a picture with numbers that are no pixels probably is.
fn hint(values: &[f32]) -> Option<&'static str> {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    match () {
        _ if values.iter().any(|x| !x.is_finite()) => {
            Some("the picture has numbers that are not finite: whatever made it failed")
        }
        _ if low >= -0.1 && high <= 1.1 => Some("clip the numbers"),
        _ if low >= -0.5 && high > 10.0 && high <= 255.5 => {
            Some("the picture looks like one of 0 to 255: divide by 255, or save as uint8")
        }
        _ if low >= -10.0 && high <= 10.0 => Some(
            "the picture looks normalized: multiply by the standard deviation, add the mean, and let `mean` and \
             `std` do that for the classifier",
        ),
        _ => None,
    }
}

/// The true labels beside a file that has none of its own, and where they are.
///
/// # Errors
/// They are damaged, or no labels.
pub(super) fn labels_beside(path: &Path) -> Result<Option<(PathBuf, Vec<usize>)>> {
    for name in ["labels.npy", "labels.pt"] {
        let other = path.with_file_name(name);
        if !other.is_file() || other == path {
            continue;
        }
        let labels = match name {
            "labels.npy" => open_numbers(&other)?,
            _ => {
                let mut file = TorchFile::open(&other)?;
                match file.tensor(&LABELS)? {
                    Some(labels) => labels,
                    None => file
                        .alone()?
                        .ok_or_else(|| Error::file(&other, "is no tensor of labels"))?,
                }
            }
        };
        return Ok(Some((other, labels.labels()?)));
    }
    Ok(None)
}

/// The numbers of a `.npy` file.
///
/// # Errors
/// It is none, of another type, or cut short.
pub(super) fn open_numbers(path: &Path) -> Result<Stored> {
    let file = open_regular(path)?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut reader = BufReader::new(file);
    let named = |message: String| Error::file(path, message);
    let header = Header::read(&mut reader).map_err(named)?;
    let there = length - header.data_offset.min(length);
    header.numbers(path, reader.into_inner(), there)
}
