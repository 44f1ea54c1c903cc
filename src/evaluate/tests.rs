//! Summaries of cells made by hand.

use std::collections::BTreeMap;

use serde_json::Value;

use super::suite::{Choice, Wanted};
use super::*;
use crate::attack::Name;
use crate::attack::adaptive::{Adaptive, Rule};

/// Cells of pictures 0, 1, …, right (`1`) or wrong without a defense, and with ours.
fn cells(attack: &str, none: &str, ours: &str) -> Vec<Cell> {
    let cell = |(i, (none, ours)): (usize, (char, char))| {
        let answer = |right: char| Answer {
            label: usize::from(right != '1'),
            confidence: 1.0,
            psnr: None,
            ssim: Some(1.0),
            seconds: None,
        };
        Cell {
            image: i.to_string(),
            label: Some(0),
            attack: attack.into(),
            linf: (attack != "clean").then_some(0.01),
            defenses: BTreeMap::from([
                (NONE.to_owned(), answer(none)),
                (BACKSTITCH.to_owned(), answer(ours)),
            ]),
            ..Cell::default()
        }
    };
    none.chars()
        .zip(ours.chars())
        .enumerate()
        .map(cell)
        .collect()
}

/// FGSM and PGD through the decision at 1, 2 and 4/255, and a C&W.
fn cases() -> Vec<Case> {
    let at = |method, through, levels: f32| Wanted {
        method: Some(method),
        through,
        eps: Some(levels / 255.0),
    };
    let through = Some(Adaptive::new(Rule::Decision));
    // Out of order, as a user may name them.
    let mut attacks: Vec<Wanted> = [2.0, 1.0, 4.0]
        .into_iter()
        .flat_map(|levels| [at(Name::Fgsm, None, levels), at(Name::Pgd, through, levels)])
        .collect();
    attacks.push(Wanted {
        method: Some(Name::Cw),
        through: None,
        eps: None,
    });
    let choice = Choice {
        attacks,
        queries: 10,
        defended_queries: 10,
        defended_steps: 10,
        ..Choice::default()
    };
    choice.cases(1000).unwrap()
}

fn summary(cases: &[Case], cells: &[Cell]) -> Evaluation {
    let row = |name: &str| Row {
        name: name.into(),
        description: "",
        parameters: Value::Null,
    };
    let order: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    let source = Source {
        cells,
        cases,
        rows: &[row(NONE), row(BACKSTITCH)],
        order: &order,
        classes: 1000,
    };
    summarize(&source, Value::Null, "a device".into(), "done")
}

/// Five pictures: without a defense they break at 1, 1, 1, 2 and 4/255; with ours, picture 0 is wrong when clean,
/// 1 breaks at 2/255, 2 and 3 at 4/255, and 4 never.
fn five() -> Vec<Cell> {
    [
        cells("clean", "11111", "01111"),
        cells("fgsm-linf-1", "00011", "11111"),
        cells("fgsm-linf-2", "00001", "11111"),
        cells("fgsm-linf-4", "00000", "11011"),
        cells("pgd-linf-1@decision", "11111", "11111"),
        // Its own success at the smaller size is not lost at the larger.
        cells("pgd-linf-2@decision", "11111", "10111"),
        cells("pgd-linf-4@decision", "11111", "11001"),
        cells("cw-l2", "00000", "11110"),
    ]
    .concat()
}

fn counts(right: &BTreeMap<String, Proportion>) -> [usize; 2] {
    assert!(right.values().all(|right| right.of == 5));
    [NONE, BACKSTITCH].map(|defense| right[defense].count)
}

#[test]
fn help_and_harm_are_counted_by_picture() {
    let all = [
        cells("clean", "1111", "0111"),
        cells("cw-l2", "0011", "1101"),
    ];
    let evaluation = summary(&cases(), &all.concat());
    let of = |attack| {
        let ours = evaluation.find(attack, BACKSTITCH).unwrap();
        let none = evaluation.find(attack, NONE).unwrap();
        assert_eq!((none.help, none.harm), (0, 0));
        (ours.help, ours.harm)
    };
    assert_eq!(of("clean"), (0, 1));
    assert_eq!(of("cw-l2"), (2, 1));
    let text = markdown::render(&sheet::document(&evaluation));
    assert!(
        text.contains(
            "| C&W-50, L2 | static | 4 | 2 | 3 | 2 | 1 |"
                .replace('&', "\\&")
                .as_str()
        ),
        "{text}"
    );
}

