//! Constant tensors, and reading them from a model file or the files beside it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::proto::{self, DataLocation, DataType};

/// Elements of a constant. Floats of every width are held as float32, integers of every width as
/// int64.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Float(Arc<[f32]>),
    Int(Arc<[i64]>),
    Bool(Arc<[bool]>),
}

impl Data {
    /// The element type, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Data::Float(_) => "float",
            Data::Int(_) => "integer",
            Data::Bool(_) => "boolean",
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float(data) => data.len(),
            Data::Int(data) => data.len(),
            Data::Bool(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Most axes of a tensor.
pub const MAX_RANK: usize = 32;

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    pub dims: Vec<usize>,
    pub data: Data,
    /// The element type that its numbers are said to have, of those that are held alike.
    pub kind: DataType,
}

impl Constant {
    /// A constant of the widest type that is held like this.
    pub fn new(dims: Vec<usize>, data: Data) -> Self {
        let kind = match data {
            Data::Float(_) => DataType::Float,
            Data::Int(_) => DataType::Int64,
            Data::Bool(_) => DataType::Bool,
        };
        Constant { dims, data, kind }
    }

    /// A constant of integers along one axis.
    pub fn integers(values: impl IntoIterator<Item = i64>) -> Self {
        let data: Arc<[i64]> = values.into_iter().collect();
        Constant::new(vec![data.len()], Data::Int(data))
    }

    /// The product of `dims`, or why it is none. Products of some of them do not overflow either,
    /// though another is 0.
    pub fn elements(dims: &[usize]) -> Result<usize, String> {
        if dims.len() > MAX_RANK {
            return Err(format!("rank {} is not supported", dims.len()));
        }
        let whole = dims
            .iter()
            .try_fold(1usize, |n, &dim| n.checked_mul(dim.max(1)))
            .filter(|&n| n <= isize::MAX as usize / 8)
            .ok_or_else(|| format!("shape {dims:?} overflows"))?;
        Ok(if dims.contains(&0) { 0 } else { whole })
    }
}

/// The shape that a tensor declares.
pub fn dims(tensor: &proto::Tensor) -> Result<Vec<usize>, String> {
    let sizes: Option<Vec<usize>> = (tensor.dims.iter().take(MAX_RANK + 1))
        .map(|&dim| usize::try_from(dim).ok())
        .collect();
    let shown = &tensor.dims[..tensor.dims.len().min(MAX_RANK)];
    sizes.ok_or_else(|| format!("has shape {shown:?}"))
}

/// The files that hold a model: its own folder, and the external data read so far.
#[derive(Debug)]
pub struct Files {
    model: PathBuf,
    /// Open external files and their lengths, by location.
    open: HashMap<String, (File, u64)>,
    /// Bytes of external data read.
    read: u64,
}

/// Tensors may share bytes of an external file, but not so often that memory is out of proportion to
/// the files.
const MAX_SHARING: u64 = 4;

impl Files {
    /// The files of the model at `path`.
    pub fn new(path: &Path) -> Self {
        Files {
            model: path.to_path_buf(),
            open: HashMap::new(),
            read: 0,
        }
    }

    /// The files of external data read so far.
    pub fn external_files(&self) -> Vec<PathBuf> {
        let locations = self.open.keys();
        locations
            .map(|name| self.model.with_file_name(name))
            .collect()
    }

    /// Decodes a tensor.
    ///
    /// # Errors
    /// Why it cannot be: the element type is not supported, the data is not what type and shape declare, or an external
    /// file is missing, too short or outside the model's folder.
    pub fn constant(&mut self, tensor: &proto::Tensor) -> Result<Constant, String> {
        self.decode(tensor)
            .map_err(|reason| format!("tensor \"{}\" {reason}", tensor.name))
    }

