//! The classifier and how pictures are prepared for it.

use std::path::PathBuf;

use super::values::{channels, channels_off_by_255, positive_channels, share};
use crate::classifier::InputLayout;
use crate::error::Result;
use crate::picture::Size;
use crate::picture::preprocess::Overrides;
use crate::picture::resample::Filter;
use crate::purifier::{Classifier, ClassifierOptions, SidecarChoice};
use crate::run::Outputs;

#[derive(Clone, Debug, clap::Args)]
pub struct Model {
    /// The classifier, an ONNX file
    #[arg(long, value_name = "FILE")]
    pub classifier: PathBuf,
    /// Order of the axes of the classifier's input, where its shape leaves that open
    #[arg(long, value_enum)]
    pub input_layout: Option<InputLayout>,
    /// The output that has the logits, where the classifier has several [default: logits or output, or the
    /// only one of two axes]
    #[arg(long, value_name = "NAME")]
    pub output_name: Option<String>,
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
    /// Share of the resized picture's shorter side that the center crop keeps [default: the sidecar's,
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
    /// Opens the classifier with its preprocessing.
    ///
    /// # Errors
    /// Those of [`Classifier::open_with`]; one of its files is one of `outputs`.
    pub(crate) fn open(&self, outputs: &Outputs) -> Result<Classifier> {
        let flags = &self.preprocessing;
        for (flag, values) in [("--mean", flags.mean), ("--std", flags.std)] {
            if let Some(said) = values.and_then(|values| channels_off_by_255(flag, values)) {
                log::warn!("{said}");
            }
        }
        let options = ClassifierOptions {
            sidecar: match &flags.sidecar {
                _ if flags.no_sidecar => SidecarChoice::Ignore,
                Some(path) => SidecarChoice::File(path.clone()),
                None => SidecarChoice::Beside,
            },
            overrides: Overrides {
                size: flags.size,
                crop_pct: flags.crop_pct,
                filter: flags.interpolation,
                mean: flags.mean,
                std: flags.std,
            },
            input_layout: self.input_layout,
            output_name: self.output_name.clone(),
        };
        let classifier = Classifier::open_with(&self.classifier, &options)?;
        outputs.check(classifier.files())?;
        Ok(classifier)
    }
}
