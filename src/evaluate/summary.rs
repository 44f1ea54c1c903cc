//! From cells to tables.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::case::{Case, Kind, Threat, fraction};
use super::cell::{Cell, Excluded};
use super::flags::{Flag, raise};
use super::row::{BACKSTITCH, NONE, Row};
use super::statistics::{Proportion, mean, roc_area};
use super::view::{Source, View};
use crate::attack::Norm;
use crate::defense::Verdict;

/// What results of attacks on the classifier alone say of a defense, wherever they are shown.
pub const STATIC: &str =
    "transfer from the undefended classifier: an upper bound of robustness, not a robustness claim";

/// An evaluation: `evaluation.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    pub backstitch: &'static str,
    /// `done`, or `interrupted`: what there is then is of the pictures so far.
    pub state: &'static str,
    /// Everything that the results depend on.
    pub configuration: Value,
    pub device: String,
    pub pictures: Pictures,
    pub defenses: Vec<DefenseSummary>,
    pub attacks: Vec<AttackSummary>,
    pub worst_cases: Vec<WorstCase>,
    pub detection: Detection,
    pub flags: Vec<Flag>,
}

/// Which pictures count.
#[derive(Clone, Debug, Serialize)]
pub struct Pictures {
    /// Looked at so far.
    pub seen: usize,
    /// Those that the classifier labels correctly when clean: all numbers are about these.
    pub counted: usize,
    /// Of these, those whose clean version is not known: they count on trust.
    pub without_clean: usize,
    pub wrong_when_clean: usize,
    pub without_label: usize,
    pub failed: usize,
    /// Those that do not count, with the reason.
    pub excluded: Vec<NotCounted>,
}

/// A picture that does not count.
#[derive(Clone, Debug, Serialize)]
pub struct NotCounted {
    pub image: String,
    pub label: Option<usize>,
    #[serde(flatten)]
    pub reason: Excluded,
}

#[derive(Clone, Debug, Serialize)]
pub struct DefenseSummary {
    #[serde(flatten)]
    pub row: Row,
    /// Mean time for an image, without classifying the output; `None` for a part of another's run.
    pub seconds: Option<f64>,
}

/// One attack, and each defense against it.
#[derive(Clone, Debug, Serialize)]
pub struct AttackSummary {
    #[serde(flatten)]
    pub case: Case,
    /// How the numbers of the defenses are to be read.
    pub statement: &'static str,
    /// Pictures of it.
    pub pictures: usize,
    /// How many of them the classifier without defense gets wrong.
    pub fooled: Proportion,
    /// Mean of the largest change of a value.
    pub mean_linf: Option<f64>,
    /// Mean Euclidean length of the change.
    pub mean_l2: Option<f64>,
    /// Mean time to attack a picture.
    pub seconds: Option<f64>,
    pub defenses: Vec<Defended>,
}

/// A defense against an attack.
#[derive(Clone, Debug, Serialize)]
pub struct Defended {
    pub defense: String,
    pub threat: Threat,
    /// True labels.
    pub right: Proportion,
    /// True labels, of the pictures that fool the classifier without defense.
    pub right_of_fooled: Proportion,
    /// Mean PSNR in dB of the output against the clean picture, without those that are equal to it.
    pub psnr: Option<f64>,
    /// Outputs that are equal to the clean picture.
    pub equal_to_clean: usize,
    /// Mean SSIM of the output against the clean picture.
    pub ssim: Option<f64>,
}

/// Pictures that a defense has right under each of several attacks.
#[derive(Clone, Debug, Serialize)]
pub struct WorstCase {
    pub title: String,
    pub attacks: Vec<String>,
    /// By defense.
    pub right: BTreeMap<String, Proportion>,
}

