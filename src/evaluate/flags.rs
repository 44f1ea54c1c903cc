//! Flags: signs that a result looks wrong, which every evaluation checks for.
//!
//! The checks are those of Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of
//! security" (2018), section 3.1, and of Carlini et al., "On evaluating adversarial robustness" (2019).
//! A raised flag does not prove that a result is wrong, and one that is not raised does not prove that it is
//! right, so each comes with its numbers.

use serde::Serialize;
use serde_json::{Value, json};

use super::case::{Case, CaseKind, Threat};
use super::row::{BACKSTITCH, NONE};
use super::sizes::{same_but_size, size};
use super::statistics::Proportion;
use super::suite::LARGE;
use super::view::{Paired, View};
use crate::attack::Method;

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Flag {
    /// Short and unique: `black-box-beats-white-box`.
    pub id: &'static str,
    /// What was found, if the flag is raised.
    pub title: &'static str,
    /// Why that is a bad sign.
    pub reason: &'static str,
    /// Whether the flag is raised.
    pub state: State,
    /// What the check needs in an evaluation.
    pub needs: &'static str,
    /// The comparisons that raise the flag; all comparisons if none does.
    pub findings: Vec<Finding>,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The check found what it looks for.
    Raised,
    /// The check was made and found nothing.
    NotRaised,
    /// The evaluation lacks what the check needs.
    NotChecked,
}

/// One comparison of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Name of the defense; absent if the comparison is about the classifier's gradients or the pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defense: Option<String>,
    /// Whether this comparison raises the flag.
    pub raised: bool,
    /// One sentence with the numbers.
    pub text: String,
    /// The numbers compared, by name; the fields depend on the check.
    pub numbers: Value,
}

impl Flag {
    /// Whether the check found what it looks for.
    pub fn is_raised(&self) -> bool {
        self.state == State::Raised
    }

    fn new(
        id: &'static str,
        title: &'static str,
        reason: &'static str,
        needs: &'static str,
        mut findings: Vec<Finding>,
    ) -> Flag {
        let raised = findings.iter().any(|finding| finding.raised);
        let state = match (findings.is_empty(), raised) {
            (true, _) => State::NotChecked,
            (_, true) => State::Raised,
            (_, false) => State::NotRaised,
        };
        if raised {
            findings.retain(|finding| finding.raised);
        }
        Flag {
            id,
            title,
            reason,
            state,
            needs,
            findings,
        }
    }
}

/// Every check.
pub(super) fn raise(view: &View<'_>) -> Vec<Flag> {
    vec![
        Flag::new(
            "black-box-beats-white-box",
            "an attack without gradients beats those with them",
            "An attack with gradients can do all that an attack without them can. If it fools less often, the \
             gradients mislead it (masked gradients), and the accuracy under it means nothing. For a row \
             that the attacks were not made on, it can also mean that they do not transfer to it.",
            "Square and a gradient attack of the same size, both made on the same",
            black_box(view),
        ),
        Flag::new(
            "one-step-as-good-as-many",
            "one step does as well as many",
            "An iterated attack can do all that a single step can. If it does not fool more often, it is stuck, \
             or it does not transfer to the row.",
            "FGSM and PGD of the same size",
            one_step(view),
        ),
        Flag::new(
            "not-chance-at-large-eps",
            "accuracy does not fall to chance at a large size",
            "A change of this size can remove everything that the picture shows. Accuracy above chance means \
             that the attack fails, not that the row is robust.",
            "PGD of size 32/255 or more",
            large_eps(view),
        ),
        Flag::new(
            "accuracy-rises-with-eps",
            "a larger attack does less",
            "A larger ball contains the smaller one. If accuracy rises with the size, a stronger attack of \
             the larger size exists.",
            "one attack at two sizes",
            rising(view),
        ),
        Flag::new(
            "zero-gradients",
            "gradients vanish",
            "An attack that follows a gradient of zero does not move. Accuracy under it does not show robustness.",
            "clean pictures that count",
            zero_gradients(view),
        ),
        Flag::new(
            "noise-beats-attack",
            "random noise does more than an attack",
            "An attack that fools less often than random noise of the same size is broken, or does not \
             transfer to the row.",
            "noise and an attack of the same size",
            noise(view),
        ),
        Flag::new(
            "adaptive-beats-static",
            "attacks that know the defense do far better",
            "The accuracy under attacks on the classifier alone is then only valid for attackers who do not \
             know the defense; only the accuracy under adaptive attacks describes the defense.",
            "adaptive attacks and attacks on the classifier alone, of the same size",
            adaptive(view),
        ),
        Flag::new(
            "transfer-beats-adaptive",
            "an attack that knows the defense does less than one that does not",
            "An attacker who knows the defense can do all that one who does not can. If the adaptive attack fools \
             less often, it has too few steps or follows the wrong direction, and the accuracy under it means \
             nothing.",
            "adaptive attacks and attacks on the classifier alone, of the same size",
            transfer(view),
        ),
        Flag::new(
            "attack-changes-nothing",
            "an attack changes nothing",
            "Accuracy under it is that of the clean pictures. Pictures of 8 bits cannot change by less than 1/255: \
             smaller sizes need --exact.",
            "attacks, and the clean versions of their pictures",
            unchanged(view),
        ),
        Flag::new(
            "too-few-pictures",
            "too few pictures for the digits shown",
            "Accuracies are shown in whole points. If the 95% interval is wider than ten points, a difference \
             of a few points between rows can be chance.",
            "pictures that count",
            too_few(view),
        ),
    ]
}