#[test]
fn the_worst_case_comes_first_and_includes_the_clean_picture() {
    let evaluation = summary(&cases(), &five());
    let shown = evaluation.worst_cases.iter();
    let shown: Vec<_> = shown
        .map(|worst| {
            (
                &worst.title[12..],
                worst.attacks.len(),
                counts(&worst.right),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("every attack", 7, [0, 0]),
            ("L∞ up to 4/255", 6, [0, 1]),
            ("L∞ up to 4/255, adaptive attacks alone", 3, [5, 1]),
            ("L∞ up to 2/255", 4, [1, 3]),
            ("L∞ up to 2/255, adaptive attacks alone", 2, [5, 3]),
            ("L∞ up to 1/255", 2, [2, 4]),
            ("L∞ up to 1/255, adaptive attacks alone", 1, [5, 4]),
        ]
    );
    let document = sheet::document(&evaluation);
    assert_eq!(document.sheets[0].title, "Worst case");
    assert!(
        document.lead[0].contains("0 of 5 pictures stay right with backstitch, 0 of 5 without")
    );
    assert!(
        evaluation
            .line()
            .contains("4 of 5 kept, 0 of 5 right in the worst case")
    );
}

#[test]
fn a_picture_without_its_clean_version_is_trusted_to_be_right_when_clean() {
    let clean = Cell {
        image: "0".into(),
        label: Some(0),
        attack: "clean".into(),
        ..Cell::default()
    };
    let all = [vec![clean], cells("given:x", "1", "1")].concat();
    let evaluation = summary(&[Case::clean(), Case::given("x")], &all);
    let worst = &evaluation.worst_cases[0].right;
    assert_eq!(worst[BACKSTITCH], Proportion::new(1, 1));
}

#[test]
fn accuracy_is_drawn_against_the_size_of_each_attack() {
    let evaluation = summary(&cases(), &five());
    let curves = evaluation.curves.iter();
    let curves: Vec<_> = curves
        .map(|curve| {
            let points = curve.points.iter();
            let levels = points
                .clone()
                .map(|point| (point.eps * 255.0).round() as u32);
            assert_eq!(levels.collect::<Vec<_>>(), [0, 1, 2, 4]);
            let rights: Vec<_> = points.map(|point| counts(&point.right)).collect();
            (&curve.title[..], rights)
        })
        .collect();
    assert_eq!(
        curves,
        [
            (
                "worst case, every attack",
                vec![[5, 4], [2, 4], [1, 3], [0, 1]]
            ),
            ("FGSM", vec![[5, 4], [2, 5], [1, 5], [0, 4]]),
            (
                "PGD-10, through the defense by decision",
                vec![[5, 4], [5, 5], [5, 4], [5, 3]]
            ),
        ]
    );
    let document = sheet::document(&evaluation);
    let (text, page) = (markdown::render(&document), html::render(&document));
    for part in [
        "| attack | defense | clean | 1/255 | 2/255 | 4/255 |",
        "| FGSM | none | 100 (57–100) | 40 (12–77) | 20 (4–62) | 0 (0–43) |",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(page.matches("<svg").count(), 1);
    assert!(!page.contains("xmlns"));
}

#[test]
fn the_median_picture_breaks_at_the_first_size_that_breaks_half() {
    let evaluation = summary(&cases(), &five());
    let [none, ours] = &evaluation.breaking[..] else {
        panic!("{:?}", evaluation.breaking)
    };
    let levels = |of: &Breaking| (of.median_eps * 255.0, of.at_least, of.pictures);
    assert_eq!(levels(none), (1.0, false, 5));
    assert_eq!(levels(ours), (4.0, false, 5));
    assert_eq!(ours.ratio, Some(4.0));
    let document = sheet::document(&evaluation);
    assert!(
        document.lead[1]
            .contains("4/255 with backstitch, and of 1/255 without a defense: 4 times."),
        "{:?}",
        document.lead
    );
}

#[test]
fn a_median_that_is_not_reached_is_a_lower_bound() {
    let of = |none: [&str; 2], ours: [&str; 2]| {
        let all = [
            cells("clean", "1111", "1111"),
            cells("fgsm-linf-1", none[0], ours[0]),
            cells("fgsm-linf-4", none[1], ours[1]),
        ];
        let mut cases = cases();
        cases.retain(|case| ["clean", "fgsm-linf-1", "fgsm-linf-4"].contains(&&case.name[..]));
        summary(&cases, &all.concat())
    };
    let evaluation = of(["1011", "0010"], ["1111", "0111"]);
    let ours = &evaluation.breaking[1];
    assert_eq!(
        (ours.median_eps * 255.0, ours.at_least, ours.ratio),
        (4.0, true, Some(1.0))
    );
    let document = sheet::document(&evaluation);
    for text in [markdown::render(&document), html::render(&document)] {
        for part in [
            "at least 4/255 with backstitch",
            "at least 1 times",
            "at least 4/255",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    // Where no defense is needed there is nothing to compare with.
    let evaluation = of(["1111", "1111"], ["1111", "1111"]);
    let bounds = evaluation.breaking.iter().map(|of| (of.at_least, of.ratio));
    assert_eq!(bounds.collect::<Vec<_>>(), [(true, None), (true, None)]);
}

#[test]
fn one_size_gives_no_curve() {
    let mut cases = cases();
    cases.retain(|case| ["clean", "fgsm-linf-4", "cw-l2"].contains(&&case.name[..]));
    let evaluation = summary(&cases, &five());
    assert!(evaluation.curves.is_empty() && evaluation.breaking.is_empty());
    let page = html::render(&sheet::document(&evaluation));
    assert!(!page.contains("<svg") && !page.contains("median ε"));
}
