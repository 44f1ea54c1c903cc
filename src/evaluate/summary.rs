//! The numbers of an evaluation's tables, computed from its cells.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::case::{Case, CaseKind, Threat, fraction};
use super::cell::{Cell, Excluded};
use super::flags::{Flag, raise};
use super::row::{BACKSTITCH, NONE, Row};
use super::statistics::{Proportion, mean, roc_area};
use super::view::{Source, View};
use crate::attack::Norm;
use crate::defense::Verdict;

/// The statement beside all results of attacks on the classifier alone.
pub const STATIC: &str =
    "transfer from the undefended classifier: an upper bound of robustness, not a robustness claim";

/// An evaluation: `evaluation.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// The program's version.
    pub backstitch: &'static str,
    /// `done`, or `interrupted` if the results are of the pictures so far.
    pub state: &'static str,
    /// Everything that the results depend on.
    pub configuration: Value,
    /// The device that computed.
    pub device: String,
    /// Which pictures count, and which do not.
    pub pictures: Pictures,
    /// The defenses that are compared, in the order of the table's rows.
    pub defenses: Vec<DefenseSummary>,
    /// The attacks, each with every defense against it; clean pictures first.
    pub attacks: Vec<AttackSummary>,
    /// The worst cases of several attacks.
    pub worst_cases: Vec<WorstCase>,
    /// How well the score tells attacked pictures from clean ones.
    pub detection: Detection,
    /// Every check, raised or not.
    pub flags: Vec<Flag>,
}

/// Which pictures count.
#[derive(Clone, Debug, Serialize)]
pub struct Pictures {
    /// Pictures so far, whether they count or not.
    pub seen: usize,
    /// Pictures that count, because the classifier labels them correctly when clean: all results are about
    /// these.
    pub counted: usize,
    /// Pictures that count although their clean version is not known.
    pub without_clean: usize,
    /// Pictures that the classifier mislabels when clean; they do not count.
    pub wrong_when_clean: usize,
    /// Pictures without a true label; they do not count.
    pub without_label: usize,
    /// Pictures that could not be read, attacked or purified.
    pub failed: usize,
    /// The pictures that do not count, with the reason.
    pub excluded: Vec<NotCounted>,
}

/// A picture that does not count.
#[derive(Clone, Debug, Serialize)]
pub struct NotCounted {
    /// The picture's id.
    pub image: String,
    /// The true label, where it is known.
    pub label: Option<usize>,
    /// Why the picture does not count.
    #[serde(flatten)]
    pub reason: Excluded,
}

/// A defense, and how long it takes.
#[derive(Clone, Debug, Serialize)]
pub struct DefenseSummary {
    /// The table's row: name, description and options.
    #[serde(flatten)]
    pub row: Row,
    /// Mean seconds for a picture, without classifying the output; `None` for a part of another defense's run.
    pub seconds: Option<f64>,
}

/// One attack, and each defense against it.
#[derive(Clone, Debug, Serialize)]
pub struct AttackSummary {
    /// The attack: name, title and numbers.
    #[serde(flatten)]
    pub case: Case,
    /// How the numbers of the defenses are to be read.
    pub statement: &'static str,
    /// Number of attacked pictures.
    pub pictures: usize,
    /// How many of them the classifier mislabels without a defense.
    pub fooled: Proportion,
    /// Mean over the pictures of the largest change of a value, for pixels in `[0, 1]`.
    pub mean_linf: Option<f64>,
    /// Mean over the pictures of the change's Euclidean length, for pixels in `[0, 1]`.
    pub mean_l2: Option<f64>,
    /// Mean seconds to attack a picture; `None` if others attacked them.
    pub seconds: Option<f64>,
    /// Each defense against the attack, in the order of the table's rows.
    pub defenses: Vec<Defended>,
}

/// A defense against an attack.
#[derive(Clone, Debug, Serialize)]
pub struct Defended {
    /// Name of the defense.
    pub defense: String,
    /// Whether the attack was made against this defense or transferred to it.
    pub threat: Threat,
    /// How many outputs have their true labels.
    pub right: Proportion,
    /// How many outputs have their true labels, of the pictures that fool the classifier without a defense.
    pub right_of_fooled: Proportion,
    /// Mean PSNR, in dB, of the outputs against the clean pictures, without outputs that are equal to them.
    pub psnr: Option<f64>,
    /// Number of outputs that are equal to the clean picture.
    pub equal_to_clean: usize,
    /// Mean SSIM of the outputs against the clean pictures.
    pub ssim: Option<f64>,
}

/// The worst case of several attacks: how often a defense gives the true label under all of them.
#[derive(Clone, Debug, Serialize)]
pub struct WorstCase {
    /// Which attacks the worst case is of.
    pub title: String,
    /// Names of the attacks.
    pub attacks: Vec<String>,
    /// How many pictures have their true label under every one of the attacks, by the defense's name.
    pub right: BTreeMap<String, Proportion>,
}

/// How well the score tells attacked pictures from clean ones.
#[derive(Clone, Debug, Serialize)]
pub struct Detection {
    /// Clean pictures with the verdict `adversarial`.
    pub false_alarms: Proportion,
    /// Clean pictures with the verdict `undecided`.
    pub undecided: Proportion,
    /// How well each attack is detected.
    pub attacks: Vec<Detected>,
}

/// How well one attack is detected.
#[derive(Clone, Debug, Serialize)]
pub struct Detected {
    /// Name of the attack.
    pub attack: String,
    /// Area under the ROC curve of the score, attacked pictures against clean ones.
    pub area: Option<f64>,
    /// Area under the ROC curve, only of attacked pictures that fool the classifier against clean ones.
    pub area_of_fooled: Option<f64>,
    /// How many attacked pictures have the verdict `adversarial`.
    pub detected: Proportion,
    /// How many attacked pictures that fool the classifier have the verdict `adversarial`.
    pub detected_of_fooled: Proportion,
}

/// Summarizes the cells so far.
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
        CaseKind::Clean => "no attack",
        CaseKind::Noise { .. } => "no attack: random noise of the same size",
        CaseKind::Static { .. } => STATIC,
        CaseKind::Given => {
            "made by others, and it is not known what it knew; no robustness claim unless it knew the defense"
        }
        CaseKind::Adaptive { .. } => {
            "made on backstitch; for every other row a transfer, and no robustness claim"
        }
    }
}

/// The worst cases: for each size in the maximum norm of all attacks within the ball, and of the adaptive ones
/// among them; then of all attacks.
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
    // No set of attacks is shown twice.
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
    /// The results of a defense against an attack, by their names.
    pub fn find(&self, attack: &str, defense: &str) -> Option<&Defended> {
        let attack = self.attacks.iter().find(|a| a.case.name == attack)?;
        attack.defenses.iter().find(|d| d.defense == defense)
    }

    /// The line that `evaluate` prints at its end.
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
