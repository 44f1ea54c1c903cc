//! The numbers of an evaluation's tables, computed from its cells.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::case::{Case, CaseKind, Threat, fraction};
use super::cell::{Cell, Excluded};
use super::flags::{Flag, raise};
use super::row::{BACKSTITCH, NONE, Row};
use super::sizes::{Breaking, Curve, breaking, curves, sizes, up_to};
use super::statistics::{Proportion, mean, roc_area};
use super::view::{Source, View};
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
    /// The worst cases, the one of every attack first.
    pub worst_cases: Vec<WorstCase>,
    /// Accuracy against the size in the maximum norm, of all attacks together and of each; empty if only one size
    /// was run, as `breaking` is.
    pub curves: Vec<Curve>,
    /// The size that breaks the median picture, for each defense.
    pub breaking: Vec<Breaking>,
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
    /// How many pictures the defense helps: wrong without a defense, and right with it.
    pub help: usize,
    /// How many pictures the defense harms: right without a defense, and wrong with it.
    pub harm: usize,
    /// Mean PSNR, in dB, of the outputs against the clean pictures, without outputs that are equal to them.
    pub psnr: Option<f64>,
    /// Number of outputs that are equal to the clean picture.
    pub equal_to_clean: usize,
    /// Mean SSIM of the outputs against the clean pictures.
    pub ssim: Option<f64>,
}

/// A worst case: how often a defense gives the true label for the clean picture and under all of some attacks.
#[derive(Clone, Debug, Serialize)]
pub struct WorstCase {
    /// Which attacks the worst case is of.
    pub title: String,
    /// Names of the attacks.
    pub attacks: Vec<String>,
    /// How many pictures have their true label when clean and under every one of the attacks, by the defense's name.
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
        curves: curves(&view),
        breaking: breaking(&view),
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
        let count = |without: bool, with: bool| {
            let both = |cell: &&&Cell| {
                cell.is_right(NONE) == Some(without) && cell.is_right(&row.name) == Some(with)
            };
            cells.iter().filter(both).count()
        };
        Defended {
            defense: row.name.clone(),
            threat: case.threat(&row.name),
            right: view.right(&case.name, &row.name),
            right_of_fooled: Proportion::of(fooled.filter_map(|cell| cell.is_right(&row.name))),
            help: count(false, true),
            harm: count(true, false),
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

/// The worst cases, beginning with the largest set of attacks: of every attack, then for each size in the maximum
/// norm, from the largest, of all attacks within the ball and of the adaptive ones among them.
fn worst_cases(view: &View<'_>) -> Vec<WorstCase> {
    let every = view.cases.iter().filter(|case| case.is_attack()).collect();
    let mut groups: Vec<(String, Vec<&Case>)> = vec![("every attack".into(), every)];
    for eps in sizes(view.cases).into_iter().rev() {
        let within = up_to(view.cases, eps);
        let adaptive = within.iter().copied().filter(|case| case.is_adaptive());
        let adaptive = adaptive.collect();
        let title = format!("L∞ up to {}", fraction(eps));
        let alone = format!("{title}, adaptive attacks alone");
        groups.extend([(title, within), (alone, adaptive)]);
    }
    // No set of attacks is shown twice.
    let mut shown: Vec<Vec<&str>> = vec![Vec::new()];
    groups.retain(|(_, cases)| {
        let names = cases.iter().map(|case| case.name.as_str()).collect();
        let new = !shown.contains(&names);
        shown.push(names);
        new
    });
    let of = |(title, cases): (String, Vec<&Case>)| WorstCase {
        title: format!("worst case, {title}"),
        right: view.by_defense(|defense| view.worst(&cases, defense)),
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

    /// The worst case of every attack for a defense; `None` if there is no attack.
    pub(super) fn worst(&self, defense: &str) -> Option<Proportion> {
        self.worst_cases.first()?.right.get(defense).copied()
    }

    /// The line that `evaluate` prints at its end.
    pub fn line(&self) -> String {
        let raised = self.flags.iter().filter(|flag| flag.is_raised()).count();
        let of = |proportion: Option<Proportion>, word| {
            let text = |p: Proportion| format!(", {} of {} {word}", p.count, p.of);
            proportion.map_or(String::new(), text)
        };
        format!(
            "{} pictures count{}{}; {raised} of {} flags raised",
            self.pictures.counted,
            of(self.find("clean", BACKSTITCH).map(|d| d.right), "kept"),
            of(self.worst(BACKSTITCH), "right in the worst case"),
            self.flags.len()
        )
    }
}
