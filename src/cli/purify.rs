//! `backstitch purify`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::defense::DefenseArgs;
use super::inputs::Inputs;
use super::model::Model;
use super::progress::Progress;
use super::run_folder::RunFolderArgs;
use super::{Global, Outcome, device, interrupt, messages};
use crate::error::Result;
use crate::input::Dataset;
use crate::purifier::Purifier;
use crate::run::report::Trajectories;
use crate::run::{ImageRecord, Phase, Pixels, RunDescription, RunFolder, RunState, SaveFormat};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub run: RunFolderArgs,
    #[command(flatten)]
    pub defense: DefenseArgs,
}

/// Purifies every picture into the run folder.
pub fn run(args: &Args, global: &Global) -> Result<Outcome> {
    let outputs = args.run.outputs(global);
    let dataset = args.inputs.open(&outputs, args.run.existing.overwrite)?;
    let classifier = args.model.open(&outputs)?;
    device::run(global, |devices| {
        let purifier = args
            .defense
            .builder(classifier, devices, |options| {
                options.eight_bit = args.run.save == SaveFormat::Png;
                options.whole_maps = !args.run.no_report;
            })?
            .build()?;
        purify(args, &dataset, purifier)
    })
}

/// Purifies every picture of `dataset` with `purifier`, which has the options of `args`.
///
/// # Errors
/// The run folder cannot be written; the last device failed; the user stopped it.
pub fn purify(args: &Args, dataset: &Dataset, mut purifier: Purifier) -> Result<Outcome> {
    let classifier = purifier.shared_classifier();
    let mut description = RunDescription {
        command: "purify",
        configuration: json!({
            "classifier": classifier.describe(),
            "defense": purifier.options(),
            "precision": purifier.precision(),
        }),
        more: Map::from_iter([
            ("device".into(), Value::from(purifier.devices().join(", "))),
            ("plan".into(), json!(purifier.plans())),
        ]),
    };
    description.more.extend(messages::warned());
    let stop = interrupt::catch()?;
    let folder = RunFolder::open(args.run.options()?, description, dataset)?;
    let status = folder.status().clone();
    let progress = Progress::new(&status);
    let pictures = folder.unfinished(dataset).map(|item| {
        let load = || dataset.load_for(classifier.preprocess(), classifier.classes(), &item);
        let picture = status.time(Phase::Decode, load);
        (item, picture)
    });
    let (usage, ended) = purifier.purify_stream(
        pictures,
        &|| stop.load(Ordering::Relaxed),
        || dataset.end(),
        |item, purified, seconds| match purified {
            Ok(purified) => {
                status.spend(Phase::Compute, Duration::from_secs_f64(seconds));
                let record = ImageRecord::purified(&item, &purified, seconds);
                let pixels = Pixels {
                    shape: purified.input.shape,
                    input: &purified.input.pixels,
                    output: &purified.outcome.pixels,
                };
                let trajectories = match args.run.no_report {
                    true => None,
                    false => Trajectories::new(&purified.outcome, item.label),
                };
                folder.record_with(record, Some(pixels), trajectories.as_ref())?;
                progress.done();
                Ok(())
            }
            Err(error) => {
                let error = error.about(&item.id);
                folder.record(ImageRecord::failed(&item, messages::line(&error)), None)?;
                progress.failed(&error);
                Ok(())
            }
        },
    );
    let state = match &ended {
        Ok(()) => RunState::Done,
        Err(_) => RunState::Interrupted,
    };
    let more = Map::from_iter([
        ("probes".into(), purifier.classified().into()),
        ("engine_busy".into(), usage.engine_busy.into()),
    ]);
    status.spend_devices(&usage.seconds_by_phase);
    let tally = status.tally();
    let closed = folder.close(state, &more);
    progress.finish();
    let counts = ended.and(closed)?;
    for line in tally.lines() {
        args.run.follow.print(&line)?;
    }
    Ok(Outcome::of(counts))
}
