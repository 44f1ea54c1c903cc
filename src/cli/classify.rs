//! `backstitch classify`.

use std::path::PathBuf;

use serde_json::json;

use super::batches::in_batches;
use super::device::OnPictures;
use super::inputs::Inputs;
use super::model::Model;
use super::{Global, Outcome, device, interrupt};
use crate::backend::{At, Backend, ClassifierEngine};
use crate::defense::Reading;
use crate::error::Result;
use crate::io::Item;
use crate::io::npy::RowWriter;
use crate::io::output::RunState;

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
    fn run_on<B: Backend>(self, backends: &[B], _: Option<u64>) -> Result<Outcome> {
        let backend = device::only(backends, "classify")?;
        let OnPictures {
            args,
            dataset,
            victim,
        } = self;
        let mut batch = backend.classifier_batch();
        if dataset.as_stream().is_none() {
            batch = batch.min(dataset.len()).max(1);
        }
        let mut classifier = backend.classifier(&victim.graph, batch)?;
        let mut device = backend.allocate(classifier.input_shape(), batch)?;
        let classes = classifier.classes();
        let mut writer = args
            .logits
            .as_deref()
            .map(|path| RowWriter::create(path, classes))
            .transpose()?;
        let stop = interrupt::catch()?;
        let (mut all, mut failed, mut labelled, mut right) = (0, 0, 0, 0);
        let pictures = dataset.items().map(|item| {
            let picture = victim.preprocess.load(dataset, &item);
            (item, picture)
        });
        let ended = in_batches(dataset, pictures, batch, stop, |loaded| {
            all += loaded.len();
            let readable = || {
                loaded
                    .iter()
                    .filter_map(|(_, picture)| picture.as_ref().ok())
            };
            for (i, picture) in readable().enumerate() {
                backend.upload(&picture.pixels, &mut device, i)?;
            }
            let images: Vec<_> = (0..readable().count())
                .map(|i| At::new(&device, i))
                .collect();
            let logits = classifier.logits(&images)?;
            let mut rows = logits.chunks_exact(classes);
            for (item, picture) in &loaded {
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
            Ok(())
        });
        if ended? == RunState::Interrupted {
            return Ok(Outcome::Interrupted);
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
            failed => Outcome::SomeFailed { failed, of: all },
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
