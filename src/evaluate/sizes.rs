//! Attacks in the maximum norm by their size: accuracy against size, and the size that breaks a picture.

use std::collections::BTreeMap;
use std::mem::discriminant;

use serde::Serialize;

use super::case::{Case, CaseKind, fraction};
use super::row::NONE;
use super::statistics::{Proportion, lower_median};
use super::view::View;
use crate::attack::Norm;

/// Accuracy against the size of an attack in the maximum norm.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The attack without its size: `PGD-20`.
    pub title: String,
    /// One point for each size, rising; the first is of the clean pictures, its size 0.
    pub points: Vec<CurvePoint>,
}

/// Accuracy at one size.
#[derive(Clone, Debug, Serialize)]
pub struct CurvePoint {
    /// Size in the maximum norm, for pixels in `[0, 1]`.
    pub eps: f32,
    /// Names of the attacks.
    pub attacks: Vec<String>,
    /// How many pictures have their true label under every one of the attacks, by the defense's name.
    pub right: BTreeMap<String, Proportion>,
}

/// The smallest size in the maximum norm at which any attack breaks a defense, for the median picture.
#[derive(Clone, Debug, Serialize)]
pub struct Breaking {
    /// Name of the defense.
    pub defense: String,
    /// Number of pictures that have every attack in the maximum norm.
    pub pictures: usize,
    /// The smallest size, of those that were run, at which at least half of the pictures are wrong under an attack
    /// of up to this size; 0 if half are wrong when clean.
    pub median_eps: f32,
    /// Whether even the largest size breaks fewer than half: `median_eps` is then the largest size.
    pub at_least: bool,
    /// `median_eps` divided by that without a defense, and a lower bound where `at_least` holds; `None` if that
    /// without a defense is 0 or not reached.
    pub ratio: Option<f32>,
}

/// An attack's size in the maximum norm; `None` for other norms, given attacks, noise and clean pictures.
pub(super) fn size(case: &Case) -> Option<f32> {
    let ball = case.budget().filter(|_| case.is_attack())?;
    (ball.norm == Norm::Linf).then_some(ball.eps)
}

/// The sizes of the attacks in the maximum norm, rising.
pub(super) fn sizes(cases: &[Case]) -> Vec<f32> {
    let mut sizes: Vec<f32> = cases.iter().filter_map(size).collect();
    sizes.sort_by(f32::total_cmp);
    sizes.dedup();
    sizes
}

/// Attacks of up to a size in the maximum norm.
pub(super) fn up_to(cases: &[Case], eps: f32) -> Vec<&Case> {
    let within = |case: &&Case| size(case).is_some_and(|other| other <= eps);
    cases.iter().filter(within).collect()
}

/// Whether two attacks are the same but for their size: the same method, the same way through the defense.
pub(super) fn same_but_size(a: &Case, b: &Case) -> bool {
    let way = |case: &Case| match case.kind {
        CaseKind::Adaptive { through, .. } => Some(through),
        _ => None,
    };
    match (a.method(), b.method()) {
        (Some(one), Some(other)) => discriminant(one) == discriminant(other) && way(a) == way(b),
        _ => false,
    }
}

/// Accuracy against size under all attacks in the maximum norm together, then under each that was run at several
/// sizes; empty if only one size was run.
pub(super) fn curves(view: &View<'_>) -> Vec<Curve> {
    let sizes = sizes(view.cases);
    if sizes.len() < 2 {
        return Vec::new();
    }
    let alone = |eps: f32, case: &Case| CurvePoint {
        eps,
        attacks: vec![case.name.clone()],
        right: view.by_defense(|defense| view.right(&case.name, defense)),
    };
    let together = |&eps: &f32| {
        let attacks = up_to(view.cases, eps);
        CurvePoint {
            eps,
            attacks: attacks.iter().map(|case| case.name.clone()).collect(),
            right: view.by_defense(|defense| view.worst(&attacks, defense)),
        }
    };
    let curve = |title, points: &mut dyn Iterator<Item = CurvePoint>| Curve {
        title,
        points: [alone(0.0, &Case::clean())]
            .into_iter()
            .chain(points)
            .collect(),
    };
    let mut curves = vec![curve(
        "worst case, every attack".into(),
        &mut sizes.iter().map(together),
    )];
    for (i, first) in view.cases.iter().enumerate() {
        if view.cases[..i]
            .iter()
            .any(|case| same_but_size(case, first))
        {
            continue;
        }
        let same = view.cases.iter().filter(|case| same_but_size(first, case));
        let mut family: Vec<(f32, &Case)> =
            same.filter_map(|case| Some((size(case)?, case))).collect();
        family.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let [(eps, first), _, ..] = family[..] {
            curves.push(curve(
                first.title.replace(&format!(", L∞ {}", fraction(eps)), ""),
                &mut family.into_iter().map(|(eps, case)| alone(eps, case)),
            ));
        }
    }
    curves
}

/// The size that breaks the median picture, for each defense; empty if only one size was run.
pub(super) fn breaking(view: &View<'_>) -> Vec<Breaking> {
    let sizes = sizes(view.cases);
    let (Some(&largest), true) = (sizes.last(), sizes.len() > 1) else {
        return Vec::new();
    };
    let attacks = up_to(view.cases, largest);
    let of = |defense: &str| {
        let broken_at = |rights: &Vec<bool>| {
            let sizes = [0.0]
                .into_iter()
                .chain(attacks.iter().filter_map(|case| size(case)));
            let wrong = rights.iter().zip(sizes).filter(|(right, _)| !**right);
            wrong.map(|(_, eps)| eps).fold(f32::INFINITY, f32::min)
        };
        let broken: Vec<f32> = view
            .rights(&attacks, defense)
            .iter()
            .map(broken_at)
            .collect();
        (broken.len(), lower_median(broken))
    };
    let without = of(NONE).1.filter(|eps| eps.is_finite() && *eps > 0.0);
    let row = |defense: &str| {
        let (pictures, median) = of(defense);
        let median = median?;
        let median_eps = median.min(largest);
        Some(Breaking {
            defense: defense.to_owned(),
            pictures,
            median_eps,
            at_least: median > largest,
            ratio: without.map(|without| median_eps / without),
        })
    };
    view.rows
        .iter()
        .filter_map(|defense| row(&defense.name))
        .collect()
}
