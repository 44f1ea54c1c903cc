//! `backstitch evaluate`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::defense::DefenseArgs;
use super::inputs::open_list;
use super::model::Model;
use super::progress::Progress;
use super::run_folder::ExistingArgs;
use super::values::{eps_off_by_255, fraction};
use super::{Global, Outcome, device, interrupt, messages};
use crate::attack::Name;
use crate::attack::adaptive::{Adaptive, Rule};
use crate::baseline;
use crate::error::{Error, Result};
use crate::evaluate::{
    Case, Cell, Choice, Entry, Evaluation, Evaluator, Given, Journal, Load, Source, Suite, Wanted,
    Watch, entries, first, kept_name, rows, save_format, summarize,
};
use crate::input::{Attacked, AttackedSet, Classes, Dataset, Item, Layout};
use crate::picture::Picture;
use crate::purifier::{Classifier, OpenDevices};
use crate::run::names::{Form, OutputNames};
use crate::run::{RunDescription, RunState, Status, Tally};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Pictures with true labels: class folders (with --classes), .npz with labels, CIFAR-10 .bin files,
    /// .jsonl manifests
    #[arg(value_name = "DATA", required_unless_present_any = ["attacked", "list"])]
    pub data: Vec<PathBuf>,
    /// File with the names of the pictures to take, one a line: relative to DATA, a folder, or without one to
    /// this file's folder
    #[arg(long, value_name = "FILE")]
    pub list: Option<PathBuf>,
    /// File with one class-folder name a line, in label order: pictures in such folders get true labels
    #[arg(long, value_name = "FILE")]
    pub classes: Option<PathBuf>,
    /// Order of an array's axes, where its shape leaves it open
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    /// Pictures that others attacked: a folder with manifest.jsonl or of a run of attack, a .jsonl, .npz, .npy,
    /// or a .pt of torchattacks; may be given several times
    #[arg(long, value_name = "PATH")]
    pub attacked: Vec<PathBuf>,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    #[command(flatten)]
    pub defense: DefenseArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Folder for evaluation.json, evaluation.md, evaluation.html, cells.jsonl and run.json
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    #[command(flatten)]
    pub existing: ExistingArgs,
    /// Keep the attacked pictures, in OUT/attacked, with the manifest OUT/attacked.jsonl
    #[arg(long)]
    pub save_attacked: bool,
    /// Round neither attacked pictures nor outputs to 8 bits
    #[arg(long)]
    pub exact: bool,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Evaluation")]
pub struct EvaluationArgs {
    /// Which attacks to run
    #[arg(long, value_enum, default_value_t)]
    pub suite: Suite,
    /// Look at the first N pictures only, and at the first N of each attack in --attacked [default: 32 for quick,
    /// all for the others]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Attacks in place of the suite's: noise or a method of attack, as NAME, NAME:EPS,
    /// NAME@GRADIENT or NAME@GRADIENT:EPS, where GRADIENT (queries, identity, trajectory, decision, ways)
    /// leads through the whole defense
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = wanted)]
    pub attacks: Vec<Wanted>,
    /// Sizes of attacks in the maximum norm that name none [default: the suite's, 4/255 for most]
    #[arg(long, value_name = "EPS,...", value_delimiter = ',', value_parser = fraction)]
    pub eps: Vec<f32>,
    /// Baselines to compare with, the number being the strength; "none" is always there
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = COMPARED)]
    pub baselines: Vec<baseline::Method>,
    /// Images that Square may show the classifier
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..1 << 28))]
    pub queries: u32,
    /// Images that Square may show the classifier behind the defense
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..1 << 28))]
    pub defended_queries: u32,
    /// Steps of PGD through the defense; a step costs a purification a draw
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub defended_steps: u32,
    /// Seed of the attacks' random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub attack_seed: u64,
}

/// Each kind of baseline at its usual strength and at one that removes more.
const COMPARED: &str = "jpeg-75,jpeg-50,bits-3,bits-2,median-3,median-5,tv-0.05,tv-0.1";

