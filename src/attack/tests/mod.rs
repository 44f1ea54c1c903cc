//! Attacks on victims of which the answer is known, and on small classifiers.

mod victims;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ball::distance;
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, ImageShape};
use crate::classifier::{Graph, LoadOptions};
use crate::defense::{Oracle, Prober};
use victims::{BlackBox, Linear, SHAPE, Scripted, Waves};
pub(super) use victims::{dot, numbers};

/// A random picture of 8-bit levels between a quarter and three quarters: no small change is cut.
fn picture(seed: u64) -> Picture {
    let pixels = numbers(seed, SHAPE.elements()).into_iter();
    Picture {
        shape: SHAPE,
        pixels: pixels.map(|x| (127.5 + 64.0 * x).round() / 255.0).collect(),
        eight_bit: true,
    }
}

fn options(name: Name, options: Value) -> AttackOptions {
    AttackOptions {
        method: Method::with(name, options.as_object().unwrap()).unwrap(),
        target: Target::Untargeted,
        seed: 3,
        eight_bit: false,
    }
}

fn attack_one(victim: &mut dyn Victim, options: &AttackOptions, picture: &Picture) -> Attacked {
    attack(victim, options, std::slice::from_ref(picture), &[None])
        .unwrap()
        .remove(0)
}

/// Every attack, in each of its norms, with few steps.
fn every_attack() -> Vec<AttackOptions> {
    let mut all = Vec::new();
    for name in Name::ALL {
        let small = match name {
            Name::Fgsm | Name::DeepFool | Name::Cw => vec![json!({})],
            Name::Bim | Name::Pgd | Name::MiFgsm => vec![json!({"steps": 6, "eps": 0.03f32})],
            Name::DiFgsm | Name::VmiFgsm | Name::SiNiFgsm => {
                vec![json!({"steps": 6, "eps": 0.03f32})]
            }
            // What they may change fits these classifiers less.
            Name::TiFgsm => {
                vec![json!({"steps": 6, "eps": 0.1f32, "step_size": 0.04f32, "kernel_size": 3})]
            }
            Name::PgdViews => vec![json!({"steps": 6, "eps": 0.1f32, "step_size": 0.04f32})],
            Name::PgdLow => {
                vec![json!({"steps": 6, "eps": 0.1f32, "step_size": 0.04f32, "block": 2})]
            }
            Name::PgdL2 => vec![json!({"steps": 6, "eps": 0.2f32, "step_size": 0.05f32})],
            Name::ApgdCe | Name::ApgdDlr | Name::ApgdT => vec![
                json!({"steps": 12, "eps": 0.02f32, "restarts": 2}),
                json!({"steps": 12, "eps": 0.2f32, "restarts": 2, "norm": "l2"}),
            ],
            Name::Square => vec![
                json!({"queries": 40, "eps": 0.03f32, "restarts": 2}),
                json!({"queries": 40, "eps": 0.4f32, "restarts": 2, "norm": "l2"}),
            ],
        };
        all.extend(small.into_iter().map(|small| options(name, small)));
    }
    all
}

