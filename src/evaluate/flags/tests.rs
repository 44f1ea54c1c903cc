//! Each check on cells made for it: raised, and not.

use std::collections::BTreeMap;

use super::*;
use crate::attack::Name;
use crate::attack::adaptive::{Adaptive, Rule};
use crate::evaluate::cell::{Answer, Cell};
use crate::evaluate::row::Row;
use crate::evaluate::suite::{Choice, Suite, Wanted};
use crate::evaluate::view::Source;

/// The cases of these attacks, each with its size in levels where it takes one.
fn cases(wanted: &[(Option<Name>, Option<Rule>, Option<f32>)]) -> Vec<Case> {
    let choice = Choice {
        suite: Suite::Quick,
        attacks: wanted
            .iter()
            .map(|&(method, rule, levels)| Wanted {
                method,
                through: rule.map(Adaptive::new),
                eps: levels.map(|levels| levels / 255.0),
            })
            .collect(),
        queries: 10,
        defended_queries: 10,
        defended_steps: 10,
        eight_bit: true,
        ..Choice::default()
    };
    choice.cases(1000).unwrap()
}

/// Cells of pictures 0, 1, …, right (`1`) or wrong under an attack; the same for every row.
fn cells(attack: &str, right: &str) -> Vec<Cell> {
    let cell = |(i, right): (usize, char)| {
        let answer = Answer {
            label: usize::from(right != '1'),
            confidence: 1.0,
            psnr: None,
            ssim: Some(1.0),
            seconds: None,
        };
        let answers = [NONE, BACKSTITCH].map(|name| (name.to_owned(), answer.clone()));
        Cell {
            image: i.to_string(),
            label: Some(0),
            attack: attack.into(),
            zero_gradient: (attack == "clean").then_some(0.0),
            defenses: BTreeMap::from(answers),
            ..Cell::default()
        }
    };
    right.chars().enumerate().map(cell).collect()
}

/// The flag called `id` that these cells give.
fn flag(id: &str, cases: &[Case], cells: &[Cell]) -> Flag {
    let rows = [NONE, BACKSTITCH].map(|name| Row {
        name: name.into(),
        description: "",
        parameters: Value::Null,
    });
    let order: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let view = View::new(&Source {
        cells,
        cases,
        rows: &rows,
        order: &order,
        classes: 1000,
    });
    raise(&view).into_iter().find(|flag| flag.id == id).unwrap()
}

/// The state of flag `id` where two attacks give these.
fn two(id: &str, cases: &[Case], attacks: [(&str, &str); 2]) -> State {
    let all: Vec<Cell> = attacks
        .iter()
        .flat_map(|(attack, right)| {
            assert!(cases.iter().any(|case| case.name == *attack), "{attack}");
            cells(attack, right)
        })
        .collect();
    flag(id, cases, &all).state
}

const LINF_4: Option<f32> = Some(4.0);

#[test]
fn square_must_not_beat_pgd() {
    let id = "black-box-beats-white-box";
    let cases = cases(&[
        (Some(Name::Pgd), None, LINF_4),
        (Some(Name::Square), None, LINF_4),
        (Some(Name::Square), None, Some(8.0)),
    ]);
    let state = |square, pgd| two(id, &cases, [("square-linf-4", square), ("pgd-linf-4", pgd)]);
    assert_eq!(state("0011", "0111"), State::Raised);
    assert_eq!(state("0111", "0011"), State::NotRaised);
    assert_eq!(state("0101", "1010"), State::NotRaised);
    // Another size is no comparison.
    let other = two(
        id,
        &cases,
        [("square-linf-8", "0000"), ("pgd-linf-4", "1111")],
    );
    assert_eq!(other, State::NotChecked);
}

#[test]
fn many_steps_must_beat_one() {
    let id = "one-step-as-good-as-many";
    let cases = cases(&[
        (Some(Name::Fgsm), None, LINF_4),
        (Some(Name::Pgd), None, LINF_4),
    ]);
    let state = |fgsm, pgd| two(id, &cases, [("fgsm-linf-4", fgsm), ("pgd-linf-4", pgd)]);
    assert_eq!(state("0011", "0011"), State::Raised);
    assert_eq!(state("0011", "0111"), State::Raised);
    assert_eq!(state("0111", "0011"), State::NotRaised);
    // All fooled, or none by either: nothing is stuck.
    assert_eq!(state("0000", "0000"), State::NotRaised);
    assert_eq!(state("1111", "1111"), State::NotRaised);
}

#[test]
fn large_changes_must_leave_chance() {
    let id = "not-chance-at-large-eps";
    let cases = cases(&[
        (Some(Name::Pgd), None, Some(64.0)),
        (Some(Name::Pgd), None, LINF_4),
    ]);
    let state = |right: &str| flag(id, &cases, &cells("pgd-linf-64", right)).state;
    assert_eq!(state("1111000000"), State::Raised);
    assert_eq!(state("0000000000"), State::NotRaised);
    // One of ten may be chance.
    assert_eq!(state("1000000000"), State::NotRaised);
    let small = flag(id, &cases, &cells("pgd-linf-4", "1111")).state;
    assert_eq!(small, State::NotChecked);
}

#[test]
fn larger_attacks_must_not_do_less() {
    let id = "accuracy-rises-with-eps";
    let cases = cases(&[
        (Some(Name::Pgd), None, LINF_4),
        (Some(Name::Pgd), None, Some(8.0)),
        (Some(Name::Fgsm), None, Some(8.0)),
    ]);
    let state = |small, large| two(id, &cases, [("pgd-linf-4", small), ("pgd-linf-8", large)]);
    assert_eq!(state("0011", "0111"), State::Raised);
    assert_eq!(state("0011", "0001"), State::NotRaised);
    assert_eq!(state("0011", "0011"), State::NotRaised);
    let other = two(
        id,
        &cases,
        [("pgd-linf-4", "0000"), ("fgsm-linf-8", "1111")],
    );
    assert_eq!(other, State::NotChecked);
}