/// `NAME[@GRADIENT][:EPS]`.
fn wanted(text: &str) -> Result<Wanted, String> {
    let (attack, eps) = match text.split_once(':') {
        Some((attack, eps)) => (attack, Some(fraction(eps)?)),
        None => (text, None),
    };
    let (name, through) = match attack.split_once('@') {
        Some((name, rule)) => (name, Some(Adaptive::new(one_of::<Rule>(rule)?))),
        None => (attack, None),
    };
    let method = match name {
        "noise" => None,
        name => Some(one_of::<Name>(name).map_err(|all| format!("noise, or {all}"))?),
    };
    let wanted = Wanted {
        method,
        through,
        eps,
    };
    match (method, through, eps) {
        (None, Some(_), _) => Err("noise does not go through a defense".into()),
        (_, _, Some(_)) if !wanted.takes_eps() => {
            Err(format!("{name} looks for a small change: it has no size"))
        }
        _ => Ok(wanted),
    }
}

fn one_of<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| {
        let names = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|value| value.get_name().to_owned()).collect();
        format!("write one of {}", names.join(", "))
    })
}

impl EvaluationArgs {
    /// "none" and the others, each once.
    fn baselines(&self) -> Vec<baseline::Method> {
        let mut all = vec![baseline::Method::None(baseline::Nothing {})];
        for method in &self.baselines {
            if !all.contains(method) {
                all.push(method.clone());
            }
        }
        all
    }

    fn choice(&self, eight_bit: bool) -> Choice {
        let named = self.attacks.iter().filter_map(|wanted| {
            let euclidean = wanted.method == Some(Name::PgdL2);
            wanted.eps.map(|eps| (eps, euclidean))
        });
        for (eps, euclidean) in self.eps.iter().map(|&eps| (eps, false)).chain(named) {
            if let Some(said) = eps_off_by_255(eps, euclidean) {
                log::warn!("{said}");
            }
        }
        Choice {
            suite: self.suite,
            attacks: self.attacks.clone(),
            eps: self.eps.clone(),
            queries: self.queries as usize,
            defended_queries: self.defended_queries as usize,
            defended_steps: self.defended_steps as usize,
            seed: self.attack_seed,
            eight_bit,
        }
    }

    /// The pictures to look at, of all.
    fn pictures(&self, all: Vec<Entry>) -> Vec<Entry> {
        let limit = self.limit.map(|limit| limit as usize);
        match limit.or(self.suite.limit()) {
            Some(limit) => first(all, limit),
            None => all,
        }
    }
}

/// Evaluates the defense and everything that it is compared with.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Outcome> {
    let outputs = global.outputs().run_folder(&args.output.output);
    outputs.check(args.classes.iter().chain(&args.list))?;
    let classes = args.classes.as_deref().map(Classes::open).transpose()?;
    let dataset = match (&args.list, args.data.as_slice()) {
        (Some(list), data) => Some(open_list(list, data, classes)?),
        (None, []) => None,
        (None, data) => Some(Dataset::open(data, args.layout, classes)?),
    };
    let mut folders = args.data.iter().chain(&args.attacked);
    folders.try_for_each(|input| outputs.check_folder(input))?;
    let open = |path: &PathBuf| AttackedSet::open(path, args.layout);
    let sets: Vec<AttackedSet> = args.attacked.iter().map(open).collect::<Result<_>>()?;
    outputs.check(dataset.iter().flat_map(Dataset::files))?;
    for (path, set) in args.attacked.iter().zip(&sets) {
        outputs.check(set.files(path))?;
    }
    let classifier = Arc::new(args.model.open(&outputs)?);
    let inputs = Inputs {
        args,
        dataset,
        sets,
        classifier,
    };
    device::run(global, |devices| {
        evaluate(inputs, devices.only("evaluate")?)
    })
}

/// What an evaluation is about.
struct Inputs<'a> {
    args: &'a Args,
    dataset: Option<Dataset>,
    sets: Vec<AttackedSet>,
    classifier: Arc<Classifier>,
}

impl Load for Inputs<'_> {
    fn item(&self, item: &Item) -> Result<Picture> {
        match &self.dataset {
            Some(dataset) => dataset.load_for(
                self.classifier.preprocess(),
                self.classifier.classes(),
                item,
            ),
            None => Err(Error::invalid("is in no data set")),
        }
    }

    fn given(&self, given: &Given) -> Result<Attacked> {
        let attacked = self.sets[given.set].load(given.index)?;
        let (is, takes) = (attacked.adversarial.shape, self.classifier.shape());
        match is == takes {
            true => Ok(attacked),
            false => Err(Error::invalid(format!(
                "is {is} where the classifier takes {takes}; an attacked picture is not resized, as that removes \
                 the attack"
            ))),
        }
    }
}

