//! `INPUT...`: every input format as one list of pictures, decoded one at a time. A manifest on standard input
//! is a stream instead: a list whose length is known only at its end.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::array_names::beside_array;
pub use super::arrays::Layout;
use super::arrays::{ArrayFile, open_picture};
use super::cifar::{CifarFile, is_pickle};
use super::classes::Classes;
use super::folder::Folder;
use super::item::{Item, Place};
use super::manifest::Manifest;
use super::names::{id_of, numbered};
use super::parquet::ParquetFile;
use super::shard::Shard;
use super::stream::Stream;
use super::webdataset::TarFile;
use crate::error::{Error, Result};
use crate::picture::{Picture, Preprocess};

/// The pictures of a command, in order.
///
/// A long list needs little more memory than its names: items are made when they are asked for.
#[derive(Debug)]
pub struct Dataset {
    inputs: Vec<Input>,
    /// Index in the list of each input's first picture.
    starts: Vec<usize>,
    /// Number of pictures of all inputs.
    total: usize,
    /// The shard to work on, and the indices of its pictures in the list.
    shard: Option<(Shard, Vec<u32>)>,
    /// The stream that gives the pictures in place of `inputs`.
    stream: Option<Stream>,
    classes: Option<Arc<Classes>>,
}

/// One `INPUT` and its name.
#[derive(Debug)]
struct Input {
    /// For folders and manifests the prefix of its pictures' ids, empty or with `/` at its end; for others the
    /// id, or the part of the id before `#`.
    name: String,
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File { path: PathBuf, label: Option<usize> },
    Folder(Folder),
    Manifest(Manifest),
    Array(Arc<ArrayFile>),
    Cifar(Arc<CifarFile>),
    Parquet(Arc<ParquetFile>),
    Tar(Arc<TarFile>),
}