#[test]
fn deepfool_takes_one_step_to_a_linear_classifiers_nearest_boundary() {
    let clean = picture(1);
    let rows: Vec<Vec<f32>> = (10..15)
        .map(|seed| numbers(seed, SHAPE.elements()))
        .collect();
    let score = |row: &Vec<f32>| dot(row, &clean.pixels) as f32;
    // The picture's scores are 0.5, 0, -0.3, ...: the nearest boundary is not the best rival's only
    // by its score, but by its distance.
    let wanted = [0.5f32, 0.0, -0.3, 0.1, -1.0];
    let bias = rows
        .iter()
        .zip(wanted)
        .map(|(row, wanted)| wanted - score(row));
    let mut victim = Linear {
        bias: bias.collect(),
        rows: rows.clone(),
    };
    let normal = |class: usize| -> Vec<f32> {
        let pair = rows[class].iter().zip(&rows[0]);
        pair.map(|(a, b)| a - b).collect()
    };
    let away =
        |class: usize| f64::from(0.5 - wanted[class]) / dot(&normal(class), &normal(class)).sqrt();
    let nearest = (1..5).min_by(|&a, &b| away(a).total_cmp(&away(b))).unwrap();
    let normal = normal(nearest);
    let attacked = attack_one(&mut victim, &options(Name::DeepFool, json!({})), &clean);
    assert_eq!(attacked.output.label(), nearest);
    let scale = 1.02 * f64::from(0.5 - wanted[nearest]) / dot(&normal, &normal);
    for ((x, clean), slope) in attacked.pixels.iter().zip(&clean.pixels).zip(&normal) {
        let step = f64::from(x - clean) - scale * f64::from(*slope);
        assert!(step.abs() < 1e-6, "{step}");
    }
    // A picture that is wrong already is left alone.
    let wrong = attack(
        &mut victim,
        &options(Name::DeepFool, json!({})),
        std::slice::from_ref(&clean),
        &[Some(3)],
    );
    assert_eq!(wrong.unwrap()[0].pixels, clean.pixels);
}

#[test]
fn carlini_wagner_comes_close_to_the_nearest_point_beyond_the_boundary() {
    let clean = picture(2);
    let row = numbers(20, SHAPE.elements());
    let length = dot(&row, &row).sqrt();
    let mut victim = Linear::valley(&clean, row, 0.6);
    for confidence in [0.0, 1.0] {
        let far = json!({"steps": 600, "learning_rate": 0.002f32, "confidence": confidence as f32});
        let attacked = attack_one(&mut victim, &options(Name::Cw, far), &clean);
        // The margin falls by twice the row's length for each unit of distance, from 1.2.
        let analytic = (1.2 + confidence) / 2.0 / length;
        let found = distance(&attacked.pixels, &clean.pixels);
        assert!(attacked.success && -attacked.output.margin(0) >= confidence);
        assert!(found >= analytic * 0.9999, "{found} {analytic}");
        assert!(found <= analytic * 1.03, "{found} {analytic}");
    }
    // Nothing is found in one step: the picture comes back.
    let attacked = attack_one(&mut victim, &options(Name::Cw, json!({"steps": 1})), &clean);
    assert!(!attacked.success);
    assert_eq!(attacked.pixels, clean.pixels);
}

#[test]
fn apgd_reaches_the_ball_s_best_point() {
    let clean = picture(3);
    let row = numbers(30, SHAPE.elements());
    let length = dot(&row, &row).sqrt();
    let sum: f64 = row.iter().map(|x| f64::from(x.abs())).sum();
    for name in [Name::ApgdCe, Name::ApgdDlr] {
        for (norm, eps) in [("linf", 0.02f32), ("l2", 0.2)] {
            // How far the score can fall, and a score that is out of reach, or half as high.
            let reach = f64::from(eps) * if norm == "linf" { sum } else { length };
            for (height, fooled) in [(1.5 * reach, false), (0.5 * reach, true)] {
                let mut victim = Linear::valley(&clean, row.clone(), height);
                let few = options(name, json!({"norm": norm, "eps": eps, "steps": 20}));
                let attacked = attack_one(&mut victim, &few, &clean);
                assert_eq!(attacked.success, fooled);
                let fallen = dot(&row, &clean.pixels) - dot(&row, &attacked.pixels);
                assert!(
                    (fallen / reach - 1.0).abs() < 1e-4,
                    "{name} {norm}: {fallen} of {reach}"
                );
            }
        }
    }
}

