//! An ONNX classifier with the preprocessing of its pictures.

use std::path::{Path, PathBuf};

use serde_json::json;
use xxhash_rust::xxh3::Xxh3;

use crate::classifier::{Graph, InputLayout, LoadOptions};
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::picture::preprocess::Overrides;
use crate::picture::sidecar::Sidecar;
use crate::picture::{ImageShape, Normalization, Preprocess, Size};

/// A loaded classifier with its preprocessing, independent of any device.
#[derive(Debug)]
pub struct Classifier {
    path: PathBuf,
    /// The graph, which takes pixels in `[0, 1]`: it contains the normalization.
    graph: Graph,
    preprocess: Preprocess,
    hash: String,
    /// The files that it was read from.
    files: Vec<PathBuf>,
}

/// How a classifier is opened.
#[derive(Clone, Debug, Default)]
pub struct ClassifierOptions {
    /// The file that describes the preprocessing.
    pub sidecar: SidecarChoice,
    /// What overrides that description, or replaces it.
    pub overrides: Overrides,
    /// The order of the axes of the model's input, where its shape leaves that open.
    pub input_layout: Option<InputLayout>,
    /// The name of the output that has the logits, where the model has several.
    pub output_name: Option<String>,
}

/// Which preprocessing file belongs to a classifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SidecarChoice {
    /// `preprocessor_config.json`, or else `config.json`, in the classifier's folder, or above it where that is
    /// called `onnx`, if it exists.
    #[default]
    Beside,
    /// This file.
    File(PathBuf),
    /// No file.
    Ignore,
}

impl Classifier {
    /// Opens an ONNX file, with the preprocessing that a `preprocessor_config.json` (Hugging Face) or `config.json`
    /// (timm) beside it describes.
    ///
    /// # Errors
    /// The model cannot be run, does not take RGB pictures, or contradicts its preprocessing.
    pub fn open(path: impl AsRef<Path>) -> Result<Classifier> {
        Classifier::open_with(path, &ClassifierOptions::default())
    }

    /// Opens an ONNX file like [`open`](Self::open), with options.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); a sidecar that cannot be read.
    pub fn open_with(path: impl AsRef<Path>, options: &ClassifierOptions) -> Result<Classifier> {
        let path = path.as_ref();
        let sidecar = match &options.sidecar {
            SidecarChoice::Ignore => None,
            SidecarChoice::File(path) => Some(Sidecar::open(path)?),
            SidecarChoice::Beside => Sidecar::beside(path)?,
        };
        if let Some(sidecar) = &sidecar {
            log::info!("preprocessing as {} says", sidecar.path.display());
            if !sidecar.ignored.is_empty() {
                log::warn!(
                    "{}: its {} may change pixels, and {} not applied: prepare the pictures yourself if so",
                    sidecar.path.display(),
                    sidecar.ignored.join(", "),
                    if sidecar.ignored.len() == 1 {
                        "is"
                    } else {
                        "are"
                    },
                );
            }
        }
        if let Some(sidecar) = &sidecar
            && let Some(Normalization { mean, std }) = sidecar.normalization
            && mean.iter().chain(&std).any(|value| value.abs() > 1.0)
        {
            log::warn!(
                "{}: its mean or standard deviation is above 1 for pixels from 0 to 1: probably it is for pixels from \
                 0 to 255, which do_rescale says they are not",
                sidecar.path.display()
            );
        }
        let described = sidecar.as_ref().and_then(|sidecar| sidecar.geometry.size);
        let size = options.overrides.size.or(described);
        let mut graph = Graph::load(
            path,
            &LoadOptions {
                image_size: size.map(|size| (size.height, size.width)),
                input_layout: options.input_layout,
                output_name: options.output_name.clone(),
            },
        )?;
        for warning in &graph.warnings {
            log::warn!("{warning}");
        }
        let shape = graph.input_shape();
        if shape.channels != 3 {
            return Err(Error::file(
                path,
                format!(
                    "takes pictures of {} channel, and backstitch works on RGB",
                    shape.channels
                ),
            ));
        }
        let fixed = Size {
            height: shape.height,
            width: shape.width,
        };
        let preprocess = Preprocess::resolve(sidecar.as_ref(), &options.overrides, Some(fixed))?;
        // Each goes in front of what is there: pixels are normalized as RGB, and then turned round.
        if preprocess.bgr {
            graph.reverse_channels();
        }
        if let Some(Normalization { mean, std }) = preprocess.normalization {
            graph.normalize_input(&mean, &std);
        }
        let mut files = vec![path.to_owned()];
        files.extend(match &options.sidecar {
            SidecarChoice::Beside => Sidecar::candidates(path),
            SidecarChoice::Ignore | SidecarChoice::File(_) => vec![],
        });
        files.extend(sidecar.map(|sidecar| sidecar.path));
        files.extend(graph.external.iter().cloned());
        Ok(Classifier {
            path: path.to_owned(),
            graph,
            preprocess,
            hash: hash(path)?,
            files,
        })
    }

    /// The ONNX file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every file that it was read from: the ONNX file, external data, the description of the preprocessing.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Shape of the input: three channels, height and width in pixels.
    pub fn shape(&self) -> ImageShape {
        self.graph.input_shape()
    }

    /// Number of classes; labels are from 0 to one less.
    pub fn classes(&self) -> usize {
        self.graph.classes()
    }

    /// How pictures are made its input.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The graph that engines run; it takes pixels in `[0, 1]`.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The ONNX file's XXH3 hash of 128 bits, in hexadecimal; external data does not count.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What `run.json` records of it: its [`hash`](Self::hash), by which a run resumes with the same model only, what
    /// of the file it stands for, and the preprocessing.
    pub fn describe(&self) -> serde_json::Value {
        json!({
            "hash": self.hash,
            "source": self.graph.source,
            "preprocess": self.preprocess,
        })
    }
}

/// A file's XXH3 hash, in hexadecimal.
fn hash(path: &Path) -> Result<String> {
    struct Sink(Xxh3);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Xxh3::new());
    std::io::copy(&mut open_regular(path)?, &mut sink).map_err(Error::io(path))?;
    Ok(format!("{:032x}", sink.0.digest128()))
}
