//! `backstitch evaluate`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::defense::DefenseArgs;
use super::device::OnPictures;
use super::inputs::Inputs;
use super::model::Model;
use super::progress::Progress;
use super::values::fraction;
use super::{Global, Outcome, device, interrupt};
use crate::attack::Name;
use crate::attack::adaptive::{Adaptive, Rule};
use crate::backend::Backend;
use crate::baseline;
use crate::defense::Prober;
use crate::error::{Error, Result};
use crate::evaluate::{
    Cell, Choice, Evaluation, Evaluator, Journal, Source, Suite, Wanted, Watch, rows, save_format,
    summarise,
};
use crate::io::Item;
use crate::io::names::{Form, OutputNames};
use crate::io::output::{Existing, RunDescription, RunState, Status, Tally};
use crate::scheduler::Plan;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub inputs: Inputs,
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
    /// Replace the run that OUT holds
    #[arg(long, conflicts_with = "resume")]
    pub overwrite: bool,
    /// Go on with the evaluation that OUT holds, of the same options and pictures
    #[arg(long)]
    pub resume: bool,
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
    /// Look at the first N pictures only [default: 32 for quick, all for the others]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Attacks in place of the suite's: noise or a method of attack, as NAME, NAME:EPS,
    /// NAME@GRADIENT or NAME@GRADIENT:EPS, where GRADIENT (queries, identity, trajectory, decision)
    /// leads through the whole defence
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = wanted)]
    pub attacks: Vec<Wanted>,
    /// Sizes of attacks in the maximum norm that name none [default: the suite's, 4/255 for most]
    #[arg(long, value_name = "EPS,...", value_delimiter = ',', value_parser = fraction)]
    pub eps: Vec<f32>,
    /// Images that Square may show the classifier
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..1 << 28))]
    pub queries: u32,
    /// Images that Square may show the classifier behind the defence
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..1 << 28))]
    pub defended_queries: u32,
    /// Steps of PGD through the defence; a step costs a purification a draw
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub defended_steps: u32,
    /// Seed of the attacks' random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub attack_seed: u64,
}

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
        (None, Some(_), _) => Err("noise does not go through a defence".into()),
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
    fn choice(&self, eight_bit: bool) -> Choice {
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

    /// Pictures to look at, of `len`.
    fn pictures(&self, len: usize) -> usize {
        let limit = self.limit.map(|limit| limit as usize);
        limit.or(self.suite.limit()).unwrap_or(len).min(len)
    }
}

/// Evaluates the defence and everything that it is compared with.
pub fn run(args: &Args, global: &Global) -> Result<Outcome> {
    device::run_on_pictures(args, &args.inputs, &args.model, global)
}