#[test]
fn a_victim_s_ways_are_tried_until_one_succeeds() {
    // The first way's gradient leads nowhere, the second's to the boundary.
    struct Ways(Linear, usize, Vec<usize>);
    impl Victim for Ways {
        fn classes(&self) -> usize {
            self.0.classes()
        }
        fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
            self.0.read(images)
        }
        fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
            let mut slopes = self.0.gradient(images, losses)?;
            if self.1 == 0 {
                slopes.iter_mut().for_each(|slope| slope.gradient.fill(0.0));
            }
            Ok(slopes)
        }
        fn ways(&self) -> usize {
            3
        }
        fn follow(&mut self, way: usize) {
            self.1 = way;
            self.2.push(way);
        }
    }
    let picture = picture(4);
    let row = numbers(5, SHAPE.elements());
    let mut victim = Ways(Linear::valley(&picture, row, 0.2), 0, vec![]);
    let attacked = attack_one(&mut victim, &options(Name::Bim, json!({})), &picture);
    assert!(attacked.success);
    assert_eq!(victim.2, [0, 1], "the third way is not needed");
    // Where none succeeds, the result is the first way's.
    let mut victim = Ways(victim.0, 0, vec![]);
    let small = options(Name::Bim, json!({"eps": 1e-6}));
    let attacked = attack_one(&mut victim, &small, &picture);
    assert!(!attacked.success);
    assert_eq!(attacked.pixels, picture.pixels);
    assert_eq!(victim.2, [0, 1, 2]);
}

#[test]
fn apgd_asks_about_images_as_they_will_be_rounded_and_ends_early_where_that_is_asked_for() {
    struct Asked(Linear, Vec<Vec<f32>>);
    impl Victim for Asked {
        fn classes(&self) -> usize {
            self.0.classes()
        }
        fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
            self.0.read(images)
        }
        fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
            self.1.extend(images.iter().map(|image| image.to_vec()));
            self.0.gradient(images, losses)
        }
    }
    let picture = picture(4);
    let asked = |first_success: bool, eight_bit: bool| {
        let row = numbers(5, SHAPE.elements());
        let mut victim = Asked(Linear::valley(&picture, row, 0.2), vec![]);
        let options = AttackOptions {
            eight_bit,
            ..options(
                Name::ApgdCe,
                json!({"steps": 20, "first_success": first_success}),
            )
        };
        let attacked = attack_one(&mut victim, &options, &picture);
        assert!(attacked.success);
        (victim.1, attacked.pixels)
    };
    let level = |x: f32| (255.0 * x - (255.0 * x).round()).abs() < 1e-3;
    let (all, result) = asked(false, true);
    assert_eq!(all.len(), 21);
    assert!(all.iter().flatten().all(|x| level(*x)));
    assert!(all.contains(&result), "what was asked about is the result");
    let (exact, _) = asked(false, false);
    assert!(!exact.iter().flatten().all(|x| level(*x)));
    let (first, result) = asked(true, true);
    assert!(first.len() < 21);
    assert_eq!(first.last(), Some(&result));
}

#[test]
fn apgd_t_tries_one_class_after_another() {
    let clean = picture(4);
    let row = numbers(40, SHAPE.elements());
    let mut victim = Linear::valley(&clean, row.clone(), 0.5);
    // The next class never overtakes the first: its scores are parallel.
    victim.rows[2].clone_from(&row);
    victim.bias[2] = victim.bias[0] - 0.25;
    let eps = (0.6 / row.iter().map(|x| f64::from(x.abs())).sum::<f64>()) as f32;
    for (targets, fooled) in [(1, false), (2, true), (9, true)] {
        let some = options(
            Name::ApgdT,
            json!({"eps": eps, "steps": 10, "targets": targets}),
        );
        assert_eq!(
            attack_one(&mut victim, &some, &clean).success,
            fooled,
            "{targets}"
        );
    }
}

#[test]
fn mi_fgsm_follows_the_accumulated_gradient() {
    let clean = Picture {
        shape: ImageShape {
            channels: 3,
            height: 1,
            width: 1,
        },
        pixels: vec![0.5; 3],
        eight_bit: false,
    };
    let steps = |decay: f32, step_size: f32| {
        // Of mean magnitude 1: (1.5, -1.5, 0), (-1, 1, -1), (0, 0, 3).
        let mut victim = Scripted(vec![
            vec![3.0, -3.0, 0.0],
            vec![-0.5, 0.5, -0.5],
            vec![0.0, 0.0, 7.0],
        ]);
        let three = json!({"steps": 3, "step_size": step_size, "eps": 0.25, "decay": decay});
        let attacked = attack_one(&mut victim, &options(Name::MiFgsm, three), &clean);
        let change: Vec<f32> = attacked.pixels.iter().map(|x| x - 0.5).collect();
        change
    };
    // Accumulated with decay 1: (1.5, -1.5, 0), (0.5, -0.5, -1), (0.5, -0.5, 2).
    assert_eq!(steps(1.0, 0.0625), [0.1875, -0.1875, 0.0]);
    assert_eq!(
        steps(1.0, 0.125),
        [0.25, -0.25, 0.0],
        "the ball ends at 0.25"
    );
    // With decay 0 each step is its own gradient's: (+, -, 0), (-, +, -), (0, 0, +).
    assert_eq!(steps(0.0, 0.0625), [0.0, 0.0, 0.0]);
}

