//! The decision-aware loss on readings made up, against what the defense decides of them.

use crate::attack::adaptive::decision::{Ascent, Decision, Way};
use crate::attack::losses::{Aim, Loss};
use crate::defense::{DecisionMap, Judgment, Reading, Segment, SegmentPoint, VerdictOptions};
use crate::random::{Purpose, RandomKey};

/// Random logits, the first numbers of a sequence.
fn readings(seed: u64, count: usize, classes: usize) -> Vec<Reading> {
    let key = RandomKey {
        seed,
        ..RandomKey::default()
    };
    let mut logits = vec![0.0; count * classes];
    key.normal(Purpose::Parameters, 0, logits.len(), |i, g| {
        logits[i] = 2.0 * g
    });
    logits.chunks_exact(classes).map(Reading::new).collect()
}

/// The map on which these readings vote.
fn map(input: &Reading, views: &[Reading], votes: &[Reading]) -> DecisionMap {
    let point = |reading: &Reading| SegmentPoint {
        t: 0.0,
        reading: reading.clone(),
        mirrored: None,
        noisy: None,
    };
    DecisionMap {
        input: input.clone(),
        views: views.to_vec(),
        trajectories: vec![vec![]],
        segments: vec![vec![Segment {
            probe: 0,
            points: votes.iter().map(point).collect(),
        }]],
    }
}

/// What the defense judges by the readings of an input, of what is shown, and of the votes; and of the input's
/// views.
fn judge(verdict: &VerdictOptions, all: &[Reading], views: &[Reading]) -> Judgment {
    let map = map(&all[0], views, &all[2..]);
    verdict.judge(&map.input, &map.views, &map.support())
}

/// The ascent for the same readings, on the nearest way.
fn ascend(
    verdict: &VerdictOptions,
    always: bool,
    all: &[Reading],
    views: &[Reading],
    loss: &Loss,
) -> Ascent {
    ascend_on(None, verdict, always, all, views, loss)
}

/// The same on a way.
fn ascend_on(
    way: Option<Way>,
    verdict: &VerdictOptions,
    always: bool,
    all: &[Reading],
    views: &[Reading],
    loss: &Loss,
) -> Ascent {
    let [input, shown, votes @ ..] = all else {
        panic!("two readings and votes");
    };
    let score = judge(verdict, all, views).score;
    let undecided = score < verdict.adversarial_from && (always || score > verdict.clean_below);
    let votes = votes.iter().collect();
    let shown = undecided.then_some(shown);
    Decision::new(verdict, always, (input, views), votes, shown).ascent(loss, way)
}

/// What the defense decides of these readings.
fn decided(verdict: &VerdictOptions, always: bool, all: &[Reading], views: &[Reading]) -> usize {
    let judgment = judge(verdict, all, views);
    if judgment.score >= verdict.adversarial_from {
        judgment.recovered.unwrap()
    } else if judgment.score <= verdict.clean_below && !always {
        all[0].label()
    } else {
        all[1].label()
    }
}

#[test]
fn the_decision_loss_is_above_0_exactly_where_the_decision_is_wrong() {
    // Wide bands, so that all verdicts occur.
    let mut verdict = VerdictOptions {
        clean_below: 0.25,
        adversarial_from: 0.6,
        ..VerdictOptions::default()
    };
    let mut seen = [[0; 2]; 2];
    for classes in [2, 3, 5] {
        for seed in 0..300 {
            verdict.evidence.view_bound_nats = [f64::INFINITY, 2.5][seed as usize % 2];
            let mut all = readings(seed, 7, classes);
            let mut views = all.split_off(5);
            views.truncate(seed as usize % 3);
            for always in [false, true] {
                let label = decided(&verdict, always, &all, &views);
                for class in 0..classes {
                    for (kind, aim) in [Aim::AwayFrom(class), Aim::Towards(class)]
                        .into_iter()
                        .enumerate()
                    {
                        let met = match aim {
                            Aim::AwayFrom(class) => label != class,
                            Aim::Towards(class) => label == class,
                        };
                        let loss = Loss::CrossEntropy(aim);
                        let value = ascend(&verdict, always, &all, &views, &loss).loss;
                        assert_eq!(value > 0.0, met, "seed {seed}, {aim:?}, {always}: {value}");
                        // A way is open where the decision meets the aim in that way, and no nearer than the nearest.
                        let on = |way| {
                            let way = Some(way);
                            ascend_on(way, &verdict, always, &all, &views, &loss).loss
                        };
                        let open = Way::ALL.map(on).iter().filter(|loss| **loss > 0.0).count();
                        assert_eq!(open, usize::from(met), "seed {seed}, {aim:?}, {always}");
                        seen[kind][usize::from(met)] += 1;
                    }
                }
            }
        }
    }
    assert!(
        seen.as_flattened().iter().all(|count| *count > 500),
        "{seen:?}"
    );
}

