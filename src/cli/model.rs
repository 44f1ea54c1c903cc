//! The classifier and how pictures are prepared for it.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::values::{channels, positive_channels, share};
use crate::error::{Error, Result};
use crate::io::picture::open_regular;
use crate::io::preprocess::{Overrides, Preprocess, Size};
use crate::io::resample::Filter;
use crate::io::sidecar::Sidecar;

#[derive(Clone, Debug, clap::Args)]
pub struct Model {
    /// The classifier, an ONNX file
    #[arg(long, value_name = "FILE")]
    pub classifier: PathBuf,
    #[command(flatten)]
    pub preprocessing: Preprocessing,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Preprocessing")]
pub struct Preprocessing {
    /// timm config.json or Hugging Face preprocessor_config.json to use [default:
    /// preprocessor_config.json, or else config.json, in the classifier's folder]
    #[arg(long, value_name = "FILE", conflicts_with = "no_sidecar")]
    pub sidecar: Option<PathBuf>,
    /// Use no such file
    #[arg(long)]
    pub no_sidecar: bool,
    /// Resize to the classifier's input size, height first; pictures that have it stay as they are
    #[arg(long, value_name = "HxW")]
    pub size: Option<Size>,
    /// Share of the resized picture's shorter side that the centre crop keeps [default: the sidecar's,
    /// or 1]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub crop_pct: Option<f64>,
    /// How to resize [default: the sidecar's, or bilinear]
    #[arg(long, value_enum)]
    pub interpolation: Option<Filter>,
    /// What the classifier subtracts from pixels in [0, 1]
    #[arg(long, value_name = "R,G,B", value_parser = channels, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// What the classifier then divides by
    #[arg(long, value_name = "R,G,B", value_parser = positive_channels)]
    pub std: Option<[f32; 3]>,
}

impl Model {
    /// Joins the sidecar, the flags and the input size that the model fixes.
    ///
    /// # Errors
    /// As [`Preprocess::resolve`] and [`Sidecar::open`].
    pub fn preprocess(&self, fixed: Option<Size>) -> Result<Preprocess> {
        let flags = &self.preprocessing;
        let sidecar = match &flags.sidecar {
            _ if flags.no_sidecar => None,
            Some(path) => Some(Sidecar::open(path)?),
            None => Sidecar::beside(&self.classifier)?,
        };
        if let Some(sidecar) = &sidecar {
            log::info!("preprocessing as {} says", sidecar.path.display());
        }
        let overrides = Overrides {
            size: flags.size,
            crop_pct: flags.crop_pct,
            filter: flags.interpolation,
            mean: flags.mean,
            std: flags.std,
        };
        Preprocess::resolve(sidecar.as_ref(), &overrides, fixed)
    }

    /// The model file's XXH3 hash, in hexadecimal: a run resumes with the same model only.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn hash(&self) -> Result<String> {
        hash(&self.classifier)
    }
}

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
