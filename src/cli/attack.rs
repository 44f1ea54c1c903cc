//! `backstitch attack`: of the classifier alone, or through the defense.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::batches::in_batches;
use super::inputs::Inputs;
use super::model::Model;
use super::progress::Progress;
use super::run_folder::RunFolderArgs;
use super::through::ThroughArgs;
use super::values::{eps_off_by_255, fraction, not_negative};
use super::{Global, Outcome, device, interrupt, messages};
use crate::attack::adaptive::Defended;
use crate::attack::{self, AttackOptions, Method, Name, Norm, Target, attack};
use crate::error::{Error, Result};
use crate::input::{Dataset, Item};
use crate::purifier::Classifier;
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
    pub attack: AttackArgs,
    #[command(flatten)]
    pub through: ThroughArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Attack")]
pub struct AttackArgs {
    /// The attack. Options that it has no use for are refused. Where 8-bit pictures are saved, what
    /// deepfool and cw find is lengthened by as much as rounding makes necessary; --save npy has it
    /// exact
    #[arg(long, value_enum, default_value_t = Name::Pgd)]
    pub method: Name,
    /// Largest size of the perturbation, for pixels in [0, 1]: 0.03 or 4/255. All but deepfool and cw
    /// [default: 8/255, as torchattacks; in the Euclidean norm 1, as its PGDL2]
    #[arg(long, value_parser = fraction)]
    pub eps: Option<f32>,
    /// Norm of the perturbation's size: apgd-ce, apgd-dlr, apgd-t, square [default: linf]
    #[arg(long, value_enum)]
    pub norm: Option<Norm>,
    /// Size of a step: all but fgsm, deepfool, cw, apgd-ce, apgd-dlr, apgd-t and
    /// square [default: 2/255, pgd-l2 0.2, as torchattacks]
    #[arg(long, value_parser = fraction)]
    pub step_size: Option<f32>,
    /// Number of steps: all but fgsm and square [default: 10, deepfool and cw 50, as torchattacks; apgd
    /// 100, as AutoAttack]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,
    /// Start at the image itself instead of at a random point of the ball: pgd, pgd-l2,
    /// pgd-views, pgd-low
    #[arg(long)]
    pub no_random_start: bool,
    /// How many random starts to try until one succeeds: apgd-ce, apgd-dlr, apgd-t, square [default: 1,
    /// as AutoAttack]
    #[arg(id = "attack_restarts", long = "restarts", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub restarts: Option<u32>,
    /// What remains of the accumulated gradient at each step: mi-fgsm, vmi-fgsm, si-ni-fgsm
    /// [default: 1, as torchattacks], di-fgsm, ti-fgsm [default: 0, as torchattacks]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    pub decay: Option<f32>,
    /// The smallest size to which an image is shrunk, as a part of its own: di-fgsm, ti-fgsm [default: 0.9, as
    /// torchattacks]
    #[arg(long, value_name = "PART", value_parser = fraction)]
    pub resize_rate: Option<f32>,
    /// Probability of shrinking the image in a step: di-fgsm, ti-fgsm [default: 0.5, as torchattacks]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    pub diversity_prob: Option<f32>,
    /// Size of the Gaussian that smooths the gradient, in pixels: ti-fgsm [default: 15, as torchattacks]
    #[arg(long, value_name = "PIXELS")]
    pub kernel_size: Option<usize>,
    /// Images around the image at which a step looks: vmi-fgsm [default: 5, as torchattacks]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1 << 16))]
    pub neighbors: Option<u32>,
    /// How far they are, as a multiple of --eps: vmi-fgsm [default: 1.5, as torchattacks]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    pub neighborhood: Option<f32>,
    /// Copies of the image, each half as bright as the one before: si-ni-fgsm [default: 5, as torchattacks]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..128))]
    pub copies: Option<u32>,
    /// Height and width of the blocks of pixels for which the change has one value: pgd-low [default: 8]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    pub block: Option<u32>,
    /// How much longer than the way to the boundary a step is: deepfool [default: 0.02, as
    /// torchattacks]
    #[arg(long, value_name = "X", value_parser = not_negative)]
    pub overshoot: Option<f32>,
    /// How many of the clean picture's best classes a step looks at; torchattacks takes all: deepfool
    /// [default: 10, as the authors' code]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub candidates: Option<u32>,
    /// Weight of the margin against the squared distance: cw [default: 1, as torchattacks]
    #[arg(long, value_name = "X", value_parser = fraction)]
    pub c: Option<f32>,
    /// Margin that the perturbed picture must have, in logits: cw [default: 0, as torchattacks]
    #[arg(long, alias = "kappa", value_name = "X", value_parser = not_negative)]
    pub confidence: Option<f32>,
    /// Adam's learning rate: cw [default: 0.01, as torchattacks]
    #[arg(id = "attack_learning_rate", long = "learning-rate", value_name = "X", value_parser = fraction)]
    pub learning_rate: Option<f32>,
    /// Images that each restart may show the classifier: square [default: 5000, as AutoAttack]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1 << 28))]
    pub queries: Option<u32>,
    /// How many classes to aim at, one after another, the most likely first: apgd-t [default: 9, as
    /// AutoAttack]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub targets: Option<u32>,
    /// Lead to this label, or to the one the classifier finds least likely, instead of away from the
    /// true one: all but deepfool and apgd-t
    #[arg(long, value_name = "LABEL|least-likely", value_parser = target)]
    pub target: Option<Target>,
    /// Seed of the random numbers: all but fgsm, bim, mi-fgsm, si-ni-fgsm, deepfool and cw [default: 0]
    #[arg(id = "attack_seed", long = "seed", value_name = "N")]
    pub seed: Option<u64>,
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
        let AttackArgs { method: name, .. } = *self;
        if self.target.is_some() && !name.takes_target() {
            return Err(Error::option("target", format!("is no option of {name}")));
        }
        if self.seed.is_some() && !name.is_random() {
            let why = format!("is no option of {name}, which draws no random numbers");
            return Err(Error::option("seed", why));
        }
        let options = AttackOptions {
            method: Method::with(name, &self.given())?,
            target: self.target.unwrap_or(Target::Untargeted),
            seed: self.seed.unwrap_or(0),
            eight_bit: save == SaveFormat::Png,
        };
        options.validate(classes)?;
        let euclidean = name == Name::PgdL2 || self.norm == Some(Norm::L2);
        if let Some(said) = self.eps.and_then(|eps| eps_off_by_255(eps, euclidean)) {
            log::warn!("{said}");
        }
        Ok(options)
    }

    /// The method's options that the command line sets, by the names that they have in `run.json`.
    fn given(&self) -> Map<String, Value> {
        let random_start = self.no_random_start.then_some(false);
        let all = [
            ("eps", json!(self.eps)),
            ("norm", json!(self.norm)),
            ("step_size", json!(self.step_size)),
            ("steps", json!(self.steps)),
            ("random_start", json!(random_start)),
            ("restarts", json!(self.restarts)),
            ("decay", json!(self.decay)),
            ("resize_rate", json!(self.resize_rate)),
            ("diversity_prob", json!(self.diversity_prob)),
            ("kernel_size", json!(self.kernel_size)),
            ("neighbors", json!(self.neighbors)),
            ("neighborhood", json!(self.neighborhood)),
            ("copies", json!(self.copies)),
            ("block", json!(self.block)),
            ("overshoot", json!(self.overshoot)),
            ("candidates", json!(self.candidates)),
            ("c", json!(self.c)),
            ("confidence", json!(self.confidence)),
            ("learning_rate", json!(self.learning_rate)),
            ("queries", json!(self.queries)),
            ("targets", json!(self.targets)),
        ];
        let given = all.into_iter().filter(|(_, value)| !value.is_null());
        given
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

/// Attacks every picture into the run folder.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Outcome> {
    let outputs = args.run.outputs(global);
    let dataset = args.inputs.open(&outputs, args.run.existing.overwrite)?;
    let classifier = Arc::new(args.model.open(&outputs)?);
    device::run(global, |devices| {
        let devices = devices.only("attack")?;
        let (classes, save) = (classifier.classes(), args.run.save);
        let options = args.attack.options(save, classes)?;
        let configuration = [
            ("classifier", classifier.describe()),
            ("attack", json!(options)),
        ];
        let mut run = Run {
            args,
            dataset: &dataset,
            classifier: &classifier,
            options,
            batch: 0,
            configuration: members(configuration),
            more: Map::new(),
            attacked: "the classifier",
        };
        let Some(adaptive) = args.through.adaptive(args.attack.method)? else {
            run.more
                .extend(members([("device", devices.names().join(", ").into())]));
            let mut oracle = classifier.on(&devices)?;
            run.batch = oracle.batch();
            let mut alone = attack::Classifier::new(&mut *oracle);
            return run.attack(&mut alone, |_| Map::new());
        };
        let defense = &args.through.defense.options;
        let mut purifier = defense
            .builder(classifier.clone(), devices, |options| {
                options.eight_bit = save == SaveFormat::Png;
            })?
            .build()?;
        run.attacked = "the classifier behind the defense";
        run.batch = purifier.plans()[0].images;
        run.configuration.extend(members([
            ("through", json!(adaptive)),
            ("defense", json!(purifier.options())),
            ("precision", json!(purifier.precision())),
        ]));
        run.more.extend(members([
            ("device", purifier.devices().join(", ").into()),
            ("plan", json!(purifier.plans()[0])),
        ]));
        let mut defended = Defended::new(purifier.defense(), adaptive)?;
        run.attack(&mut defended, |defended| {
            members([
                ("purifications", defended.purifications().into()),
                ("probes", defended.classified().into()),
            ])
        })
    })
}