/// Probabilities of four classes as a reading.
fn reading(probabilities: [f64; 4]) -> Reading {
    Reading::new(&probabilities.map(|p| p.ln() as f32))
}

#[test]
fn each_way_to_the_wrong_answer_is_climbed_where_it_is_the_nearest() {
    let verdict = VerdictOptions::default();
    let sure = |class: usize| {
        let mut probabilities = [0.001; 4];
        probabilities[class] = 0.997;
        reading(probabilities)
    };
    let split = |a: usize, b: usize| {
        let mut probabilities = [0.01; 4];
        probabilities[a] = 0.6;
        probabilities[b] = 0.38;
        reading(probabilities)
    };
    let second = reading([0.96, 0.03, 0.005, 0.005]);
    let away = &Loss::CrossEntropy(Aim::AwayFrom(0));
    let towards = &Loss::CrossEntropy(Aim::Towards(2));
    let signs = |row: &[f32]| {
        let sign = |x: &f32| {
            if x.abs() < 1e-6 {
                '0'
            } else if *x > 0.0 {
                '+'
            } else {
                '-'
            }
        };
        row.iter().map(sign).collect::<String>()
    };
    // The input, the votes, the loss; whether it is reached; signs of the input's slopes by logit and
    // of the first vote's.
    for (what, input, vote, loss, reached, by_input, by_vote) in [
        // Recovered: the support of the own label must fall behind the input's. The input's is ahead
        // already and stays so; its lead counts against the attack.
        ("recovered", sure(1), second, away, false, "0000", "-+00"),
        // The adversarial label holds through the reconstructions: clean, and wrong.
        ("kept", sure(1), sure(1), away, true, "", ""),
        // Right, but the map's votes are split: a false alarm is nearer than another input label.
        ("doubted", sure(0), split(0, 3), away, false, "0000", "-00+"),
        // Right at the input, wrong on the map.
        ("alarmed", sure(0), sure(2), away, true, "", ""),
        // A third label is recovered.
        ("third", sure(1), sure(2), away, true, "", ""),
        // Towards 2: the map must support it.
        ("aimed", sure(1), sure(0), towards, false, "0000", "--+0"),
        ("there", sure(1), sure(2), towards, true, "", ""),
    ] {
        let all = [input, sure(0), vote.clone(), vote];
        let ascent = ascend(&verdict, false, &all, &[], loss);
        assert_eq!(ascent.loss > 0.0, reached, "{what}: {}", ascent.loss);
        if !reached {
            assert_eq!(signs(&ascent.input), by_input, "{what}");
            assert_eq!(signs(&ascent.votes[0]), by_vote, "{what}");
            assert_eq!(ascent.votes[0], ascent.votes[1], "{what}");
        }
    }
    // A margin is bounded by its confidence, and has no slope beyond.
    let margin = &Loss::Margin {
        aim: Aim::AwayFrom(0),
        confidence: 0.125,
    };
    let all = [sure(1), sure(0), sure(1)];
    let ascent = ascend(&verdict, false, &all, &[], margin);
    assert_eq!(ascent.loss, 0.125);
    assert!(
        ascent.votes[0]
            .iter()
            .chain(&ascent.input)
            .all(|x| *x == 0.0)
    );
}

