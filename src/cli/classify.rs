//! `backstitch classify`.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::batches::in_batches;
use super::inputs::Inputs;
use super::model::Model;
use super::run_folder::FollowArgs;
use super::{Global, Outcome, device, interrupt, messages};
use crate::defense::{Oracle, Reading};
use crate::error::{Error, Result};
use crate::input::{Dataset, Item, RowWriter};
use crate::purifier::Classifier;
use crate::run::{Exporter, Phase, RunState, Status, Tally};

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
    #[command(flatten)]
    pub follow: FollowArgs,
}

/// Classes that are printed for a picture.
const TOP: usize = 5;

/// Prints what the classifier says of every picture.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Outcome> {
    let outputs = global.outputs().file("logits", args.logits.as_deref());
    let outputs = args.follow.outputs(outputs);
    let dataset = args.inputs.open(&outputs, false)?;
    let classifier = args.model.open(&outputs)?;
    device::run(global, |devices| {
        let mut oracle = classifier.on(&devices.only("classify")?)?;
        classify(args, &dataset, &classifier, &mut *oracle)
    })
}

fn classify(
    args: &Args,
    dataset: &Dataset,
    classifier: &Classifier,
    oracle: &mut dyn Oracle,
) -> Result<Outcome> {
    let classes = oracle.classes();
    let mut writer = args
        .logits
        .as_deref()
        .map(|path| RowWriter::create(path, classes))
        .transpose()?;
    let stop = interrupt::catch()?;
    let total = dataset.as_stream().is_none().then(|| dataset.len());
    let status = Status::new("classify", dataset.shard(), total, 0, Tally::default());
    let status = Arc::new(status);
    let exporter = args.follow.metrics.clone();
    let exporter = exporter.map(|path| Exporter::start(path, status.clone()));
    let exporter = exporter.transpose()?;
    let mut copy = args.follow.copy()?;
    let (mut labeled, mut right) = (0, 0);
    let pictures = dataset.items().map(|item| {
        let load = || dataset.load_for(classifier.preprocess(), classifier.classes(), &item);
        let picture = status.time(Phase::Decode, load);
        (item, picture)
    });
    let ended = in_batches(dataset, pictures, oracle.batch(), stop, |loaded| {
        let readable = loaded
            .iter()
            .filter_map(|(_, picture)| picture.as_ref().ok());
        let images: Vec<&[f32]> = readable.map(|picture| &picture.pixels[..]).collect();
        let readings = status.time(Phase::Compute, || oracle.classify(&images))?;
        let mut readings = readings.into_iter();
        for (item, picture) in loaded {
            let reading = picture.and_then(|_| {
                readings
                    .next()
                    .ok_or_else(|| Error::invalid("was not classified"))
            });
            if let Some(writer) = &mut writer {
                match &reading {
                    Ok(reading) => writer.push(reading.logits())?,
                    Err(_) => writer.push(&vec![f32::NAN; classes])?,
                }
            }
            let reading = reading.and_then(|reading| {
                let checked = reading.check().map_err(|error| error.about(&item.id));
                checked.map(|()| reading)
            });
            status.count(reading.is_err());
            if let Some(copy) = &mut copy {
                copy.write(format!("{}\n", object(&item, &reading)).as_bytes())?;
            }
            let reading = match reading {
                Ok(reading) => reading,
                Err(error) => {
                    log::error!("{}", messages::line(&error));
                    if args.json && !args.follow.jsonl_is_stdout() {
                        super::print(&object(&item, &Err(error)).to_string())?;
                    }
                    continue;
                }
            };
            if let Some(label) = item.label {
                labeled += 1;
                right += usize::from(reading.label() == label);
            }
            match args.json {
                _ if args.follow.jsonl_is_stdout() => {}
                true => super::print(&object(&item, &Ok(reading)).to_string())?,
                false => super::print(&text(&item, &reading))?,
            }
        }
        Ok(())
    });
    if let Some(exporter) = exporter {
        let state = ended.as_ref().unwrap_or(&RunState::Interrupted);
        exporter.finish(*state)?;
    }
    if ended? == RunState::Interrupted {
        return Ok(Outcome::Interrupted);
    }
    if let Some(writer) = writer {
        writer.finish()?;
    }
    if labeled > 0 && !args.json {
        args.follow.print(&format!(
            "{right} of {labeled} with a true label are classified rightly"
        ))?;
    }
    Ok(Outcome::of(status.counts()))
}

/// What is known of a picture, as JSON.
fn object(item: &Item, reading: &Result<Reading>) -> Value {
    let mut object = json!({ "image": item.id, "label": item.label });
    match reading {
        Ok(reading) => {
            let class = |(label, confidence)| json!({ "label": label, "confidence": confidence });
            object["top"] = reading.top(TOP).into_iter().map(class).collect();
        }
        Err(error) => object["error"] = messages::line(error).into(),
    }
    object
}

/// A picture's most probable classes, for people.
fn text(item: &Item, reading: &Reading) -> String {
    let class = |(label, confidence)| format!("{label} {:.1}%", 100.0 * confidence);
    let classes: Vec<String> = reading.top(TOP).into_iter().map(class).collect();
    format!("{}: {}", item.id.escape_debug(), classes.join(", "))
}