#[test]
fn transferable_attacks_are_those_of_torchattacks() {
    let file = include_str!("../../../tests/fixtures/transferable.json");
    let expected: Value = serde_json::from_str(file).unwrap();
    let clean = Picture {
        shape: ImageShape {
            channels: 3,
            height: 8,
            width: 8,
        },
        pixels: (0..192)
            .map(|i| (64 + i * 53 % 128) as f32 / 255.0)
            .collect(),
        eight_bit: true,
    };
    for (name, more) in [
        (Name::MiFgsm, json!({})),
        (Name::DiFgsm, json!({"diversity_prob": 0.0})),
        (
            Name::TiFgsm,
            json!({"diversity_prob": 0.0, "kernel_size": 5}),
        ),
        (Name::SiNiFgsm, json!({"copies": 3})),
    ] {
        let mut numbers = json!({"eps": 0.03125, "step_size": 0.0078125, "steps": 6, "decay": 0.5});
        let more = more.as_object().unwrap().clone();
        numbers.as_object_mut().unwrap().extend(more);
        let mut victim = Waves::of_torchattacks();
        let attacked = attack_one(&mut victim, &options(name, numbers), &clean);
        assert_eq!(json!(attacked.input.label()), expected["label"]);
        let changes = expected["changes"][name.to_string()].as_array().unwrap();
        assert_eq!(changes.len(), 192);
        for ((x, clean), change) in attacked.pixels.iter().zip(&clean.pixels).zip(changes) {
            let off = f64::from(x - clean) - change.as_f64().unwrap();
            assert!(off.abs() < 1e-6, "{name}: {} for {change}", x - clean);
        }
    }
}

#[test]
fn vmi_fgsm_corrects_the_gradient_by_what_the_last_one_missed_around_it() {
    let clean = Picture {
        shape: ImageShape {
            channels: 3,
            height: 1,
            width: 1,
        },
        pixels: vec![0.5; 3],
        eight_bit: false,
    };
    // At the image, and at two neighbors, in each of two steps.
    let mut victim = Scripted(vec![
        vec![1.0, 1.0, 1.0],
        vec![-6.0, 1.0, 1.0],
        vec![-2.0, 1.0, 1.0],
        vec![2.0, 2.0, -2.0],
        vec![0.0, 0.0, 0.0],
        vec![0.0, 0.0, 0.0],
    ]);
    let two = json!({"steps": 2, "step_size": 0.0625, "eps": 0.25, "decay": 0.0, "neighbors": 2});
    let attacked = attack_one(&mut victim, &options(Name::VmiFgsm, two), &clean);
    // The neighbors' mean is 5 less in the first value: (+, +, +), then (2 - 5, 2, -2).
    assert_eq!(attacked.pixels, [0.5, 0.625, 0.5]);
}

