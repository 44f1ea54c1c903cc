//! Pictures that others attacked: pairs of a clean and an attacked picture with their true label.
//!
//! | input | attacked pictures | clean counterparts | labels | classes that the attack met |
//! | --- | --- | --- | --- | --- |
//! | the folder of a run of `attack` | its outputs | none | `label` | none |
//! | `.jsonl` manifest, or a folder with `manifest.jsonl` | lines whose `attack` is not `none` | `clean`, or the line `clean/…` for `ATTACK/…` | `label` | `predicted` |
//! | `.npz` | `adv`, `x_adv`, `adv_inputs`, `adv_images`, `adv_complete`, `images` | `clean`, `x`, `x_clean`, `clean_inputs`, `inputs` | `labels`, `label`, `y`, `target`, `targets` | `preds`, `predicted` |
//! | `.npy` | the file | `clean.npy` beside it | `labels.npy` beside it | `preds.npy` beside it |
//! | `.pt` of torchattacks' `save` or AutoAttack's evaluation, or a tensor alone | the names of `.npz`, or the tensor | as `.npz` | as `.npz`, or `labels.npy` or `labels.pt` beside it | as `.npz` |
//!
//! Arrays and tensors have the shapes N×C×H×W or N×H×W×C with 1 or 3 channels, and are read as those of all other
//! inputs. torchattacks rounds down when it saves integers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::array_names::{ADVERSARIAL, CLEAN, LABELS, PREDICTED, beside_array, no_pictures};
use super::arrays::{ArrayFile, Layout, labels_beside, open_numbers, open_picture};
use super::manifest::Manifest;
use super::npz::Npz;
use super::torch::TorchFile;
use crate::error::{Error, Result};
use crate::picture::Picture;

/// An attacked picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Attacked {
    /// Unique in the set: the manifest's `file`, or `adv.npz#17`.
    pub id: String,
    /// Name of the attack: the manifest's, else the input's own name without its extension.
    pub attack: String,
    /// The true label.
    pub label: usize,
    /// The label that the attack's victim gave the attacked picture, if the input has it.
    pub predicted: Option<usize>,
    /// The clean picture, of the same size, if the input has it.
    pub clean: Option<Picture>,
    /// The attacked picture.
    pub adversarial: Picture,
}

/// Attacked pictures, read one at a time.
#[derive(Debug)]
pub struct AttackedSet {
    rows: Vec<Row>,
    pictures: Pictures,
}

/// An attacked picture's id, attack and labels, which are known before it is read.
#[derive(Debug)]
struct Row {
    id: String,
    attack: String,
    label: usize,
    predicted: Option<usize>,
}

/// The files or arrays that hold the pictures of a set, in the order of its rows.
#[derive(Debug)]
enum Pictures {
    /// Attacked and clean files.
    Files(Vec<(PathBuf, Option<PathBuf>)>),
    Arrays(Box<ArrayFile>, Option<Box<ArrayFile>>),
}

impl AttackedSet {
    /// Opens a set of attacked pictures, without reading them. `layout` is the order of an array's axes, needed
    /// only if its shape does not determine it.
    ///
    /// # Errors
    /// The input is missing, damaged or of another format, has no attacked pictures or no labels, or its parts
    /// do not have the same length.
    pub fn open(path: &Path, layout: Option<Layout>) -> Result<AttackedSet> {
        if path.is_dir() {
            let manifest = path.join("manifest.jsonl");
            // Pictures of a run are called as in the data set that it attacked.
            let images = path.join("images");
            return match Manifest::of_run(&images, None).filter(|_| !manifest.is_file()) {
                Some(run) => of_manifest(path, &images, run),
                None => open_manifest(&manifest),
            };
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" => open_manifest(path),
            "npy" => open_npy(path, layout),
            "npz" => open_npz(path, layout),
            "pt" | "pth" => open_torch(path, layout),
            _ => Err(Error::file(
                path,
                "is no attack result that backstitch reads: .jsonl, .npy, .npz or .pt",
            )),
        }
    }

    /// Number of attacked pictures.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no pictures, which is never true after opening.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The id of the picture at `index`, below [`len`](Self::len), without reading it.
    pub fn id(&self, index: usize) -> &str {
        &self.rows[index].id
    }