fn same_size(a: &Case, b: &Case) -> bool {
    a.budget().is_some() && a.budget() == b.budget()
}

fn is_square(case: &Case) -> bool {
    matches!(case.method(), Some(Method::Square(_)))
}

fn count_of(count: usize, of: usize) -> String {
    format!("{count} of {of}")
}

/// The finding of a comparison of two attacks.
fn compare(
    raised: bool,
    defense: &str,
    threat: Threat,
    attacks: [&Case; 2],
    paired: Paired,
) -> Finding {
    let [a, b] = attacks;
    Finding {
        defense: Some(defense.to_owned()),
        raised,
        text: format!(
            "{defense} ({}): right under {} {}, under {} {}; wrong under the first alone {}, under the \
             second alone {}",
            threat.name(),
            a.name,
            count_of(paired.right[0], paired.pictures),
            b.name,
            count_of(paired.right[1], paired.pictures),
            paired.only_wrong[0],
            paired.only_wrong[1],
        ),
        numbers: json!({ "attacks": [a.name, b.name], "threat": threat, "paired": paired }),
    }
}

/// All pairs of cases that `fit`, against every defense; `raised` says which pairs are a bad sign. Adaptive
/// attacks are compared against the defense that they were made on only.
fn pairs(
    view: &View<'_>,
    fit: impl Fn(&Case, &Case) -> bool,
    raised: impl Fn(&Paired) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for a in view.cases {
        for b in view.cases.iter().filter(|b| fit(a, b)) {
            let through = a.is_adaptive() || b.is_adaptive();
            let rows = view.rows.iter();
            for row in rows.filter(|row| !through || row.name == BACKSTITCH) {
                let paired = view.paired([&a.name, &b.name], &row.name);
                if paired.pictures > 0 {
                    let threat = b.threat(&row.name);
                    findings.push(compare(raised(&paired), &row.name, threat, [a, b], paired));
                }
            }
        }
    }
    findings
}

fn black_box(view: &View<'_>) -> Vec<Finding> {
    pairs(
        view,
        |a, b| {
            let gradients = b.is_attack() && !is_square(b);
            is_square(a) && gradients && same_size(a, b) && a.is_adaptive() == b.is_adaptive()
        },
        |paired| paired.right[0] < paired.right[1],
    )
}

fn one_step(view: &View<'_>) -> Vec<Finding> {
    let is = |case: &Case, one: bool| match case.method() {
        Some(Method::Fgsm(_)) => one,
        Some(Method::Pgd(_) | Method::Bim(_)) => !one,
        _ => false,
    };
    pairs(
        view,
        |a, b| {
            let same_victim = a.is_adaptive() == b.is_adaptive();
            is(a, true) && is(b, false) && same_size(a, b) && same_victim
        },
        // If both fool all pictures, or none, nothing shows that one is stuck.
        |paired| {
            let [one, many] = paired.right;
            one <= many && many > 0 && one < paired.pictures
        },
    )
}

fn large_eps(view: &View<'_>) -> Vec<Finding> {
    let chance = 1.0 / view.classes.max(1) as f64;
    let mut findings = Vec::new();
    for case in view.cases {
        let (Some(Method::Pgd(pgd)), false) = (case.method(), case.is_adaptive()) else {
            continue;
        };
        if pgd.eps < LARGE / 2.0 {
            continue;
        }
        for row in view.rows {
            let right = view.right(&case.name, &row.name);
            let Some(low) = right.low else { continue };
            let threat = case.threat(&row.name);
            findings.push(Finding {
                defense: Some(row.name.clone()),
                raised: low > chance.max(LEAST_CHANCE),
                text: format!(
                    "{} ({}): right under {} {}, at least {:.0}%; chance is {:.1}%",
                    row.name,
                    threat.name(),
                    case.name,
                    count_of(right.count, right.of),
                    100.0 * low,
                    100.0 * chance
                ),
                numbers: json!({ "attack": case.name, "threat": threat, "right": right, "chance": chance }),
            });
        }
    }
    findings
}