#[test]
fn attacks_over_views_and_of_low_frequency_reach_the_best_that_they_may() {
    let clean = picture(7);
    let row = numbers(70, SHAPE.elements());
    let eps = 0.0625_f32;
    let numbers = json!({"eps": eps, "step_size": eps, "steps": 4, "random_start": false});

    // The sum of the same gradient at each view, turned back into the image.
    let views = crate::defense::MapOptions::default().viewpoints(SHAPE);
    assert_eq!(views.len(), 9);
    let mut sum = row.clone();
    for from in views {
        let back = looks::Look::Seen(from).back(row.clone(), SHAPE);
        sum.iter_mut().zip(back).for_each(|(m, x)| *m += x);
    }
    let mut victim = Scripted(vec![row.clone(); 4 * 10]);
    let over_views = options(Name::PgdViews, numbers.clone());
    let attacked = attack_one(&mut victim, &over_views, &clean);
    for ((x, clean), slope) in attacked.pixels.iter().zip(&clean.pixels).zip(&sum) {
        assert!((x - clean - eps * slope.signum()).abs() < 1e-6);
    }

    // The largest fall of a score that a coarse change can reach.
    let mut coarse = numbers;
    coarse["block"] = json!(2);
    let mut victim = Linear::valley(&clean, row.clone(), 3.0);
    let attacked = attack_one(&mut victim, &options(Name::PgdLow, coarse), &clean);
    let small = looks::Resize::between((3, 4), (SHAPE.height, SHAPE.width));
    let planes = row.chunks_exact(SHAPE.height * SHAPE.width);
    let by_block = planes.flat_map(|plane| small.transposed(plane));
    let reach: f64 = by_block.map(|slope| f64::from(eps * slope.abs())).sum();
    let fallen = dot(&row, &clean.pixels) - dot(&row, &attacked.pixels);
    assert!((fallen / reach - 1.0).abs() < 1e-4, "{fallen} of {reach}");
}

#[test]
fn square_needs_no_gradient() {
    let clean = picture(5);
    // Whole areas of a channel count alike: what squares can use.
    let plane = SHAPE.height * SHAPE.width;
    let row: Vec<f32> = (0..SHAPE.elements())
        .map(|i| if i % plane < plane / 2 { 1.0 } else { -0.5 } * (1 + i / plane) as f32)
        .collect();
    let length = dot(&row, &row).sqrt();
    let sum: f64 = row.iter().map(|x| f64::from(x.abs())).sum();
    for (norm, eps, reach, share) in [
        ("linf", 0.03f32, 0.03 * sum, 0.8),
        ("l2", 0.3, 0.3 * length, 0.5),
    ] {
        for (height, fooled) in [(share * reach, true), (1.1 * reach, false)] {
            let mut victim = BlackBox(Linear::valley(&clean, row.clone(), height));
            let some = options(
                Name::Square,
                json!({"norm": norm, "eps": eps, "queries": 1500}),
            );
            let attacked = attack_one(&mut victim, &some, &clean);
            assert_eq!(attacked.success, fooled, "{norm}");
            let fallen = dot(&row, &clean.pixels) - dot(&row, &attacked.pixels);
            assert!(fallen > share * reach, "{norm}: {fallen} of {reach}");
            let size = if norm == "linf" {
                attacked.linf
            } else {
                attacked.l2
            };
            assert!(size <= eps * (1.0 + 1e-6), "{norm}: {size}");
        }
    }
}

#[test]
fn a_picture_s_result_does_not_depend_on_its_batch() {
    let pictures: Vec<Picture> = (50..55).map(picture).collect();
    let labels = [None, Some(0), None, Some(1), None];
    let mut victim = Waves::new(7, 5);
    for mut options in every_attack() {
        options.eight_bit = options.method.attack().ball().is_none();
        let together = attack(&mut victim, &options, &pictures, &labels).unwrap();
        for ((picture, label), in_batch) in pictures.iter().zip(labels).zip(&together) {
            let alone = attack(
                &mut victim,
                &options,
                std::slice::from_ref(picture),
                &[label],
            );
            assert_eq!(alone.unwrap()[0].pixels, in_batch.pixels, "{options:?}");
        }
        // Another seed moves the random ones, and only those.
        let method = &serde_json::to_value(&options.method).unwrap()["method"];
        let mut names = Name::ALL.into_iter();
        let name = names.find(|name| *method == name.to_string());
        let other = AttackOptions {
            seed: 4,
            ..options.clone()
        };
        let other = attack(&mut victim, &other, &pictures, &labels).unwrap();
        let same = together
            .iter()
            .zip(&other)
            .all(|(a, b)| a.pixels == b.pixels);
        assert_eq!(same, !name.unwrap().is_random(), "{options:?}");
    }
}