    /// The attack on the picture at `index`, without reading it.
    pub fn attack(&self, index: usize) -> &str {
        &self.rows[index].attack
    }

    /// Reads the picture at `index`, below [`len`](Self::len), and its clean counterpart.
    ///
    /// # Errors
    /// One of them is missing, damaged, too large, or has values that are not valid in a picture; or the two have
    /// different sizes. The message names the file and, for an array, the picture in it.
    pub fn load(&self, index: usize) -> Result<Attacked> {
        let row = &self.rows[index];
        let (clean, adversarial) = match &self.pictures {
            Pictures::Files(files) => {
                let (adversarial, clean) = &files[index];
                let clean = clean.as_deref().map(open_picture).transpose()?;
                (clean, open_picture(adversarial)?)
            }
            Pictures::Arrays(adversarial, clean) => {
                let clean = clean.as_ref().map(|clean| clean.load(index)).transpose()?;
                (clean, adversarial.load(index)?)
            }
        };
        if let Some(clean) = &clean
            && clean.shape != adversarial.shape
        {
            return Err(Error::invalid(format!(
                "{}: is {}×{} pixels and its clean counterpart {}×{}",
                row.id,
                adversarial.shape.width,
                adversarial.shape.height,
                clean.shape.width,
                clean.shape.height
            )));
        }
        Ok(Attacked {
            id: row.id.clone(),
            attack: row.attack.clone(),
            label: row.label,
            predicted: row.predicted,
            clean,
            adversarial,
        })
    }

    /// Every file that the set at `path` is read from.
    pub fn files(&self, path: &Path) -> impl Iterator<Item = PathBuf> {
        let listed = match &self.pictures {
            Pictures::Files(files) => files.as_slice(),
            Pictures::Arrays(..) => &[],
        };
        let listed = listed
            .iter()
            .flat_map(|(adversarial, clean)| [Some(adversarial), clean.as_ref()]);
        let lists = ["manifest.jsonl", "results.jsonl"].map(|name| path.join(name));
        std::iter::once(path.to_owned())
            .chain(lists)
            .chain(beside_array(path))
            .chain(listed.flatten().cloned())
    }

    /// All pictures, in order, each read when it is asked for.
    pub fn iter(&self) -> impl Iterator<Item = Result<Attacked>> + '_ {
        (0..self.len()).map(|index| self.load(index))
    }

    /// The set of arrays of an input.
    fn of_arrays(
        path: &Path,
        adversarial: ArrayFile,
        clean: Option<ArrayFile>,
        labels: Option<Vec<usize>>,
        predicted: Option<Vec<usize>>,
    ) -> Result<AttackedSet> {
        let count = adversarial.len();
        let labels = labels.ok_or_else(|| {
            let names = LABELS.join(", ");
            Error::file(path, format!("has no true labels; they are called {names}"))
        })?;
        let lengths = [
            ("labels", Some(labels.len())),
            ("predictions", predicted.as_ref().map(Vec::len)),
            ("clean pictures", clean.as_ref().map(ArrayFile::len)),
        ];
        for (what, length) in lengths {
            if length.is_some_and(|length| length != count) {
                let length = length.unwrap_or(0);
                let message = format!("has {length} {what} for {count} attacked pictures");
                return Err(Error::file(path, message));
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let attack = own_name(path);
        let row = |(index, label)| Row {
            id: format!("{name}#{index}"),
            attack: attack.clone(),
            label,
            predicted: predicted.as_ref().map(|predicted| predicted[index]),
        };
        Ok(AttackedSet {
            rows: labels.into_iter().enumerate().map(row).collect(),
            pictures: Pictures::Arrays(Box::new(adversarial), clean.map(Box::new)),
        })
    }
}

/// An input's name without its extension.
fn own_name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn open_manifest(path: &Path) -> Result<AttackedSet> {
    let base = path.parent().unwrap_or(Path::new(""));
    of_manifest(path, base, Manifest::open(path, None)?)
}

/// The attacked pictures of a manifest, whose paths begin with `base`; `path` names it and the attacks of lines that
/// name none.
fn of_manifest(path: &Path, base: &Path, manifest: Manifest) -> Result<AttackedSet> {
    let places: HashMap<PathBuf, usize> = (0..manifest.len())
        .map(|index| (manifest.path(index), index))
        .collect();
    let mut set = AttackedSet {
        rows: Vec::new(),
        pictures: Pictures::Files(Vec::new()),
    };
    let mut files = Vec::new();
    for index in 0..manifest.len() {
        let id = manifest.id(index);
        let refused = |message: String| Error::file(path, format!("{id} {message}"));
        let more = manifest.more(index);
        let text = |field: &str| match more.get(field) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(refused(format!("has {field} {other}, which is no text"))),
        };
        let attack = text("attack")?;
        if attack == Some("none") {
            continue;
        }
        let file = manifest.path(index);
        // The clean counterpart of ATTACK/x.png is clean/x.png, if that is listed.
        let listed = || {
            let own = file.strip_prefix(base).ok()?;
            let rest = own.strip_prefix(attack?).ok()?;
            let clean = base.join("clean").join(rest);
            places.contains_key(&clean).then_some(clean)
        };
        let clean = text("clean")?.map(|clean| base.join(clean)).or_else(listed);
        let predicted = match more.get("predicted") {
            None | Some(serde_json::Value::Null) => None,
            Some(value) => Some(
                value
                    .as_u64()
                    .and_then(|label| usize::try_from(label).ok())
                    .ok_or_else(|| refused(format!("has predicted {value}, which is no label")))?,
            ),
        };
        set.rows.push(Row {
            id: id.to_owned(),
            attack: attack.map_or_else(|| own_name(path), str::to_owned),
            label: manifest
                .label(index)
                .ok_or_else(|| refused("has no label, which an evaluation needs".into()))?,
            predicted,
        });
        files.push((file, clean));
    }
    if files.is_empty() {
        return Err(Error::file(path, "lists no attacked pictures"));
    }
    set.pictures = Pictures::Files(files);
    Ok(set)
}

