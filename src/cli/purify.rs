//! `backstitch purify`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::defense::DefenseArgs;
use super::device::OnPictures;
use super::inputs::Inputs;
use super::model::Model;
use super::progress::Progress;
use super::run_folder::RunFolderArgs;
use super::{Global, Outcome, device, interrupt, messages};
use crate::backend::Backend;
use crate::defense::Prober;
use crate::error::Result;
use crate::input::Item;
use crate::picture::{psnr, ssim};
use crate::run::report::Trajectories;
use crate::run::{ImageRecord, RunFolder, SaveFormat};
use crate::run::{Phase, Pixels, RunDescription, RunState};
use crate::scheduler::{self, Plan, Purified};

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
    device::run_on_pictures(args, &args.inputs, &args.model, global)
}

impl device::Command for OnPictures<'_, Args> {
    fn run_on<B: Backend>(self, backends: &[B], memory: Option<u64>) -> Result<Outcome> {
        let OnPictures {
            args,
            dataset,
            victim,
        } = self;
        let shape = victim.graph.input_shape();
        let mut options = args.defense.options(shape.channels)?;
        options.eight_bit = args.run.save == SaveFormat::Png;
        options.whole_maps = !args.run.no_report;
        let (mut plans, mut defenses) = (vec![], vec![]);
        for backend in backends {
            let limits = args.defense.limits(memory);
            let classes = victim.graph.classes();
            let plan = Plan::new(backend, &options, shape, classes, limits)?;
            let batch = backend.classifier_batch();
            let prober = Prober::new(backend, backend.classifier(&victim.graph, batch)?, batch)?;
            let (plan, defense) = plan.defense(backend, prober, options.clone())?;
            plans.push(plan);
            defenses.push(defense);
        }
        let names: Vec<String> = backends.iter().map(Backend::name).collect();
        let description = RunDescription {
            command: "purify",
            configuration: json!({
                "classifier": victim.describe(),
                "defense": options,
                "precision": backends[0].precision(),
            }),
            more: Map::from_iter([
                ("device".into(), Value::from(names.join(", "))),
                ("plan".into(), json!(plans)),
            ]),
        };
        let stop = interrupt::catch()?;
        let folder = RunFolder::open(args.run.options()?, description, dataset)?;
        let status = folder.status().clone();
        let progress = Progress::new(&status);
        let pictures = folder.unfinished(dataset).map(|item| {
            let load = || dataset.load_for(&victim.preprocess, &item);
            let picture = status.time(Phase::Decode, load);
            (item, picture)
        });
        let (usage, ended) = scheduler::run(
            &mut defenses,
            pictures,
            &|| stop.load(Ordering::Relaxed),
            || dataset.end(),
            |item, purified, seconds| match purified {
                Ok(Purified { picture, outcome }) => {
                    status.spend(Phase::Compute, Duration::from_secs_f64(seconds));
                    let record = record(&item, &picture, &outcome, seconds);
                    let pixels = Pixels {
                        shape,
                        input: &picture.pixels,
                        output: &outcome.pixels,
                    };
                    let trajectories = match args.run.no_report {
                        true => None,
                        false => Trajectories::new(&outcome, item.label),
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
        let probes: u64 = defenses.iter().map(|defense| defense.probes()).sum();
        let more = Map::from_iter([
            ("probes".into(), probes.into()),
            ("engine_busy".into(), usage.engine_busy.into()),
        ]);
        let phases = usage.seconds_by_phase;
        for (phase, seconds) in [
            (Phase::WaitForPictures, phases.waiting_for_pictures),
            (Phase::Dip, phases.dip),
            (Phase::Probe, phases.probing),
            (Phase::Restore, phases.restoring),
            (Phase::WaitForWriters, phases.waiting_for_writers),
        ] {
            status.spend(phase, Duration::from_secs_f64(seconds));
        }
        let tally = status.tally();
        let closed = folder.close(state, &more);
        progress.finish();
        let counts = ended.and(closed)?;
        for line in tally.lines() {
            args.run.follow.print(&line)?;
        }
        Ok(Outcome::of(counts))
    }
}

/// The line of `results.jsonl` for a purified picture.
fn record(
    item: &Item,
    picture: &crate::picture::Picture,
    outcome: &crate::defense::Outcome,
    seconds: f64,
) -> ImageRecord {
    let mut more = Map::new();
    more.insert("recovered_label".into(), json!(outcome.recovered_label));
    more.insert("support".into(), json!(outcome.support));
    if let Some(consensus) = &outcome.consensus {
        more.insert("consensus".into(), json!(consensus));
    }
    if let Some(fallback) = outcome.fallback {
        more.insert("fallback".into(), json!(fallback));
    }
    ImageRecord {
        input_label: Some(outcome.input.label()),
        input_confidence: Some(outcome.input.confidence() as f32),
        output_label: Some(outcome.output.label()),
        output_confidence: Some(outcome.output.confidence() as f32),
        verdict: Some(outcome.verdict),
        score: Some(outcome.score as f32),
        psnr: Some(psnr(&outcome.pixels, &picture.pixels)),
        ssim: Some(ssim(picture.shape, &outcome.pixels, &picture.pixels)),
        iterations: Some(outcome.iterations),
        seconds: Some(seconds),
        restarts: Some(outcome.restarts.clone()),
        more,
        ..ImageRecord::of(item)
    }
}