impl device::Command for OnPictures<'_, Args> {
    fn run_on<B: Backend>(self, backends: &[B]) -> Result<Outcome> {
        let backend = device::only(backends, "evaluate")?;
        let OnPictures {
            args,
            dataset,
            victim,
        } = self;
        let (shape, classes) = (victim.graph.input_shape(), victim.graph.classes());
        if dataset.as_stream().is_some() {
            return Err(Error::invalid(
                "evaluate needs all pictures at once: give a manifest's file in place of -",
            ));
        }
        let items: Vec<Item> = dataset
            .items()
            .take(args.evaluation.pictures(dataset.len()))
            .collect();
        check_labels(&items, classes)?;
        let eight_bit = !args.output.exact;
        let mut options = args.defense.options(shape.channels)?;
        options.eight_bit = eight_bit;
        options.ablations = true;
        let baselines = baseline::defaults();
        let rows = rows(&baselines, &options);
        let cases = args.evaluation.choice(eight_bit).cases(classes)?;

        let description = RunDescription {
            command: "evaluate",
            configuration: json!({
                "classifier": victim.describe(),
                "classes": classes,
                "suite": args.evaluation.suite,
                "attacks": cases,
                "defenses": rows,
                "precision": backend.precision(),
                "eight_bit": eight_bit,
                "save_attacked": args.output.save_attacked,
                "pictures": items.len(),
                "pictures_hash": hash(&items),
            }),
            more: Map::from_iter([("device".into(), Value::from(backend.name()))]),
        };
        let stop = interrupt::catch()?;
        let existing = match (args.output.overwrite, args.output.resume) {
            (true, _) => Existing::Overwrite,
            (_, true) => Existing::Resume,
            _ => Existing::Refuse,
        };
        let mut journal = Journal::open(&args.output.output, existing, description.clone())?;

        let plan = Plan::new(backend, &options, shape, classes, args.defense.capacity)?;
        let batch = backend.classifier_batch();
        let prober = Prober::new(backend, backend.classifier(&victim.graph, batch)?, batch)?;
        let (plan, defense) = plan.defense(backend, prober, options)?;
        let ids = || items.iter().map(|item| item.id.clone());
        let keep = args.output.save_attacked.then(|| {
            let extension = save_format(eight_bit).extension();
            let key = false;
            OutputNames::new(ids, Form { extension, key })
        });
        let mut evaluator = Evaluator {
            defense,
            engine: backend.classifier(&victim.graph, batch)?,
            batch,
            baselines: &baselines,
            cases: &cases,
            eight_bit,
            keep,
            chunk: plan.images.max(batch),
        };
        let open: Vec<(Item, usize)> = open_items(&items, &journal, &cases);
        let cells = open.iter().map(|(_, cells)| cells).sum();
        let status = Arc::new(Status::new(
            "evaluate",
            None,
            Some(cells),
            0,
            Tally::default(),
        ));
        let watch = Watcher {
            stop,
            progress: Progress::new(&status),
            status,
        };
        let ended = evaluator.run(
            open.into_iter().map(|(item, _)| item),
            |item| victim.preprocess.load(dataset, item),
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
        let evaluation = summarise(
            &source,
            description.configuration,
            backend.name().to_string(),
            word,
        );
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

/// Refuses pictures that cannot be evaluated: without any true label, or with one that is no class.
fn check_labels(items: &[Item], classes: usize) -> Result<()> {
    let wrong = items
        .iter()
        .find(|item| item.label.is_some_and(|label| label >= classes));
    if let Some(Item {
        id,
        label: Some(label),
        ..
    }) = wrong
    {
        return Err(Error::file(
            id,
            format!("has label {label}; the classifier has {classes} classes, from 0 on"),
        ));
    }
    if items.iter().all(|item| item.label.is_none()) {
        return Err(Error::invalid(
            "no picture has a true label: give class folders with --classes, or a manifest with labels",
        ));
    }
    Ok(())
}

/// A number that names the pictures by their ids and labels.
fn hash(items: &[Item]) -> String {
    let mut hash = Xxh3::new();
    for item in items {
        hash.update(&(item.id.len() as u64).to_le_bytes());
        hash.update(item.id.as_bytes());
        hash.update(&item.label.map_or(0, |label| label as u64 + 1).to_le_bytes());
    }
    format!("{:032x}", hash.digest128())
}

/// The pictures that are not done, and how many cells each lacks.
fn open_items(
    items: &[Item],
    journal: &Journal,
    cases: &[crate::evaluate::Case],
) -> Vec<(Item, usize)> {
    let excluded: HashSet<&str> = journal
        .cells()
        .iter()
        .filter(|cell| cell.excluded.is_some())
        .map(|cell| cell.image.as_str())
        .collect();
    let open = |item: &Item| {
        let lacks = cases
            .iter()
            .filter(|case| !journal.has(&item.id, &case.name));
        match excluded.contains(item.id.as_str()) {
            true => 0,
            false => lacks.count(),
        }
    };
    let with_count = items.iter().map(|item| (item.clone(), open(item)));
    with_count.filter(|(_, cells)| *cells > 0).collect()
}

/// The kept pictures, as a manifest: `file`, `label`, `attack`.
fn manifest(cells: &[Cell]) -> String {
    let line = |cell: &Cell| {
        let file = cell.saved.as_ref()?;
        Some(format!(
            "{}\n",
            json!({ "file": file, "label": cell.label, "attack": cell.attack, "image": cell.image })
        ))
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