/// How well the score tells attacked pictures from clean ones.
#[derive(Clone, Debug, Serialize)]
pub struct Detection {
    /// Clean pictures with the verdict `adversarial`.
    pub false_alarms: Proportion,
    /// Clean pictures with the verdict `undecided`.
    pub undecided: Proportion,
    pub attacks: Vec<Detected>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Detected {
    pub attack: String,
    /// ROC area of the score, attacked against clean.
    pub area: Option<f64>,
    /// The same of the attacked pictures that fool the classifier.
    pub area_of_fooled: Option<f64>,
    /// Attacked pictures with the verdict `adversarial`.
    pub detected: Proportion,
    pub detected_of_fooled: Proportion,
}

/// The tables of what is done so far.
pub fn summarize(
    source: &Source<'_>,
    configuration: Value,
    device: String,
    state: &'static str,
) -> Evaluation {
    let view = View::new(source);
    Evaluation {
        backstitch: env!("CARGO_PKG_VERSION"),
        state,
        configuration,
        device,
        pictures: pictures(source, &view),
        defenses: source.rows.iter().map(|row| defense(&view, row)).collect(),
        attacks: source
            .cases
            .iter()
            .map(|case| attack(&view, case))
            .collect(),
        worst_cases: worst_cases(&view),
        detection: detection(&view),
        flags: raise(&view),
    }
}

fn pictures(source: &Source<'_>, view: &View<'_>) -> Pictures {
    let mut excluded: Vec<NotCounted> = source
        .cells
        .iter()
        .filter_map(|cell| {
            Some(NotCounted {
                image: cell.image.clone(),
                label: cell.label,
                reason: cell.excluded.clone()?,
            })
        })
        .collect();
    let place = |image: &String| source.order.iter().position(|id| id == image);
    excluded.sort_by_cached_key(|not| place(&not.image));
    let wrong = |not: &&NotCounted| matches!(not.reason, Excluded::WrongWhenClean { .. });
    let wrong_when_clean = excluded.iter().filter(wrong).count();
    let mut failed: Vec<&str> = source
        .cells
        .iter()
        .filter(|cell| cell.error.is_some())
        .map(|cell| cell.image.as_str())
        .collect();
    failed.sort_unstable();
    failed.dedup();
    let clean = view.cells(&Case::clean().name);
    let counted = clean.len();
    Pictures {
        seen: counted + excluded.len() + failed.len(),
        counted,
        without_clean: clean.iter().filter(|cell| cell.defenses.is_empty()).count(),
        wrong_when_clean,
        without_label: excluded.len() - wrong_when_clean,
        failed: failed.len(),
        excluded,
    }
}

fn defense(view: &View<'_>, row: &Row) -> DefenseSummary {
    let cells = view.cases.iter().flat_map(|case| view.cells(&case.name));
    let seconds = cells.filter_map(|cell| cell.defenses.get(&row.name)?.seconds);
    DefenseSummary {
        row: row.clone(),
        seconds: mean(seconds),
    }
}

fn is_fooled(cell: &Cell) -> bool {
    cell.is_right(NONE) == Some(false)
}

fn attack(view: &View<'_>, case: &Case) -> AttackSummary {
    let cells = view.cells(&case.name);
    let defended = |row: &Row| {
        let answers = || cells.iter().filter_map(|cell| cell.defenses.get(&row.name));
        let fooled = cells.iter().filter(|cell| is_fooled(cell));
        Defended {
            defense: row.name.clone(),
            threat: case.threat(&row.name),
            right: view.right(&case.name, &row.name),
            right_of_fooled: Proportion::of(fooled.filter_map(|cell| cell.is_right(&row.name))),
            psnr: mean(answers().filter_map(|answer| answer.psnr)),
            equal_to_clean: answers()
                .filter(|answer| answer.psnr.is_none() && answer.ssim.is_some())
                .count(),
            ssim: mean(answers().filter_map(|answer| answer.ssim)),
        }
    };
    AttackSummary {
        case: case.clone(),
        statement: statement(case),
        pictures: cells.len(),
        fooled: Proportion::of(cells.iter().map(|cell| is_fooled(cell))),
        mean_linf: mean(cells.iter().filter_map(|cell| cell.linf)),
        mean_l2: mean(cells.iter().filter_map(|cell| cell.l2)),
        seconds: mean(cells.iter().filter_map(|cell| cell.attack_seconds)),
        defenses: view.rows.iter().map(defended).collect(),
    }
}

/// How a case's numbers are to be read.
fn statement(case: &Case) -> &'static str {
    match case.kind {
        Kind::Clean => "no attack",
        Kind::Noise { .. } => "no attack: random noise of the same size",
        Kind::Static { .. } => STATIC,
        Kind::Given => {
            "made by others: what it knew is not known here; no robustness claim unless it knew the defense"
        }
        Kind::Adaptive { .. } => {
            "made for backstitch; for every other row a transfer, and no robustness claim"
        }
    }
}