    fn decode(&mut self, tensor: &proto::Tensor) -> Result<Constant, String> {
        let dims = dims(tensor)?;
        let elements = Constant::elements(&dims)?;
        let kind = DataType::try_from(tensor.data_type).unwrap_or(DataType::Undefined);
        let bits = match kind {
            DataType::Uint4 | DataType::Int4 => 4,
            DataType::Bool | DataType::Uint8 | DataType::Int8 => 8,
            DataType::Float16 | DataType::Bfloat16 | DataType::Uint16 | DataType::Int16 => 16,
            DataType::Float | DataType::Int32 | DataType::Uint32 => 32,
            DataType::Double | DataType::Int64 | DataType::Uint64 => 64,
            _ => {
                return Err(format!(
                    "has elements of type {} ({kind:?}), which classifiers do not need",
                    tensor.data_type,
                ));
            }
        };
        let length = elements.checked_mul(bits).map(|bits| bits.div_ceil(8));
        let length = length.ok_or_else(|| format!("shape {dims:?} overflows"))?;
        let external;
        let raw: &[u8] = if tensor.data_location == DataLocation::External as i32 {
            external = self.external(tensor, length as u64)?;
            &external
        } else {
            &tensor.raw_data
        };
        let data = if raw.is_empty() && tensor.data_location == DataLocation::Default as i32 {
            typed(tensor, kind, elements).map_err(|stored| {
                format!(
                    "has {stored} elements where its shape {dims:?} needs {elements}; is the file truncated?"
                )
            })?
        } else if raw.len() == length {
            from_raw(raw, kind, elements)
        } else {
            return Err(format!(
                "has {} bytes of data where its shape {dims:?} needs {length}; is the file truncated?",
                raw.len(),
            ));
        };
        Ok(Constant { dims, data, kind })
    }

    /// Bytes of a tensor in another file of the model's folder.
    fn external(&mut self, tensor: &proto::Tensor, length: u64) -> Result<Vec<u8>, String> {
        let entry = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key == key);
            entry.map(|entry| entry.value.as_str())
        };
        let number = |key: &str, default: u64| match entry(key) {
            None => Ok(default),
            Some(value) => {
                (value.parse()).map_err(|_| format!("has external data of {key} \"{value}\""))
            }
        };
        let location = entry("location").ok_or("says its data is external, but not where")?;
        let offset = number("offset", 0)?;
        let declared = number("length", length)?;
        if declared != length {
            return Err(format!(
                "has {declared} bytes of external data where its shape {:?} needs {length}",
                tensor.dims
            ));
        }
        if !self.open.contains_key(location) {
            let file = self.open_external(location)?;
            self.open.insert(location.to_string(), file);
        }
        let available: u64 = self.open.values().map(|(_, length)| length).sum();
        let (file, size) = self.open.get_mut(location).expect("inserted above");
        if offset.checked_add(length).is_none_or(|end| end > *size) {
            return Err(format!(
                "needs {length} bytes at {offset} of external file {location}, which has {size}; is \
                 it truncated?"
            ));
        }
        self.read += length;
        if self.read > MAX_SHARING * available {
            return Err(format!(
                "shares its bytes of external file {location} with too many others"
            ));
        }
        let mut data = vec![0; length as usize];
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut data))
            .map_err(|error| format!("is in external file {location}, which failed: {error}"))?;
        Ok(data)
    }

    /// Opens an external file, which must lie in the model's folder or below it. The folder may hold links,
    /// as those of caches do, whatever they lead to.
    fn open_external(&self, location: &str) -> Result<(File, u64), String> {
        let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(location).components().all(plain) {
            return Err(format!(
                "is in external file {location}, outside the model's folder: refused"
            ));
        }
        let missing = |error| {
            format!(
                "is in external file {location}, which cannot be read ({error}); put it beside the model"
            )
        };
        let path = self.model.with_file_name(location);
        let metadata = path.metadata().map_err(missing)?;
        if !metadata.is_file() {
            return Err(format!(
                "is in external file {location}, which is not a file"
            ));
        }
        let mut file = File::open(&path).map_err(missing)?;
        let mut start = Vec::new();
        (file.by_ref().take(START).read_to_end(&mut start)).map_err(missing)?;
        match stand_in(&start) {
            None => Ok((file, metadata.len())),
            Some(what) => Err(format!("is in external file {location}, which {what}")),
        }
    }
}

/// Bytes by which [`stand_in`] tells.
pub const START: u64 = 512;

