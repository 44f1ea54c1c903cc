//! `backstitch purify`.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::defense::DefenseArgs;
use super::device::OnPictures;
use super::inputs::Inputs;
use super::model::Model;
use super::progress::Progress;
use super::run_folder::RunFolderArgs;
use super::{Global, Outcome, device, interrupt};
use crate::backend::Backend;
use crate::defense::{Prober, Verdict};
use crate::error::Result;
use crate::io::metrics::{psnr, ssim};
use crate::io::output::{Pixels, RunDescription, RunState};
use crate::io::{ImageRecord, Item, RunFolder, SaveFormat};
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
    fn run_on<B: Backend>(self, backends: &[B]) -> Result<Outcome> {
        let OnPictures {
            args,
            dataset,
            victim,
        } = self;
        let shape = victim.graph.input_shape();
        let mut options = args.defense.options(shape.channels)?;
        options.eight_bit = args.run.save == SaveFormat::Png;
        let (mut plans, mut defenses) = (vec![], vec![]);
        for backend in backends {
            let plan = Plan::new(
                backend,
                &options,
                shape,
                victim.graph.classes(),
                args.defense.capacity,
            )?;
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
        let folder = RunFolder::open(&args.run.options(), description, dataset)?;
        let open = || dataset.items().filter(|item| !folder.is_finished(&item.id));
        let progress = Progress::new(open().count());
        let tally = Mutex::new(Tally::default());
        let tally = || tally.lock().expect("no thread panics with it");
        let pictures = open().map(|item| {
            let picture = victim.preprocess.load(dataset, &item);
            (item, picture)
        });
        let (usage, ended) = scheduler::run(
            &mut defenses,
            pictures,
            &|| stop.load(Ordering::Relaxed),
            |item, purified, seconds| match purified {
                Ok(Purified { picture, outcome }) => {
                    let record = record(&item, &picture, &outcome, seconds);
                    tally().add(&record);
                    let pixels = Pixels {
                        shape,
                        input: &picture.pixels,
                        output: &outcome.pixels,
                    };
                    folder.record(record, Some(pixels))?;
                    progress.done();
                    Ok(())
                }
                Err(error) => {
                    let error = error.about(&item.id);
                    folder.record(ImageRecord::failed(&item, &error), None)?;
                    progress.failed(&error);
                    Ok(())
                }
            },
        );
        let state = match &ended {
            Ok(()) => RunState::Done,
            Err(_) => RunState::Interrupted,
        };
        let mut more = tally().describe();
        let probes: u64 = defenses.iter().map(|defense| defense.probes()).sum();
        more.insert("probes".into(), probes.into());
        more.insert("seconds_by_phase".into(), json!(usage.seconds_by_phase));
        more.insert("engine_busy".into(), usage.engine_busy.into());
        let counts = folder.close(state, &more)?;
        progress.finish();
        ended?;
        for line in tally().lines() {
            super::print(&line)?;
        }
        Ok(Outcome::of(counts))
    }
}

/// The line of `results.jsonl` for a purified picture.
fn record(
    item: &Item,
    picture: &crate::io::Picture,
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

/// Sums over a run.
#[derive(Default)]
struct Tally {
    /// By verdict: adversarial, clean, undecided.
    verdicts: [usize; 3],
    /// Pictures whose true label is known: how many, and how many the input's and output's labels are
    /// right for.
    labelled: usize,
    right_before: usize,
    right_after: usize,
}

impl Tally {
    fn add(&mut self, record: &ImageRecord) {
        if let Some(verdict) = record.verdict {
            self.verdicts[match verdict {
                Verdict::Adversarial => 0,
                Verdict::Clean => 1,
                Verdict::Undecided => 2,
            }] += 1;
        }
        if record.label.is_some() {
            self.labelled += 1;
            self.right_before += usize::from(record.input_label == record.label);
            self.right_after += usize::from(record.output_label == record.label);
        }
    }

    /// For `run.json`.
    fn describe(&self) -> Map<String, Value> {
        let [adversarial, clean, undecided] = self.verdicts;
        let mut more = Map::new();
        more.insert(
            "verdicts".into(),
            json!({ "adversarial": adversarial, "clean": clean, "undecided": undecided }),
        );
        if self.labelled > 0 {
            more.insert(
                "labelled".into(),
                json!({
                    "pictures": self.labelled,
                    "right_before": self.right_before,
                    "right_after": self.right_after,
                }),
            );
        }
        more
    }

    /// For the user.
    fn lines(&self) -> Vec<String> {
        let [adversarial, clean, undecided] = self.verdicts;
        let mut lines = vec![format!(
            "{adversarial} adversarial, {clean} clean, {undecided} undecided"
        )];
        if self.labelled > 0 {
            lines.push(format!(
                "of {} with a true label, {} were classified rightly before, {} after",
                self.labelled, self.right_before, self.right_after
            ));
        }
        lines
    }
}