#[test]
fn gradients_must_not_vanish() {
    let id = "zero-gradients";
    let with = |shares: &[f64]| {
        let mut all = cells("clean", &"1".repeat(shares.len()));
        for (cell, share) in all.iter_mut().zip(shares) {
            cell.zero_gradient = Some(*share);
        }
        flag(id, &cases(&[]), &all).state
    };
    assert_eq!(with(&[0.0, 0.1, 0.4]), State::NotRaised);
    assert_eq!(with(&[0.0, 0.1, 1.0]), State::Raised);
    assert_eq!(with(&[]), State::NotChecked);
}

#[test]
fn noise_must_not_beat_attacks() {
    let id = "noise-beats-attack";
    let cases = cases(&[(None, None, LINF_4), (Some(Name::Pgd), None, LINF_4)]);
    let state = |noise, pgd| two(id, &cases, [("noise-linf-4", noise), ("pgd-linf-4", pgd)]);
    assert_eq!(state("0011", "0111"), State::Raised);
    assert_eq!(state("1111", "0111"), State::NotRaised);
}

#[test]
fn attacks_through_the_defense_are_compared_on_it_alone() {
    let cases = cases(&[
        (None, None, LINF_4),
        (Some(Name::Pgd), Some(Rule::Decision), LINF_4),
        (Some(Name::Square), Some(Rule::Queries), LINF_4),
    ]);
    let mut all = cells("noise-linf-4", "0011");
    all.extend(cells("pgd-linf-4@decision", "0111"));
    all.extend(cells("square-linf-4@queries", "0011"));
    for id in ["noise-beats-attack", "black-box-beats-white-box"] {
        let flag = flag(id, &cases, &all);
        assert_eq!(flag.state, State::Raised);
        let rows = flag.findings.iter().map(|found| found.defense.as_deref());
        assert!(rows.clone().all(|row| row == Some(BACKSTITCH)), "{id}");
        assert_eq!(rows.count(), 1);
    }
}

#[test]
fn knowing_the_defense_must_not_help_far() {
    let id = "adaptive-beats-static";
    let cases = cases(&[
        (Some(Name::Pgd), None, LINF_4),
        (Some(Name::Pgd), Some(Rule::Decision), LINF_4),
    ]);
    let of = |adaptive: &str, fixed: &str| {
        let mut all = cells("pgd-linf-4@decision", adaptive);
        all.extend(cells("pgd-linf-4", fixed));
        flag(id, &cases, &all)
    };
    let raised = of("0000000011", "0111111111");
    assert_eq!(raised.state, State::Raised);
    assert!(raised.findings[0].text.ends_with("+70 points"));
    assert_eq!(of("0111111111", "1111111111").state, State::NotRaised);
    assert_eq!(of("", "1111111111").state, State::NotChecked);
}

#[test]
fn knowing_the_defense_must_not_do_less_than_a_transfer() {
    let id = "transfer-beats-adaptive";
    let cases = cases(&[
        (Some(Name::Pgd), None, LINF_4),
        (Some(Name::Pgd), None, Some(8.0)),
        (Some(Name::Pgd), Some(Rule::Decision), LINF_4),
    ]);
    let of = |adaptive, other, fixed| {
        two(
            id,
            &cases,
            [("pgd-linf-4@decision", adaptive), (other, fixed)],
        )
    };
    assert_eq!(of("0111", "pgd-linf-4", "0011"), State::Raised);
    assert_eq!(of("0011", "pgd-linf-4", "0111"), State::NotRaised);
    assert_eq!(of("0101", "pgd-linf-4", "1010"), State::NotRaised);
    // Another size is no comparison.
    assert_eq!(of("1111", "pgd-linf-8", "0000"), State::NotChecked);
}

#[test]
fn attacks_must_change_something() {
    let id = "attack-changes-nothing";
    let cases = cases(&[(Some(Name::Pgd), None, Some(0.5))]);
    let with = |changes: &[f64]| {
        let mut all = cells("pgd-linf-0.5", &"1".repeat(changes.len()));
        for (cell, linf) in all.iter_mut().zip(changes) {
            cell.linf = Some(*linf);
        }
        flag(id, &cases, &all).state
    };
    assert_eq!(with(&[0.0, 0.0]), State::Raised);
    assert_eq!(with(&[0.0, 0.001]), State::NotRaised);
    assert_eq!(with(&[]), State::NotChecked);
}

#[test]
fn digits_must_be_paid_for_with_pictures() {
    let id = "too-few-pictures";
    let state = |right: &str| flag(id, &cases(&[]), &cells("clean", right)).state;
    assert_eq!(state(&"10".repeat(20)), State::Raised);
    assert_eq!(state(&"10".repeat(400)), State::NotRaised);
    assert_eq!(state(""), State::NotChecked);
}

#[test]
fn a_finding_says_its_numbers() {
    let cases = cases(&[
        (Some(Name::Fgsm), None, LINF_4),
        (Some(Name::Pgd), None, LINF_4),
    ]);
    let mut all = cells("fgsm-linf-4", "0011");
    all.extend(cells("pgd-linf-4", "0111"));
    let flag = flag("one-step-as-good-as-many", &cases, &all);
    let text = &flag.findings[0].text;
    for part in [
        "none (white-box)",
        "fgsm-linf-4 2 of 4",
        "pgd-linf-4 3 of 4",
        "first alone 1",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(flag.findings[1].text.starts_with("backstitch (transfer)"));
    assert_eq!(flag.findings[0].numbers["paired"]["pictures"], 4);
}