#[test]
fn changes_are_as_small_as_promised_also_after_rounding() {
    let pictures: Vec<Picture> = (60..66).map(picture).collect();
    let mut victim = Waves::new(8, 5);
    for exact in every_attack() {
        for eight_bit in [false, true] {
            let options = AttackOptions {
                eight_bit,
                ..exact.clone()
            };
            let attacked = attack(&mut victim, &options, &pictures, &[None; 6]).unwrap();
            let found = attacked.iter().filter(|a| a.success).count();
            let least = match (options.method.attack().ball(), &options.method) {
                (None, _) => 6,
                (_, Method::Fgsm(_) | Method::TiFgsm(_) | Method::PgdViews(_)) => 1,
                (_, Method::PgdLow(_)) => 1,
                _ => 4,
            };
            assert!(found >= least, "{found} with {options:?}");
            for attacked in &attacked {
                let [linf, l2] = [attacked.linf, attacked.l2];
                match options.method.attack().ball() {
                    Some(Ball {
                        norm: Norm::Linf,
                        eps,
                    }) => assert!(linf <= eps + 1e-6),
                    Some(Ball {
                        norm: Norm::L2,
                        eps,
                    }) => assert!(l2 <= eps * (1.0 + 1e-5)),
                    None => assert!(l2 < 0.5, "{l2}: {options:?}"),
                }
                assert!(attacked.pixels.iter().all(|x| (0.0..=1.0).contains(x)));
                let levels = attacked.pixels.iter().map(|x| x * 255.0);
                let off = levels.fold(0.0, |most: f32, x| most.max((x - x.round()).abs()));
                assert!(!eight_bit || off < 1e-4, "{options:?}");
            }
        }
    }
}

#[test]
fn a_change_that_rounding_undoes_is_lengthened() {
    let clean = picture(6);
    let row = numbers(60, SHAPE.elements());
    // Levels that the pixel with the steepest slope must change by.
    for (levels, saved) in [(0.2, true), (0.01, false)] {
        let height = levels / 255.0 * dot(&row, &row);
        let mut victim = Linear::valley(&clean, row.clone(), height);
        let exact = options(Name::DeepFool, json!({}));
        let rounded = AttackOptions {
            eight_bit: true,
            ..exact.clone()
        };
        let exact = attack_one(&mut victim, &exact, &clean);
        assert!(exact.success && exact.linf < 0.5 / 255.0);
        // A hundredth of a level rounds to nothing, also 17 times as long.
        let rounded = attack_one(&mut victim, &rounded, &clean);
        assert_eq!(rounded.success, saved);
        let level = if saved { 1.0 } else { 0.0 };
        assert!((rounded.linf * 255.0 - level).abs() < 1e-4);
    }
}

#[test]
fn targeted_attacks_reach_their_class() {
    let pictures: Vec<Picture> = (70..74).map(picture).collect();
    let mut victim = Waves::new(9, 5);
    for (name, more) in [
        (Name::Pgd, json!({"steps": 20})),
        (Name::PgdL2, json!({"steps": 20})),
        (Name::Bim, json!({"steps": 20})),
        (Name::MiFgsm, json!({"steps": 20})),
        (Name::Cw, json!({"c": 5.0})),
        (Name::ApgdCe, json!({"steps": 20})),
        (Name::ApgdDlr, json!({"steps": 20})),
        (
            Name::ApgdDlr,
            json!({"steps": 20, "norm": "l2", "eps": 0.5}),
        ),
        (Name::Square, json!({"queries": 500, "eps": 0.1})),
    ] {
        let mut options = options(name, more);
        for target in [Target::Class(2), Target::LeastLikely] {
            options.target = target;
            for attacked in attack(&mut victim, &options, &pictures, &[None; 4]).unwrap() {
                assert!(attacked.success, "{options:?}");
                assert_eq!(attacked.output.label(), attacked.aim);
            }
        }
    }
}

