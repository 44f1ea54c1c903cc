//! `backstitch attack`.

use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::inputs::Inputs;
use super::model::{Model, Victim};
use super::progress::Progress;
use super::run_folder::RunFolderArgs;
use super::values::fraction;
use super::{Global, Outcome, device, interrupt};
use crate::attack::{AttackOptions, Attacked, Method, Target, attack};
use crate::backend::{Backend, ClassifierEngine};
use crate::error::{Error, Result};
use crate::io::metrics::{psnr, ssim};
use crate::io::output::{Pixels, RunDescription, RunState};
use crate::io::{Dataset, ImageRecord, Item, Picture, RunFolder, SaveFormat};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub inputs: Inputs,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub run: RunFolderArgs,
    #[command(flatten)]
    pub attack: AttackArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Attack")]
pub struct AttackArgs {
    /// The attack; its defaults are torchattacks'
    #[arg(long, value_enum, default_value_t = Method::Pgd)]
    pub method: Method,
    /// Largest size of the perturbation, for pixels in [0, 1]: 0.03 or 4/255 [default: 8/255, or 1 for
    /// pgd-l2]
    #[arg(long, value_parser = fraction)]
    pub eps: Option<f32>,
    /// Size of a step [default: 2/255, or 0.2 for pgd-l2]
    #[arg(long, value_parser = fraction)]
    pub step_size: Option<f32>,
    /// Number of steps [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,
    /// Start at the image itself instead of at a random point of the ball
    #[arg(long)]
    pub no_random_start: bool,
    /// Lead to this label, or to the one the classifier finds least likely, instead of away from the
    /// true one
    #[arg(long, value_name = "LABEL|least-likely", value_parser = target)]
    pub target: Option<Target>,
    /// Seed of the random start
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn target(text: &str) -> Result<Target, String> {
    match (text, text.parse()) {
        ("least-likely", _) => Ok(Target::LeastLikely),
        (_, Ok(label)) => Ok(Target::Class(label)),
        _ => Err("write a label's number, from 0 on, or least-likely".into()),
    }
}

impl AttackArgs {
    /// The options, for a classifier of `classes` classes.
    ///
    /// # Errors
    /// A number that cannot be used, or one that the method has no use for.
    fn options(&self, save: SaveFormat, classes: usize) -> Result<AttackOptions> {
        let mut options = AttackOptions::new(self.method);
        options.eps = self.eps.unwrap_or(options.eps);
        if self.method == Method::Fgsm {
            if self.steps.is_some() || self.step_size.is_some() {
                return Err(Error::invalid(
                    "fgsm is one step as long as --eps; use --method bim for --steps and --step-size",
                ));
            }
            options.alpha = options.eps;
        }
        options.alpha = self.step_size.unwrap_or(options.alpha);
        options.steps = self.steps.map_or(options.steps, |steps| steps as usize);
        options.random_start &= !self.no_random_start;
        options.target = self.target.unwrap_or(options.target);
        options.seed = self.seed;
        options.eight_bit = save == SaveFormat::Png;
        options.validate(classes)?;
        Ok(options)
    }
}

/// Attacks every picture into the run folder.
pub fn run(args: &Args, global: &Global) -> Result<Outcome> {
    let dataset = args.inputs.open()?;
    let victim = args.model.load()?;
    let run = Run {
        args,
        dataset: &dataset,
        victim: &victim,
    };
    device::run(run, global)
}

struct Run<'a> {
    args: &'a Args,
    dataset: &'a Dataset,
    victim: &'a Victim,
}