/// What a file is that begins with these bytes and was got in place of a model's.
pub fn stand_in(start: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(start).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("version https://git-lfs.github.com/spec/") {
        return Some(
            "is a Git LFS pointer, not the file itself; get that with git lfs pull, or download it",
        );
    }
    let page =
        text.starts_with("<!doctype html") || text.starts_with('<') && text.contains("<html");
    page.then_some("is an HTML page, not a model; download the file itself")
}

/// Elements from the typed fields, or how many they hold where that is not `elements`.
fn typed(tensor: &proto::Tensor, kind: DataType, elements: usize) -> Result<Data, usize> {
    let narrow = &tensor.int32_data;
    let stored = match kind {
        DataType::Float => tensor.float_data.len(),
        DataType::Double => tensor.double_data.len(),
        DataType::Int64 => tensor.int64_data.len(),
        DataType::Uint32 | DataType::Uint64 => tensor.uint64_data.len(),
        DataType::Uint4 | DataType::Int4 => (2 * narrow.len()).saturating_sub(elements % 2),
        _ => narrow.len(),
    };
    if stored != elements {
        return Err(stored);
    }
    Ok(match kind {
        DataType::Float => Data::Float(tensor.float_data.as_slice().into()),
        DataType::Double => Data::Float(tensor.double_data.iter().map(|&x| x as f32).collect()),
        DataType::Float16 => Data::Float(
            (narrow.iter())
                .map(|&bits| half::f16::from_bits(bits as u16).to_f32())
                .collect(),
        ),
        DataType::Bfloat16 => Data::Float(
            (narrow.iter())
                .map(|&bits| half::bf16::from_bits(bits as u16).to_f32())
                .collect(),
        ),
        DataType::Bool => Data::Bool(narrow.iter().map(|&x| x != 0).collect()),
        DataType::Int64 => Data::Int(tensor.int64_data.as_slice().into()),
        DataType::Uint32 | DataType::Uint64 => {
            Data::Int(tensor.uint64_data.iter().map(|&x| x as i64).collect())
        }
        DataType::Uint4 | DataType::Int4 => {
            let bytes: Vec<u8> = narrow.iter().map(|&pair| pair as u8).collect();
            from_raw(&bytes, kind, elements)
        }
        _ => Data::Int(narrow.iter().map(|&x| x.into()).collect()),
    })
}

/// Elements from little-endian bytes, as many as needed.
fn from_raw(raw: &[u8], kind: DataType, elements: usize) -> Data {
    fn each<const N: usize, T>(raw: &[u8], f: impl Fn([u8; N]) -> T) -> Arc<[T]> {
        let (elements, _) = raw.as_chunks::<N>();
        elements.iter().map(|&bytes| f(bytes)).collect()
    }
    match kind {
        // Two to a byte, the first in its lower half.
        DataType::Uint4 | DataType::Int4 => {
            let four = |i: usize| (raw[i / 2] >> (i % 2 * 4)) & 15;
            let signed = |x: u8| match kind {
                DataType::Int4 => i64::from((x << 4) as i8 >> 4),
                _ => i64::from(x),
            };
            Data::Int((0..elements).map(|i| signed(four(i))).collect())
        }
        DataType::Float => Data::Float(each(raw, f32::from_le_bytes)),
        DataType::Double => Data::Float(each(raw, |x| f64::from_le_bytes(x) as f32)),
        DataType::Float16 => Data::Float(each(raw, |x| half::f16::from_le_bytes(x).to_f32())),
        DataType::Bfloat16 => Data::Float(each(raw, |x| half::bf16::from_le_bytes(x).to_f32())),
        DataType::Bool => Data::Bool(each(raw, |[x]| x != 0)),
        DataType::Uint8 => Data::Int(each(raw, |[x]| x.into())),
        DataType::Int8 => Data::Int(each(raw, |x| i8::from_le_bytes(x).into())),
        DataType::Uint16 => Data::Int(each(raw, |x| u16::from_le_bytes(x).into())),
        DataType::Int16 => Data::Int(each(raw, |x| i16::from_le_bytes(x).into())),
        DataType::Uint32 => Data::Int(each(raw, |x| u32::from_le_bytes(x).into())),
        DataType::Int32 => Data::Int(each(raw, |x| i32::from_le_bytes(x).into())),
        _ => Data::Int(each(raw, i64::from_le_bytes)),
    }
}