fn evaluate(inputs: Inputs<'_>, devices: OpenDevices) -> Result<Outcome> {
    let Inputs {
        args, classifier, ..
    } = &inputs;
    let classes = classifier.classes();
    let items = inputs.dataset.iter().flat_map(Dataset::items);
    let (pictures, given) = entries(items, &inputs.sets)?;
    let pictures = args.evaluation.pictures(pictures);
    check_labels(&pictures, classes)?;
    let eight_bit = !args.output.exact;
    let mut purifier = (args.defense)
        .builder(classifier.clone(), devices, |options| {
            options.eight_bit = eight_bit;
            options.ablations = true;
        })?
        .build()?;
    let device = purifier.devices().join(", ");
    let baselines = args.evaluation.baselines();
    let rows = rows(&baselines, purifier.options());
    let mut cases = match &inputs.dataset {
        Some(_) => args.evaluation.choice(eight_bit).cases(classes)?,
        None => vec![Case::clean()],
    };
    cases.extend(given);

    let skipped = inputs.dataset.as_ref().map(Dataset::skipped);
    let skipped = skipped.filter(|skipped| !skipped.is_empty());
    let skipped = skipped.map(|skipped| ("skipped".into(), skipped.into()));
    let description = RunDescription {
        command: "evaluate",
        configuration: json!({
            "classifier": classifier.describe(),
            "classes": classes,
            "suite": args.evaluation.suite,
            "attacks": cases,
            "defenses": rows,
            "precision": purifier.precision(),
            "eight_bit": eight_bit,
            "save_attacked": args.output.save_attacked,
            "pictures": pictures.len(),
            "pictures_hash": hash(&pictures),
        }),
        more: [("device".into(), Value::from(&*device))]
            .into_iter()
            .chain(skipped)
            .chain(messages::warned())
            .collect(),
    };
    let stop = interrupt::catch()?;
    let existing = args.output.existing.existing();
    let ids = || pictures.iter().map(|picture| picture.id.clone());
    let keep = args.output.save_attacked.then(|| {
        let extension = save_format(eight_bit).extension();
        let key = false;
        OutputNames::new(ids, Form { extension, key })
    });
    let own = || cases.iter().filter(|case| !case.is_given());
    let kept = keep.iter().flat_map(|names| {
        pictures
            .iter()
            .flat_map(move |picture| own().map(|case| kept_name(names, &picture.id, case)))
    });
    let mut journal = Journal::open(&args.output.output, existing, description.clone(), kept)?;
    let chunk = purifier.plans()[0].images.max(purifier.oracle().batch());
    let mut evaluator = Evaluator {
        defense: purifier.defense(),
        baselines: &baselines,
        cases: &cases,
        eight_bit,
        keep,
        chunk,
    };
    let open = open(&pictures, &journal, &cases);
    let status = Arc::new(Status::new(
        "evaluate",
        None,
        Some(open.iter().map(|(_, cells)| cells).sum()),
        0,
        Tally::default(),
    ));
    let watch = Watcher {
        stop,
        progress: Progress::new(&status),
        status,
    };
    let ended = evaluator.run(
        open.into_iter().map(|(picture, _)| picture).collect(),
        &inputs,
        &mut journal,
        &watch,
    );
    watch.progress.finish();
    let (state, word) = match &ended {
        Ok(()) => (RunState::Done, "done"),
        Err(_) => (RunState::Interrupted, "interrupted"),
    };
    let order: Vec<String> = ids().collect();
    let source = Source {
        cells: journal.cells(),
        cases: &cases,
        rows: &rows,
        order: &order,
        classes,
    };
    let evaluation = summarize(&source, description.configuration, device, word);
    evaluation.write(&journal)?;
    if args.output.save_attacked {
        journal.write("attacked.jsonl", manifest(journal.cells()).as_bytes())?;
    }
    journal.describe(state, &Map::new())?;
    match ended {
        Err(Error::Interrupted) => return Ok(Outcome::Interrupted),
        ended => ended?,
    }
    if evaluation.pictures.counted == 0 {
        return Err(Error::invalid(format!(
            "the classifier has none of {} pictures right when clean, so that there is nothing to defend; \
             check the labels and the preprocessing",
            evaluation.pictures.seen
        )));
    }
    super::print(&evaluation.line())?;
    Ok(outcome(&evaluation))
}