impl device::Command for Run<'_> {
    fn run_on<B: Backend>(self, backend: &B) -> Result<Outcome> {
        let Run {
            args,
            dataset,
            victim,
        } = self;
        let batch = backend.classifier_batch();
        let mut classifier = backend.classifier(&victim.graph, batch)?;
        let options = args.attack.options(args.run.save, classifier.classes())?;
        let description = RunDescription {
            command: "attack",
            configuration: json!({ "classifier": victim.describe(), "attack": options }),
            more: Map::from_iter([("device".into(), Value::from(backend.name()))]),
        };
        let stop = interrupt::catch()?;
        let folder = RunFolder::open(&args.run.options(), description, dataset)?;
        let open = || dataset.items().filter(|item| !folder.is_finished(&item.id));
        let progress = Progress::new(open().count());
        let mut open = open();
        let shape = classifier.input_shape();
        let mut fooled = 0;
        let mut state = RunState::Done;
        loop {
            let items: Vec<Item> = open.by_ref().take(batch).collect();
            if items.is_empty() {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                state = RunState::Interrupted;
                break;
            }
            let (ready, broken) = load(victim, dataset, &items, classifier.classes());
            for (item, error) in &broken {
                folder.record(ImageRecord::failed(item, error), None)?;
                progress.failed(error);
            }
            let (items, pictures): (Vec<&Item>, Vec<Picture>) = ready.into_iter().unzip();
            let labels: Vec<Option<usize>> = items.iter().map(|item| item.label).collect();
            let attacked = attack(backend, &mut classifier, &options, &pictures, &labels)?;
            for ((item, picture), attacked) in items.into_iter().zip(&pictures).zip(attacked) {
                if let Err(error) = attacked.input.check() {
                    let error = error.about(&item.id);
                    folder.record(ImageRecord::failed(item, &error), None)?;
                    progress.failed(&error);
                    continue;
                }
                fooled += usize::from(attacked.success);
                let pixels = Pixels {
                    shape,
                    input: &picture.pixels,
                    output: &attacked.pixels,
                };
                folder.record(record(item, picture, &attacked), Some(pixels))?;
                progress.done();
            }
        }
        let more = Map::from_iter([("fooled".into(), Value::from(fooled))]);
        let counts = folder.close(state, &more)?;
        progress.finish();
        super::print(&format!(
            "{fooled} of {} attacked pictures fool the classifier",
            counts.done
        ))?;
        Ok(match state {
            RunState::Interrupted => Outcome::Interrupted,
            _ => Outcome::of(counts),
        })
    }
}

/// Pictures that can be attacked, and those that cannot.
type Loaded<'i> = (Vec<(&'i Item, Picture)>, Vec<(&'i Item, Error)>);

fn load<'i>(victim: &Victim, dataset: &Dataset, items: &'i [Item], classes: usize) -> Loaded<'i> {
    let (mut ready, mut broken) = (Vec::new(), Vec::new());
    for item in items {
        match victim.preprocess.load(dataset, item) {
            Ok(_) if item.label.is_some_and(|label| label >= classes) => {
                let label = item.label.unwrap_or_default();
                let message =
                    format!("has label {label}; the classifier has {classes} classes, from 0 on");
                broken.push((item, Error::file(&item.id, message)));
            }
            Ok(picture) => ready.push((item, picture)),
            Err(error) => broken.push((item, error)),
        }
    }
    (ready, broken)
}

/// The line of `results.jsonl` for an attacked picture.
fn record(item: &Item, picture: &Picture, attacked: &Attacked) -> ImageRecord {
    let more = [
        ("success", json!(attacked.success)),
        ("aim", json!(attacked.aim)),
        ("linf", json!(attacked.linf)),
        ("l2", json!(attacked.l2)),
    ];
    ImageRecord {
        input_label: Some(attacked.input.label()),
        input_confidence: Some(attacked.input.confidence() as f32),
        output_label: Some(attacked.output.label()),
        output_confidence: Some(attacked.output.confidence() as f32),
        psnr: Some(psnr(&attacked.pixels, &picture.pixels)),
        ssim: Some(ssim(picture.shape, &attacked.pixels, &picture.pixels)),
        more: more
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect(),
        ..ImageRecord::of(item)
    }
}