/// The object with these members.
fn members<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    let members = members.into_iter();
    members
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// A run against one victim.
struct Run<'a> {
    args: &'a Args,
    dataset: &'a Dataset,
    classifier: &'a Classifier,
    options: AttackOptions,
    /// Pictures at a time.
    batch: usize,
    /// For `run.json`.
    configuration: Map<String, Value>,
    more: Map<String, Value>,
    /// What the pictures are to fool.
    attacked: &'static str,
}

impl Run<'_> {
    /// Attacks every picture into the run folder; `spent` is what `run.json` records at the end.
    fn attack<V: attack::Victim>(
        self,
        under_attack: &mut V,
        spent: impl Fn(&V) -> Map<String, Value>,
    ) -> Result<Outcome> {
        let Run {
            args,
            dataset,
            classifier,
            ..
        } = self;
        let classes = under_attack.classes();
        let description = RunDescription {
            command: "attack",
            configuration: Value::Object(self.configuration),
            more: self.more.into_iter().chain(messages::warned()).collect(),
        };
        let stop = interrupt::catch()?;
        let folder = RunFolder::open(args.run.options()?, description, dataset)?;
        let status = folder.status().clone();
        let progress = Progress::new(&status);
        let fail = |item: &Item, error: Error| -> Result<()> {
            folder.record(ImageRecord::failed(item, messages::line(&error)), None)?;
            progress.failed(&error);
            Ok(())
        };
        let pictures = folder.unfinished(dataset).map(|item| {
            let picture = status.time(Phase::Decode, || {
                dataset.load_for(classifier.preprocess(), classes, &item)
            });
            (item, picture)
        });
        let ended = in_batches(dataset, pictures, self.batch, stop, |loaded| {
            let (mut items, mut pictures) = (Vec::new(), Vec::new());
            for (item, picture) in loaded {
                match picture {
                    Ok(picture) => {
                        items.push(item);
                        pictures.push(picture);
                    }
                    Err(error) => fail(&item, error)?,
                }
            }
            let labels: Vec<Option<usize>> = items.iter().map(|item| item.label).collect();
            let all = || attack(under_attack, &self.options, &pictures, &labels);
            let attacked = status.time(Phase::Compute, all)?;
            for ((item, picture), attacked) in items.iter().zip(&pictures).zip(attacked) {
                if let Err(error) = attacked.input.check() {
                    fail(item, error.about(&item.id))?;
                    continue;
                }
                let pixels = Pixels {
                    shape: picture.shape,
                    input: &picture.pixels,
                    output: &attacked.pixels,
                };
                folder.record(
                    ImageRecord::attacked(item, picture, &attacked),
                    Some(pixels),
                )?;
                progress.done();
            }
            Ok(())
        });
        let state = *ended.as_ref().unwrap_or(&RunState::Interrupted);
        let tally = status.tally();
        let closed = folder.close(state, &spent(under_attack));
        progress.finish();
        let counts = ended.and(closed)?;
        args.run.follow.print(&format!(
            "{} of {} attacked pictures fool {}",
            tally.fooled, tally.pictures, self.attacked
        ))?;
        Ok(match state {
            RunState::Interrupted => Outcome::Interrupted,
            _ => Outcome::of(counts),
        })
    }
}