fn open_npy(path: &Path, layout: Option<Layout>) -> Result<AttackedSet> {
    let adversarial = ArrayFile::open_npy(path, layout)?;
    let beside = |name: &str| {
        let other = path.with_file_name(name);
        (other.is_file() && other != path).then_some(other)
    };
    let clean = beside("clean.npy")
        .map(|clean| ArrayFile::open_npy(&clean, layout))
        .transpose()?;
    let Some((_, labels)) = labels_beside(path)? else {
        let message = "has no true labels: put them beside it as labels.npy";
        return Err(Error::file(path, message));
    };
    let predicted = beside("preds.npy")
        .map(|other| open_numbers(&other).and_then(|numbers| numbers.labels()))
        .transpose()?;
    AttackedSet::of_arrays(path, adversarial, clean, Some(labels), predicted)
}

fn open_npz(path: &Path, layout: Option<Layout>) -> Result<AttackedSet> {
    let mut npz = Npz::open(path)?;
    let place = npz.pictures(&ADVERSARIAL);
    let adversarial = npz.unpack(place.ok_or_else(|| no_pictures(path))?, layout)?;
    let clean = match npz.pictures(&CLEAN) {
        Some(place) => Some(npz.unpack(place, layout)?),
        None => None,
    };
    let labels = npz.labels(&LABELS, adversarial.len())?;
    let predicted = npz.labels(&PREDICTED, adversarial.len())?;
    AttackedSet::of_arrays(path, adversarial, clean, labels, predicted)
}

fn open_torch(path: &Path, layout: Option<Layout>) -> Result<AttackedSet> {
    let mut file = TorchFile::open(path)?;
    let adversarial = match file.tensor(&ADVERSARIAL)? {
        Some(adversarial) => adversarial,
        None => file.alone()?.ok_or_else(|| no_pictures(path))?,
    };
    let adversarial = ArrayFile::new(adversarial, layout)?;
    let clean = file.tensor(&CLEAN)?;
    let clean = clean
        .map(|clean| ArrayFile::new(clean, layout))
        .transpose()?;
    let mut integers = |keys: &[&str]| -> Result<Option<Vec<usize>>> {
        let tensor = file.tensor(keys)?;
        tensor.map(|tensor| tensor.labels()).transpose()
    };
    let (labels, predicted) = (integers(&LABELS)?, integers(&PREDICTED)?);
    let labels = match labels {
        Some(labels) => Some(labels),
        None => labels_beside(path)?.map(|(_, labels)| labels),
    };
    AttackedSet::of_arrays(path, adversarial, clean, labels, predicted)
}
