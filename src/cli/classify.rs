//! `backstitch classify`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::device::OnPictures;
use super::inputs::Inputs;
use super::model::Model;
use super::{Global, Outcome, device, interrupt};
use crate::backend::{At, Backend, ClassifierEngine};
use crate::defense::Reading;
use crate::error::Result;
use crate::io::npy::RowWriter;
use crate::io::{Item, Picture};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub model: Model,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Write the raw logits here: float32, images x classes, in the order of the output; NaN where a
    /// picture failed
    #[arg(long, value_name = "FILE.npy")]
    pub logits: Option<PathBuf>,
}

/// Classes that are printed for a picture.
const TOP: usize = 5;

/// Prints what the classifier says of every picture.
pub fn run(args: &Args, global: &Global) -> Result<Outcome> {
    device::run_on_pictures(args, &args.inputs, &args.model, global)
}

impl device::Command for OnPictures<'_, Args> {
    fn run_on<B: Backend>(self, backends: &[B]) -> Result<Outcome> {
        let backend = device::only(backends, "classify")?;
        let OnPictures {
            args,
            dataset,
            victim,
        } = self;
        let batch = backend.classifier_batch().min(dataset.len());
        let mut classifier = backend.classifier(&victim.graph, batch)?;
        let mut device = backend.allocate(classifier.input_shape(), batch)?;
        let classes = classifier.classes();
        let mut writer = args
            .logits
            .as_deref()
            .map(|path| RowWriter::create(path, classes));
        let mut writer = writer.take().transpose()?;
        let stop = interrupt::catch()?;
        let (mut failed, mut labelled, mut right) = (0, 0, 0);
        for first in (0..dataset.len()).step_by(batch) {
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let items: Vec<Item> = (first..dataset.len().min(first + batch))
                .map(|i| dataset.item(i))
                .collect();
            let pictures: Vec<Result<Picture>> = items
                .iter()
                .map(|item| victim.preprocess.load(dataset, item))
                .collect();
            for (i, picture) in pictures.iter().flatten().enumerate() {
                backend.upload(&picture.pixels, &mut device, i)?;
            }
            let readable = pictures.iter().flatten().count();
            let images: Vec<_> = (0..readable).map(|i| At::new(&device, i)).collect();
            let logits = classifier.logits(&images)?;
            let mut rows = logits.chunks_exact(classes);
            for (item, picture) in items.iter().zip(&pictures) {
                let missing = vec![f32::NAN; classes];
                let row = match picture {
                    Ok(_) => rows.next().unwrap_or(&missing),
                    Err(error) => {
                        log::error!("{error}");
                        failed += 1;
                        &missing
                    }
                };
                if let Some(writer) = &mut writer {
                    writer.push(row)?;
                }
                if picture.is_err() {
                    continue;
                }
                let reading = Reading::new(row);
                if let Err(error) = reading.check() {
                    log::error!("{}", error.about(&item.id));
                    failed += 1;
                    continue;
                }
                if let Some(label) = item.label {
                    labelled += 1;
                    right += usize::from(reading.label() == label);
                }
                super::print(&line(args.json, item, &reading))?;
            }
        }
        if let Some(writer) = writer {
            writer.finish()?;
        }
        if labelled > 0 && !args.json {
            super::print(&format!(
                "{right} of {labelled} with a true label are classified rightly"
            ))?;
        }
        Ok(match failed {
            0 => Outcome::Done,
            failed => Outcome::SomeFailed {
                failed,
                of: dataset.len(),
            },
        })
    }
}

/// What is printed for one picture.
fn line(as_json: bool, item: &Item, reading: &Reading) -> String {
    let top = reading.top(TOP);
    if as_json {
        let top: Vec<_> = top
            .iter()
            .map(|(label, confidence)| json!({ "label": label, "confidence": confidence }))
            .collect();
        return json!({ "image": item.id, "label": item.label, "top": top }).to_string();
    }
    let classes: Vec<String> = top
        .iter()
        .map(|(label, confidence)| format!("{label} {:.1}%", 100.0 * confidence))
        .collect();
    format!("{}: {}", item.id.escape_debug(), classes.join(", "))
}