impl Kind {
    fn open(path: &Path, layout: Option<Layout>, classes: Option<&Classes>) -> Result<Kind> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if metadata.is_dir() {
            return Ok(match Manifest::in_folder(path, classes) {
                Some(manifest) => Kind::Manifest(manifest),
                None => Kind::Folder(Folder::open(path, classes)?),
            });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_ascii_lowercase();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        Ok(match extension {
            "npy" | "npz" | "pt" | "pth" => Kind::Array(Arc::new(ArrayFile::open(path, layout)?)),
            "bin" => Kind::Cifar(Arc::new(CifarFile::open(path)?)),
            "jsonl" => Kind::Manifest(Manifest::open(path, classes)?),
            "parquet" => Kind::Parquet(Arc::new(ParquetFile::open(path)?)),
            "tar" | "tgz" => Kind::Tar(Arc::new(TarFile::open(path, classes)?)),
            "gz" if name.ends_with(".tar.gz") => Kind::Tar(Arc::new(TarFile::open(path, classes)?)),
            _ if is_pickle(path) => Kind::Array(Arc::new(ArrayFile::open_cifar_batch(path)?)),
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
            Kind::Parquet(parquet) => parquet.len(),
            Kind::Tar(tar) => tar.len(),
        }
    }
}

impl Dataset {
    /// Opens inputs: image files, folders, `.npy`, `.npz`, CIFAR's batches, Parquet, `.jsonl` manifests, `.tar` and
    /// `.tgz` files.
    ///
    /// If there is one input, ids are paths relative to it. If there are several, ids start with the input's own
    /// name, numbered (`x~2`) if two inputs have the same name. `layout` is the order of an array's axes;
    /// `classes` gives pictures in class folders their true labels.
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
            total: 0,
            shard: None,
            stream: None,
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
            dataset.starts.push(dataset.total);
            dataset.total += kind.len();
            let path = path.to_owned();
            dataset.inputs.push(Input { name, path, kind });
        }
        if dataset.total == 0 {
            return Err(Error::invalid(
                "no input: name image files, folders or arrays",
            ));
        }
        Ok(dataset)
    }

    /// The pictures that a text file lists, one a line, relative to `folder` or else to the list's own.
    ///
    /// # Errors
    /// The list cannot be read, or is empty. Single pictures are not decoded here.
    pub fn open_list(
        list: &Path,
        folder: Option<&Path>,
        classes: Option<Classes>,
    ) -> Result<Dataset> {
        let base = folder.or(list.parent()).unwrap_or(Path::new(""));
        let manifest = Manifest::open_list(list, base, classes.as_ref())?;
        Ok(Dataset {
            starts: vec![0],
            total: manifest.len(),
            inputs: vec![Input {
                name: String::new(),
                path: list.to_owned(),
                kind: Kind::Manifest(manifest),
            }],
            shard: None,
            stream: None,
            classes: classes.map(Arc::new),
        })
    }

    /// The pictures of a manifest that is read while it is worked on.
    pub fn stream(stream: Stream, classes: Option<Classes>) -> Dataset {
        Dataset {
            inputs: Vec::new(),
            starts: Vec::new(),
            total: 0,
            shard: None,
            stream: Some(stream),
            classes: classes.map(Arc::new),
        }
    }

    /// The part of the data set that belongs to `shard`; it may have no pictures.
    pub fn only(mut self, shard: Shard) -> Dataset {
        let held = (0..self.total).filter(|&index| shard.holds(&self.id_in_list(index)));
        let held = held.map(|index| index as u32).collect();
        self.shard = Some((shard, held));
        self
    }

    /// The shard that the data set was restricted to; `None` for the whole data set.
    pub fn shard(&self) -> Option<Shard> {
        self.shard.as_ref().map(|(shard, _)| *shard)
    }

    /// The stream, if the data set is one.
    pub fn as_stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// Ends a stream: it gives no more pictures, and a thread that waits for one gets none at once.
    pub fn end(&self) {
        if let Some(stream) = &self.stream {
            stream.end();
        }
    }

    /// Number of pictures; 0 for a stream, whose number is not known.
    pub fn len(&self) -> usize {
        match &self.shard {
            Some((_, held)) => held.len(),
            None => self.total,
        }
    }

    /// Whether there are no pictures, as in a shard of a small data set, or whether this is a stream.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class list that the data set was opened with.
    pub fn classes(&self) -> Option<&Arc<Classes>> {
        self.classes.as_ref()
    }

    /// Index in the whole list of the picture at `index`, below [`len`](Self::len).
    fn in_list(&self, index: usize) -> usize {
        match &self.shard {
            Some((_, held)) => held[index] as usize,
            None => index,
        }
    }

    /// The input that has the picture at `index` of the whole list, and its row there.
    fn find(&self, index: usize) -> (&Input, usize) {
        let input = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.inputs[input], index - self.starts[input])
    }

    fn id_in_list(&self, index: usize) -> String {
        let (Input { name, kind, .. }, row) = self.find(index);
        match kind {
            Kind::File { .. } => name.clone(),
            Kind::Folder(folder) => name.clone() + &id_of(folder.relative(row)),
            Kind::Manifest(manifest) => name.clone() + manifest.id(row),
            Kind::Tar(tar) => format!("{name}/{}", tar.id(row)),
            Kind::Array(_) | Kind::Cifar(_) | Kind::Parquet(_) => format!("{name}#{row}"),
        }
    }

    /// The id of the picture at `index`, below [`len`](Self::len).
    pub fn id(&self, index: usize) -> String {
        self.id_in_list(self.in_list(index))
    }

    /// The ids of all shards' pictures, in order. Output names are chosen from them, so that the names do not
    /// depend on the shard.
    pub fn ids_of_all_shards(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.total).map(|index| self.id_in_list(index))
    }

    /// Every file that is read, of all shards: the inputs, what folders and manifests list, and what may lie
    /// beside an array. Of a stream, none is known.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.inputs.iter().flat_map(|Input { path, kind, .. }| {
            let listed: Box<dyn Iterator<Item = PathBuf>> = match kind {
                Kind::Folder(folder) => Box::new((0..folder.len()).map(|row| folder.path(row))),
                Kind::Manifest(manifest) => {
                    let listed = (0..manifest.len()).map(|row| manifest.path(row));
                    let lists = ["metadata.jsonl", "results.jsonl"].map(|name| path.join(name));
                    Box::new(lists.into_iter().chain(listed))
                }
                Kind::Array(_) => Box::new(beside_array(path)),
                Kind::File { .. } | Kind::Cifar(_) | Kind::Parquet(_) | Kind::Tar(_) => {
                    Box::new(std::iter::empty())
                }
            };
            std::iter::once(path.clone()).chain(listed)
        })
    }

    /// How many files of its folders are no pictures that are read, by their extensions.
    pub fn skipped(&self) -> Map<String, Value> {
        let mut all: BTreeMap<&str, u64> = BTreeMap::new();
        for Input { kind, .. } in &self.inputs {
            if let Kind::Folder(folder) = kind {
                for (extension, count) in folder.skipped() {
                    *all.entry(extension).or_default() += count;
                }
            }
        }
        let named = all
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count.into()));
        named.collect()
    }

    /// The picture at `index`, below [`len`](Self::len).
    pub fn item(&self, index: usize) -> Item {
        let (Input { kind, path, .. }, row) = self.find(self.in_list(index));
        let (label, place) = match kind {
            Kind::File { path, label } => (*label, Place::File(path.clone())),
            Kind::Folder(folder) => (folder.label(row), Place::File(folder.path(row))),
            Kind::Manifest(manifest) => match manifest.broken(row) {
                Some(why) => {
                    let why = format!("of {} {why}", path.display());
                    (None, Place::Unknown(why))
                }
                None => (manifest.label(row), Place::File(manifest.path(row))),
            },
            Kind::Array(array) => (array.label(row), Place::Array(array.clone(), row)),
            Kind::Cifar(cifar) => (Some(cifar.label(row)), Place::Cifar(cifar.clone(), row)),
            Kind::Parquet(parquet) => (parquet.label(row), Place::Parquet(parquet.clone(), row)),
            Kind::Tar(tar) => (tar.label(row), Place::Tar(tar.clone(), row)),
        };
        let more = match kind {
            Kind::Manifest(manifest) => manifest.more(row),
            Kind::Tar(tar) => tar.more(row),
            _ => Map::new(),
        };
        Item {
            id: self.id(index),
            label,
            more,
            place,
        }
    }

    /// All pictures, in order.
    pub fn items(&self) -> impl Iterator<Item = Item> + Send + '_ {
        self.items_where(|_| true)
    }

    /// The pictures whose ids are `wanted`, in order. For the others only the id is made.
    pub fn items_where<'a>(
        &'a self,
        wanted: impl Fn(&str) -> bool + Send + 'a,
    ) -> Box<dyn Iterator<Item = Item> + Send + 'a> {
        if let Some(stream) = &self.stream {
            let held = self.shard();
            return Box::new(stream.items().filter(move |item| {
                held.is_none_or(|shard| shard.holds(&item.id)) && wanted(&item.id)
            }));
        }
        let indices = (0..self.len()).filter(move |&index| wanted(&self.id(index)));
        Box::new(indices.map(|index| self.item(index)))
    }

    /// Reads and decodes a picture.
    ///
    /// # Errors
    /// The picture is missing, damaged, too large, or has values that are not valid in a picture.
    pub fn load(&self, item: &Item) -> Result<Picture> {
        match &item.place {
            Place::File(path) => open_picture(path),
            Place::Array(array, row) => array.load(*row),
            Place::Cifar(cifar, row) => cifar.load(*row),
            Place::Parquet(parquet, row) => parquet.load(*row),
            Place::Tar(tar, row) => tar.load(*row),
            Place::Unknown(message) => Err(Error::invalid(message)),
        }
    }

    /// The input for a picture of a classifier that has `classes` classes.
    ///
    /// # Errors
    /// The picture's true label is none of the classes, or it cannot be [read](Self::load) or [made
    /// fit](Preprocess::apply); the message names it.
    pub fn load_for(
        &self,
        preprocess: &Preprocess,
        classes: usize,
        item: &Item,
    ) -> Result<Picture> {
        let label = item.label.filter(|label| *label >= classes);
        let prepared = match label {
            Some(label) => Err(Error::invalid(format!(
                "has label {label}; the classifier has {classes} classes, from 0 on"
            ))),
            None => self
                .load(item)
                .and_then(|picture| preprocess.apply(picture)),
        };
        prepared.map_err(|error| error.about(&item.id))
    }
}

/// An input's own name: the last part of its path.
fn own_name(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| id_of(Path::new(name)));
    name(path)
        .or_else(|| name(&path.canonicalize().ok()?))
        .unwrap_or_else(|| "input".into())
}
