//! `INPUT...`: every input form as one list of pictures, decoded one at a time.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::arrays::ArrayFile;
pub use super::arrays::Layout;
use super::cifar::CifarFile;
use super::classes::Classes;
use super::folder::Folder;
use super::manifest::Manifest;
use super::names::{id_of, numbered};
use super::picture::Picture;
use crate::error::{Error, Result};

/// The pictures of a command, in order.
///
/// A list of a million costs about its names: items are made when they are asked for.
#[derive(Debug)]
pub struct Dataset {
    inputs: Vec<Input>,
    /// Where each input's pictures start in the list.
    starts: Vec<usize>,
    len: usize,
    classes: Option<Arc<Classes>>,
}

/// One picture of a [`Dataset`].
#[derive(Clone, Debug)]
pub struct Item {
    /// Unique in the dataset; mirrors the input tree: `a/b.png`, `batch.npy#17`.
    pub id: String,
    /// The true label, where the input gives one.
    pub label: Option<usize>,
    /// What a manifest says of the picture beside `file` and `label`.
    pub more: Map<String, Value>,
    place: Place,
}

/// Where a picture's pixels are.
#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Array(Arc<ArrayFile>, usize),
    Cifar(Arc<CifarFile>, usize),
}

/// One `INPUT` and its name.
#[derive(Debug)]
struct Input {
    /// For folders and manifests what its pictures' ids start with, empty or with `/` at its end; the
    /// id, or its part before `#`, otherwise.
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File { path: PathBuf, label: Option<usize> },
    Folder(Folder),
    Manifest(Manifest),
    Array(Arc<ArrayFile>),
    Cifar(Arc<CifarFile>),
}

impl Kind {
    fn open(path: &Path, layout: Option<Layout>, classes: Option<&Classes>) -> Result<Kind> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if metadata.is_dir() {
            return Ok(Kind::Folder(Folder::open(path, classes)?));
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        Ok(match extension.to_ascii_lowercase().as_str() {
            "npy" => Kind::Array(Arc::new(ArrayFile::open_npy(path, layout)?)),
            "npz" => Kind::Array(Arc::new(ArrayFile::open_npz(path, layout)?)),
            "bin" => Kind::Cifar(Arc::new(CifarFile::open(path)?)),
            "jsonl" => Kind::Manifest(Manifest::open(path)?),
            _ => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                Kind::File {
                    path: path.to_owned(),
                    label: classes.and_then(|classes| classes.label_of(&absolute)),
                }
            }
        })
    }

    fn len(&self) -> usize {
        match self {
            Kind::File { .. } => 1,
            Kind::Folder(folder) => folder.len(),
            Kind::Manifest(manifest) => manifest.len(),
            Kind::Array(array) => array.len(),
            Kind::Cifar(cifar) => cifar.len(),
        }
    }
}

impl Dataset {
    /// Opens inputs: image files, folders, `.npy`, `.npz`, CIFAR-10 `.bin`, `.jsonl` manifests.
    ///
    /// Ids are paths relative to the `INPUT` where that is the only one; where there are several, they
    /// start with the input's own name, numbered (`x~2`) where two have the same. `layout` says the
    /// order of an array's axes; `classes` gives pictures in class folders their true labels.
    ///
    /// # Errors
    /// There is no input, or one is missing, empty or damaged. Single pictures are not decoded here.
    pub fn open(
        inputs: &[PathBuf],
        layout: Option<Layout>,
        classes: Option<Classes>,
    ) -> Result<Dataset> {
        let mut dataset = Dataset {
            inputs: Vec::new(),
            starts: Vec::new(),
            len: 0,
            classes: classes.map(Arc::new),
        };
        let mut taken = HashSet::new();
        for path in inputs {
            let kind = Kind::open(path, layout, dataset.classes.as_deref())?;
            let mut name = own_name(path);
            let mut times = 1;
            while !taken.insert(name.clone()) {
                times += 1;
                name = numbered(&own_name(path), times);
            }
            if matches!(kind, Kind::Folder(_) | Kind::Manifest(_)) {
                name = if inputs.len() == 1 {
                    String::new()
                } else {
                    name + "/"
                };
            }
            dataset.starts.push(dataset.len);
            dataset.len += kind.len();
            dataset.inputs.push(Input { name, kind });
        }
        if dataset.len == 0 {
            return Err(Error::invalid(
                "no input: name image files, folders or arrays",
            ));
        }
        Ok(dataset)
    }

    /// Pictures.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none; never so after opening.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The class list it was opened with.
    pub fn classes(&self) -> Option<&Arc<Classes>> {
        self.classes.as_ref()
    }

    /// The picture at `index`, below [`len`](Self::len).
    pub fn item(&self, index: usize) -> Item {
        let input = self.starts.partition_point(|&start| start <= index) - 1;
        let row = index - self.starts[input];
        let Input { name, kind } = &self.inputs[input];
        let (id, label, place) = match kind {
            Kind::File { path, label } => (name.clone(), *label, Place::File(path.clone())),
            Kind::Folder(folder) => (
                format!("{name}{}", id_of(folder.relative(row))),
                folder.label(row),
                Place::File(folder.path(row)),
            ),
            Kind::Manifest(manifest) => (
                format!("{name}{}", manifest.id(row)),
                manifest.label(row),
                Place::File(manifest.path(row)),
            ),
            Kind::Array(array) => (
                format!("{name}#{row}"),
                array.label(row),
                Place::Array(array.clone(), row),
            ),
            Kind::Cifar(cifar) => (
                format!("{name}#{row}"),
                Some(cifar.label(row)),
                Place::Cifar(cifar.clone(), row),
            ),
        };
        let more = match kind {
            Kind::Manifest(manifest) => manifest.more(row),
            _ => Map::new(),
        };
        Item {
            id,
            label,
            more,
            place,
        }
    }

    /// All pictures, in order.
    pub fn items(&self) -> impl Iterator<Item = Item> + '_ {
        (0..self.len).map(|index| self.item(index))
    }

    /// Reads and decodes a picture.
    ///
    /// # Errors
    /// It is missing, damaged, too large, or has numbers that are no pixels.
    pub fn load(&self, item: &Item) -> Result<Picture> {
        match &item.place {
            Place::File(path) => Picture::open(path),
            Place::Array(array, row) => array.load(*row),
            Place::Cifar(cifar, row) => cifar.load(*row),
        }
    }
}

/// An input's own name: the last part of its path.
fn own_name(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| id_of(Path::new(name)));
    name(path)
        .or_else(|| name(&path.canonicalize().ok()?))
        .unwrap_or_else(|| "input".into())
}