#[test]
fn apgd_is_at_least_as_strong_as_pgd() {
    let pictures: Vec<Picture> = (80..96).map(picture).collect();
    let mut victim = Waves::new(10, 6);
    for (pgd, apgd) in [
        (
            options(
                Name::Pgd,
                json!({"steps": 20, "eps": 0.004f32, "step_size": 0.001f32}),
            ),
            json!({"steps": 20, "eps": 0.004f32}),
        ),
        (
            options(
                Name::PgdL2,
                json!({"steps": 20, "eps": 0.03f32, "step_size": 0.008f32}),
            ),
            json!({"steps": 20, "eps": 0.03f32, "norm": "l2"}),
        ),
    ] {
        let mut strength = |options: &AttackOptions| {
            let attacked = attack(&mut victim, options, &pictures, &[None; 16]).unwrap();
            let fooled = attacked.iter().filter(|a| a.success).count();
            // Of those that stay right, how unsure the victim became.
            let losses = attacked.iter().map(|a| -a.output.log_probability(a.aim));
            (fooled, losses.sum::<f64>() / 16.0)
        };
        let (fooled, loss) = strength(&pgd);
        assert!((4..14).contains(&fooled), "{fooled}: nothing to compare");
        let (more, higher) = strength(&options(Name::ApgdCe, apgd));
        assert!(
            more >= fooled && higher > loss,
            "{more} {higher} to {fooled} {loss}"
        );
    }
}