/// The worst cases: of each ball in the maximum norm the attacks that stay in it, of these the adaptive
/// ones alone, and of all attacks.
fn worst_cases(view: &View<'_>) -> Vec<WorstCase> {
    let attacks: Vec<&Case> = view.cases.iter().filter(|case| case.is_attack()).collect();
    let size = |case: &Case| match case.budget() {
        Some(ball) if ball.norm == Norm::Linf => Some(ball.eps),
        _ => None,
    };
    let mut sizes: Vec<f32> = attacks.iter().filter_map(|case| size(case)).collect();
    sizes.sort_by(f32::total_cmp);
    sizes.dedup();
    let mut groups: Vec<(String, Vec<&Case>)> = Vec::new();
    for eps in sizes {
        let within: Vec<&Case> = attacks
            .iter()
            .copied()
            .filter(|case| size(case).is_some_and(|other| other <= eps))
            .collect();
        let title = format!("worst case, L∞ up to {}", fraction(eps));
        let adaptive = within.iter().copied().filter(|case| case.is_adaptive());
        let alone = format!("{title}, adaptive attacks alone");
        groups.push((alone, adaptive.collect()));
        groups.push((title, within));
    }
    groups.push(("worst case, every attack".into(), attacks));
    groups.retain(|(_, cases)| cases.len() > 1);
    // Each set of attacks once.
    let mut shown: Vec<Vec<&str>> = Vec::new();
    groups.retain(|(_, cases)| {
        let names = cases.iter().map(|case| case.name.as_str()).collect();
        let new = !shown.contains(&names);
        shown.push(names);
        new
    });
    let of = |(title, cases): (String, Vec<&Case>)| WorstCase {
        title,
        right: view
            .rows
            .iter()
            .map(|row| (row.name.clone(), view.worst(&cases, &row.name)))
            .collect(),
        attacks: cases.iter().map(|case| case.name.clone()).collect(),
    };
    groups.into_iter().map(of).collect()
}

fn detection(view: &View<'_>) -> Detection {
    let clean = view.cells(&Case::clean().name);
    let says = |cells: &mut dyn Iterator<Item = &&Cell>, verdict| {
        Proportion::of(cells.filter_map(|cell| Some(cell.verdict? == verdict)))
    };
    let scores = |cells: &mut dyn Iterator<Item = &&Cell>| -> Vec<f64> {
        cells.filter_map(|cell| cell.score).collect()
    };
    let negative = scores(&mut clean.iter());
    let of = |case: &Case| {
        let cells = view.cells(&case.name);
        let fooled = || cells.iter().filter(|cell| is_fooled(cell));
        Detected {
            attack: case.name.clone(),
            area: roc_area(&scores(&mut cells.iter()), &negative),
            area_of_fooled: roc_area(&scores(&mut fooled()), &negative),
            detected: says(&mut cells.iter(), Verdict::Adversarial),
            detected_of_fooled: says(&mut fooled(), Verdict::Adversarial),
        }
    };
    let attacked = view.cases.iter().skip(1);
    Detection {
        false_alarms: says(&mut clean.iter(), Verdict::Adversarial),
        undecided: says(&mut clean.iter(), Verdict::Undecided),
        attacks: attacked.map(of).collect(),
    }
}

impl Evaluation {
    /// How a defense did against an attack.
    pub fn find(&self, attack: &str, defense: &str) -> Option<&Defended> {
        let attack = self.attacks.iter().find(|a| a.case.name == attack)?;
        attack.defenses.iter().find(|d| d.defense == defense)
    }

    /// The line that a run ends with.
    pub fn line(&self) -> String {
        let raised = self.flags.iter().filter(|flag| flag.is_raised()).count();
        let clean = self.find("clean", BACKSTITCH).map(|d| d.right);
        let kept = clean.map_or(String::new(), |p| format!(", {} of {} kept", p.count, p.of));
        format!(
            "{} pictures count{kept}; {raised} of {} flags raised",
            self.pictures.counted,
            self.flags.len()
        )
    }
}