#[test]
fn the_decision_s_derivatives_are_those_of_its_loss() {
    let mut verdict = VerdictOptions {
        clean_below: 0.25,
        adversarial_from: 0.6,
        ..VerdictOptions::default()
    };
    // Beyond a bound the slopes are those of the way back.
    verdict.evidence.view_bound_nats = f64::INFINITY;
    let step = 1.0 / 512.0;
    let (mut checked, mut kinks) = (0, 0);
    for seed in 0..60 {
        // The last two are those of the input's views.
        let all = readings(seed, 7, 4);
        let ascend = |all: &[Reading], loss: &Loss| {
            let (all, views) = all.split_at(5);
            ascend(&verdict, false, all, views, loss)
        };
        for aim in [
            Aim::AwayFrom(all[0].label()),
            Aim::AwayFrom(1),
            Aim::Towards(2),
        ] {
            let loss = &Loss::CrossEntropy(aim);
            let ascent = ascend(&all, loss);
            for place in 0..7 {
                let slopes = match place {
                    0 => Some(&ascent.input),
                    1 => ascent.shown.as_ref(),
                    5 | 6 => ascent.views.get(place - 5),
                    vote => Some(&ascent.votes[vote - 2]),
                };
                for class in 0..4 {
                    let value = |change: f32| {
                        let mut logits = all[place].logits().to_vec();
                        logits[class] += change;
                        let mut moved = all.clone();
                        moved[place] = Reading::new(&logits);
                        ascend(&moved, loss).loss
                    };
                    let [below, at, above] = [value(-step), value(0.0), value(step)];
                    let width = f64::from(step);
                    // Not where another way, or another class, is the nearest on one side.
                    if ((above - at) - (at - below)).abs() / width > 0.02 {
                        kinks += 1;
                        continue;
                    }
                    let slope = (above - below) / (2.0 * width);
                    let found = slopes.map_or(0.0, |slopes| f64::from(slopes[class]));
                    assert!(
                        (slope - found).abs() < 0.02,
                        "seed {seed}, {aim:?}, {place}: {slope} {found}"
                    );
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 20 * kinks, "{checked} {kinks}");
}

#[test]
fn bounded_views_are_followed_until_they_count_for_all_that_they_can() {
    let mut verdict = VerdictOptions::default();
    let reading = |other: f64| Reading::new(&[1.0 - other, other].map(|p: f64| p.ln() as f32));
    // A clean picture whose votes rule the other label out, and whose views say nothing, something, and much for it,
    // and much against it.
    for (input, view, whole, bounded) in [
        (0.1, 0.1, true, true),
        (0.1, 0.2, true, true),
        (0.001, 0.2, true, false),
        (0.2, 0.001, true, true),
    ] {
        let all = [reading(input), reading(0.2), reading(1e-9), reading(1e-9)];
        for (bound, follows) in [(f64::INFINITY, whole), (2.0, bounded)] {
            verdict.evidence.view_bound_nats = bound;
            let alarm = Loss::CrossEntropy(Aim::Towards(1));
            let ascent = ascend(&verdict, false, &all, &[reading(view)], &alarm);
            assert!(ascent.votes[0][1] > 0.0);
            assert_eq!(ascent.views[0][1] > 0.0, follows, "{input} {view} {bound}");
        }
    }
}

#[test]
fn a_class_that_is_ruled_out_gives_finite_numbers() {
    let infinite = f32::NEG_INFINITY;
    let logits = Reading::new(&[infinite, 1.0, infinite, 0.0]);
    let all = vec![logits; 4];
    for aim in [
        Aim::AwayFrom(1),
        Aim::AwayFrom(0),
        Aim::Towards(0),
        Aim::Towards(2),
    ] {
        let loss = Loss::CrossEntropy(aim);
        let views = &all[..2];
        let ascent = ascend(&VerdictOptions::default(), false, &all, views, &loss);
        assert!(ascent.loss.is_finite(), "{aim:?}");
        let rows = ascent.votes.iter().flatten().chain(&ascent.input);
        let rows = rows.chain(ascent.views.iter().flatten());
        assert!(rows.into_iter().all(|x| x.is_finite()), "{aim:?}");
    }
}