#[test]
fn numbers_that_cannot_be_used_are_refused() {
    let clean = picture(7);
    let three = |name, more| {
        let rows = vec![vec![0.0; SHAPE.elements()]; 3];
        let mut victim = Linear {
            rows,
            bias: vec![0.0; 3],
        };
        let options = options(name, more);
        attack(&mut victim, &options, std::slice::from_ref(&clean), &[None])
    };
    for (name, more, said) in [
        (Name::Pgd, json!({"eps": 0.0}), "`eps`"),
        (Name::Pgd, json!({"step_size": -1.0}), "`step_size`"),
        (Name::MiFgsm, json!({"decay": -1.0}), "`decay`"),
        (Name::Cw, json!({"c": 0.0}), "`c` "),
        (Name::Cw, json!({"learning_rate": 0.0}), "`learning_rate`"),
        (Name::DeepFool, json!({"candidates": 1}), "`candidates`"),
        (Name::ApgdCe, json!({"restarts": 0}), "`restarts`"),
        (Name::ApgdT, json!({}), "4 classes"),
        (Name::Square, json!({"queries": 0}), "`queries`"),
    ] {
        let error = three(name, more).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let aimed = AttackOptions {
        target: Target::LeastLikely,
        ..options(Name::ApgdDlr, json!({}))
    };
    assert!(
        aimed
            .validate(3)
            .unwrap_err()
            .to_string()
            .contains("4 classes")
    );
    aimed.validate(4).unwrap();
    // A flat landscape leads nowhere, and no attack fails or hangs there.
    for name in [
        Name::Pgd,
        Name::PgdL2,
        Name::MiFgsm,
        Name::DeepFool,
        Name::Cw,
        Name::ApgdCe,
        Name::ApgdDlr,
    ] {
        assert!(!three(name, json!({})).unwrap()[0].success, "{name}");
    }
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Smooth 32×32 pictures, each mostly of one color.
fn colors(count: usize) -> Vec<Picture> {
    let shape = crate::picture::rgb(32, 32);
    let color = |i: usize| {
        let pixels = (0..shape.elements()).map(|k| {
            let (channel, y, x) = (k / 1024, (k / 32 % 32) as f32, (k % 32) as f32);
            let wave = (0.2 * x + 0.15 * y + i as f32).sin();
            let base = if channel == i % 3 { 170.0 } else { 90.0 };
            (base + 20.0 * wave).round() / 255.0
        });
        Picture {
            shape,
            pixels: pixels.collect(),
            eight_bit: true,
        }
    };
    (0..count).map(color).collect()
}

/// The first photographs of a folder, each pixel the mean of the 7×7 that it covers.
fn photographs(folder: &Path, count: usize) -> Vec<Picture> {
    let shape = crate::picture::rgb(32, 32);
    let files = walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter();
    let files = files.flatten().filter(|entry| entry.file_type().is_file());
    let shrink = |large: Picture| {
        let pixels = (0..shape.elements()).map(|i| {
            let (channel, y, x) = (i / 1024, i / 32 % 32, i % 32);
            let covered = (0..49).map(|k| (7 * y + k / 7, 7 * x + k % 7));
            let covered = covered.map(|(y, x)| large.pixels[(channel * 224 + y) * 224 + x]);
            (covered.sum::<f32>() / 49.0 * 255.0).round() / 255.0
        });
        Picture {
            shape,
            pixels: pixels.collect(),
            eight_bit: true,
        }
    };
    let files = files.take(count);
    files
        .map(|file| shrink(Picture::open(file.path()).unwrap()))
        .collect()
}

/// What each attack is known to do to a classifier without a defense; `resisted` ones may fail here.
fn fool_a_classifier(model: &Path, pictures: &[Picture], resisted: &[Name]) {
    let graph = Graph::load(model, &LoadOptions::default()).unwrap();
    let engine = CpuBackend::FLOAT32.classifier(&graph, 4).unwrap();
    let mut prober = Prober::new(CpuBackend::FLOAT32, engine, 4).unwrap();
    assert_eq!(prober.shape(), pictures[0].shape);
    let mut classifier = Classifier::new(&mut prober);
    let labels = vec![None; pictures.len()];
    for (name, more) in [
        (Name::Fgsm, json!({})),
        (Name::Bim, json!({})),
        (Name::Pgd, json!({})),
        (Name::PgdL2, json!({})),
        (Name::MiFgsm, json!({})),
        (Name::DeepFool, json!({})),
        (Name::Cw, json!({})),
        (Name::ApgdCe, json!({"steps": 20})),
        (Name::ApgdCe, json!({"steps": 20, "norm": "l2"})),
        (Name::ApgdDlr, json!({"steps": 20})),
        (Name::ApgdT, json!({"steps": 20})),
        (Name::Square, json!({"queries": 300})),
    ] {
        let options = AttackOptions {
            eight_bit: true,
            ..options(name, more)
        };
        let attacked = attack(&mut classifier, &options, pictures, &labels).unwrap();
        let found = attacked.iter().filter(|a| a.success).count();
        // One step is too long for some pictures.
        let missed = usize::from(name == Name::Fgsm);
        assert!(
            found + missed >= pictures.len() || resisted.contains(&name),
            "{name} on {}: {found} of {}",
            model.display(),
            pictures.len()
        );
        // The corners of the other attacks' ball are 8/255·√3072 = 1.74 away.
        for Attacked { linf, l2, .. } in &attacked {
            match options.method.attack().ball() {
                Some(Ball {
                    norm: Norm::Linf,
                    eps,
                }) => assert!(*linf <= eps + 1e-6),
                Some(Ball {
                    norm: Norm::L2,
                    eps,
                }) => assert!(*l2 <= eps * (1.0 + 1e-5)),
                None => assert!(*l2 < 1.7, "{name}: {l2}"),
            }
        }
        let alone = attack(&mut classifier, &options, &pictures[1..2], &[None]).unwrap();
        assert_eq!(alone[0].pixels, attacked[1].pixels, "{name}");
    }
}

#[test]
fn every_attack_fools_a_small_classifier() {
    // Its gradient leads off at a wrong angle, and single squares do not raise its texture.
    let resisted = [Name::Fgsm, Name::PgdL2, Name::Cw, Name::Square];
    fool_a_classifier(&file("tests/fixtures/toy.onnx"), &colors(4), &resisted);
    let resnet = file("../shared/models/cifar-resnet20.onnx");
    let photos = file("../shared/imagenet/clean");
    if resnet.exists() && photos.exists() {
        fool_a_classifier(&resnet, &photographs(&photos, 6), &[]);
    } else {
        eprintln!("skipped cifar-resnet20: {} is absent", resnet.display());
    }
}