/// Accuracies up to this count as chance, for any number of classes.
const LEAST_CHANCE: f64 = 0.05;

fn rising(view: &View<'_>) -> Vec<Finding> {
    pairs(
        view,
        |a, b| {
            matches!((size(a), size(b)), (Some(small), Some(large)) if small < large)
                && same_but_size(a, b)
        },
        |paired| paired.right[0] < paired.right[1],
    )
}

/// A gradient counts as vanished if a larger share of it is zero.
const VANISHED: f64 = 0.5;
/// Share of the pictures with vanished gradients from which on the flag is raised.
const MANY: f64 = 0.05;

fn zero_gradients(view: &View<'_>) -> Vec<Finding> {
    let cells = view.cells(&Case::clean().name);
    let shares = cells.iter().filter_map(|cell| cell.zero_gradient);
    let vanished = Proportion::of(shares.map(|share| share > VANISHED));
    let Some(share) = vanished.share else {
        return Vec::new();
    };
    vec![Finding {
        defense: None,
        raised: share >= MANY,
        text: format!(
            "the gradient of the classifier's cross-entropy is zero or not a number in more than half of the \
             values for {} clean pictures",
            count_of(vanished.count, vanished.of)
        ),
        numbers: json!({ "pictures": vanished }),
    }]
}

fn noise(view: &View<'_>) -> Vec<Finding> {
    pairs(
        view,
        |a, b| matches!(a.kind, CaseKind::Noise { .. }) && b.is_attack() && same_size(a, b),
        |paired| paired.right[0] < paired.right[1],
    )
}

/// How far the accuracy under an adaptive attack may be below that under a static one, as a share of the
/// pictures.
const FAR: f64 = 0.1;

fn adaptive(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for a in view.cases.iter().filter(|case| case.is_adaptive()) {
        for b in view.cases {
            if !b.is_attack() || b.is_adaptive() || !same_size(a, b) {
                continue;
            }
            let paired = view.paired([&a.name, &b.name], BACKSTITCH);
            if paired.pictures == 0 {
                continue;
            }
            let [knowing, ignorant] = paired.right.map(|n| n as f64 / paired.pictures as f64);
            let raised = ignorant - knowing > FAR;
            let found = compare(raised, BACKSTITCH, a.threat(BACKSTITCH), [a, b], paired);
            let points = 100.0 * (ignorant - knowing);
            findings.push(Finding {
                text: format!("{}: {points:+.0} points", found.text),
                ..found
            });
        }
    }
    findings
}

fn transfer(view: &View<'_>) -> Vec<Finding> {
    pairs(
        view,
        |a, b| a.is_adaptive() && b.is_attack() && !b.is_adaptive() && same_size(a, b),
        |paired| paired.right[0] > paired.right[1],
    )
}

fn unchanged(view: &View<'_>) -> Vec<Finding> {
    let of = |case: &Case| {
        let changes = view.cells(&case.name).iter().filter_map(|cell| cell.linf);
        let changed = Proportion::of(changes.map(|linf| linf > 0.0));
        (changed.of > 0).then(|| Finding {
            defense: None,
            raised: changed.count == 0,
            text: format!(
                "{} changes {} pictures",
                case.name,
                count_of(changed.count, changed.of)
            ),
            numbers: json!({ "attack": case.name, "changed": changed }),
        })
    };
    let attacks = view.cases.iter().filter(|case| case.is_attack());
    attacks.filter_map(of).collect()
}

/// The widest 95% interval for which whole points are meaningful.
const WIDEST: f64 = 0.1;

fn too_few(view: &View<'_>) -> Vec<Finding> {
    let mut widest: Option<(Proportion, &str, &str)> = None;
    for case in view.cases {
        for defense in [NONE, BACKSTITCH] {
            let right = view.right(&case.name, defense);
            let wider = widest.is_none_or(|(other, ..)| right.width() > other.width());
            if right.of > 0 && wider {
                widest = Some((right, &case.name, defense));
            }
        }
    }
    let Some((right, attack, defense)) = widest else {
        return Vec::new();
    };
    let ends = [right.low, right.high].map(|end| 100.0 * end.unwrap_or_default());
    vec![Finding {
        defense: None,
        raised: right.width() > WIDEST,
        text: format!(
            "{} pictures: one is {:.1} points, and the widest 95% interval ({defense} under {attack}) is from \
             {:.0}% to {:.0}%",
            right.of,
            100.0 / right.of as f64,
            ends[0],
            ends[1]
        ),
        numbers: json!({ "right": right, "attack": attack, "defense": defense }),
    }]
}

#[cfg(test)]
mod tests;