/// How a finished evaluation ends.
fn outcome(evaluation: &Evaluation) -> Outcome {
    match evaluation.pictures.failed {
        0 => Outcome::Done,
        failed => Outcome::SomeFailed {
            failed,
            of: evaluation.pictures.seen,
        },
    }
}

/// Refuses pictures that cannot be evaluated: without any true label.
fn check_labels(pictures: &[Entry], classes: usize) -> Result<()> {
    let items = || pictures.iter().filter_map(|picture| picture.item.as_ref());
    for item in items() {
        if let Some(label) = item.label.filter(|label| *label >= classes) {
            return Err(Error::file(
                &item.id,
                format!("has label {label}; the classifier has {classes} classes, from 0 on"),
            ));
        }
    }
    let unlabeled = items().filter(|item| item.label.is_none()).count();
    match unlabeled == pictures.len() {
        true => Err(Error::invalid(
            "no picture has a true label: give class folders with --classes, or a manifest with labels",
        )),
        false => Ok(()),
    }
}

/// A number that names the pictures by their ids and labels, and the attacked ones by their places.
fn hash(pictures: &[Entry]) -> String {
    let mut hash = Xxh3::new();
    let mut number = |number: usize| hash.update(&(number as u64).to_le_bytes());
    for picture in pictures {
        let label = picture.item.as_ref().and_then(|item| item.label);
        number(picture.id.len());
        picture.id.bytes().for_each(|byte| number(byte.into()));
        number(label.map_or(0, |label| label + 1));
        for given in &picture.given {
            number(given.set);
            number(given.index);
        }
    }
    format!("{:032x}", hash.digest128())
}

/// The pictures that are not done, and how many cells each lacks.
fn open(pictures: &[Entry], journal: &Journal, cases: &[Case]) -> Vec<(Entry, usize)> {
    let excluded: HashSet<&str> = journal
        .cells()
        .iter()
        .filter(|cell| cell.excluded.is_some())
        .map(|cell| cell.image.as_str())
        .collect();
    let lacks = |picture: &&Entry| {
        let lacks = |case: &&Case| picture.has(case) && !journal.has(&picture.id, &case.name);
        match excluded.contains(picture.id.as_str()) {
            true => 0,
            false => cases.iter().filter(lacks).count(),
        }
    };
    let open = pictures
        .iter()
        .map(|picture| (picture.clone(), lacks(&picture)));
    open.filter(|(_, cells)| *cells > 0).collect()
}

/// The kept pictures, as a manifest that `--attacked` reads: `file`, `label`, `attack` (`none` for the
/// pictures themselves), `clean`.
fn manifest(cells: &[Cell]) -> String {
    let clean: HashMap<&str, &String> = cells
        .iter()
        .filter(|cell| cell.attack == Case::clean().name)
        .filter_map(|cell| Some((cell.image.as_str(), cell.saved.as_ref()?)))
        .collect();
    let line = |cell: &Cell| {
        let file = cell.saved.as_ref()?;
        let clean = clean.get(cell.image.as_str()).copied();
        let line = match clean == Some(file) {
            true => json!({ "file": file, "label": cell.label, "attack": "none" }),
            false => {
                json!({ "file": file, "label": cell.label, "attack": cell.attack, "clean": clean })
            }
        };
        Some(format!("{line}\n"))
    };
    cells.iter().filter_map(line).collect()
}

struct Watcher {
    stop: &'static AtomicBool,
    progress: Progress,
    status: Arc<Status>,
}

impl Watch for Watcher {
    fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn done(&self, cells: usize) {
        for _ in 0..cells {
            self.status.count(false);
            self.progress.done();
        }
    }

    fn failed(&self, error: &Error) {
        self.status.count(true);
        self.progress.failed(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_read() {
        let plain = |method, eps| Wanted {
            method,
            through: None,
            eps,
        };
        assert_eq!(wanted("noise"), Ok(plain(None, None)));
        assert_eq!(
            wanted("fgsm:4/255"),
            Ok(plain(Some(Name::Fgsm), Some(4.0 / 255.0)))
        );
        let through = wanted("pgd@decision:0.5").unwrap();
        assert_eq!(through.through, Some(Adaptive::new(Rule::Decision)));
        assert_eq!(through.eps, Some(0.5));
        for wrong in [
            "",
            "x",
            "cw:1/255",
            "pgd:0",
            "pgd:",
            "pgd@x",
            "noise@identity",
        ] {
            assert!(wanted(wrong).is_err(), "{wrong}");
        }
    }
}
