//! Attacks through the defense of a small classifier: mean colors and texture (`tests/fixtures`).

mod decision;

use std::path::Path;

use serde_json::json;

use super::decision::Decision;
use super::*;
use crate::attack::losses::{Aim, Loss};
use crate::attack::{AttackOptions, Attacked, Classifier, Method, Name, Target, Victim, attack};
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, Viewpoint};
use crate::classifier::{Graph, LoadOptions};
use crate::defense::{
    Defense, DeviceDefense, Options, Prober, Reading, ReconstructOptions, Verdict, VerdictOptions,
};
use crate::dip::Preset;
use crate::picture::Picture;
use crate::picture::rgb;
use crate::scheduler::Plan;

/// Short optimizations of two restarts, for pictures of 32×32.
fn options() -> Options {
    let mut options = Options::new(ReconstructOptions {
        restarts: 2,
        iterations: 60,
        probe_interval: 10,
        seed: 4,
        ..ReconstructOptions::preset(Preset::Cifar, 3)
    });
    options.eight_bit = false;
    // Colors and texture are the same in every view: the support alone decides, and this is its even point.
    options.verdict.adversarial_from =
        1.0 / (1.0 + options.verdict.evidence.neutral_lead_nats.exp());
    options.verdict.clean_below = options.verdict.adversarial_from - 0.01;
    options
}

fn graph() -> Graph {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/toy.onnx");
    Graph::load(&file, &LoadOptions::default()).unwrap()
}

fn with_defense<T>(options: &Options, f: impl FnOnce(&mut Defense<CpuBackend>) -> T) -> T {
    let engine = CpuBackend::FLOAT32.classifier(&graph(), 4).unwrap();
    let prober = Prober::new(CpuBackend::FLOAT32, engine, 8).unwrap();
    let plan = Plan {
        images: 2,
        capacity: 4,
    };
    let defense = plan.defense(prober, options.clone());
    f(&mut defense.unwrap().1)
}

/// The classifier that a defense protects, alone.
fn classifier(defense: &mut Defense<CpuBackend>) -> Classifier<'_> {
    Classifier::new(defense.oracle_mut())
}

fn with_defended<T>(
    options: &Options,
    adaptive: Adaptive,
    f: impl FnOnce(&mut Defended<'_>) -> T,
) -> T {
    with_defense(options, |defense| {
        f(&mut Defended::new(defense, adaptive).unwrap())
    })
}

/// A smooth picture of the color `label`, which leads by `lead` levels, with a checkerboard of
/// `noise` levels.
fn picture(label: usize, lead: f32, noise: f32) -> Picture {
    let shape = rgb(32, 32);
    let pixel = |i: usize| {
        let (channel, y, x) = (i / 1024, i / 32 % 32, i % 32);
        let wave = 20.0 * (0.2 * x as f32 + 0.15 * y as f32 + label as f32).sin();
        let sign = if (x + y).is_multiple_of(2) { 1.0 } else { -1.0 };
        let lead = if channel == label % 3 { lead } else { 0.0 };
        (120.0 + lead + wave + noise * sign).round() / 255.0
    };
    Picture {
        shape,
        pixels: (0..shape.elements()).map(pixel).collect(),
        eight_bit: true,
    }
}

const LOSS: Loss = Loss::CrossEntropy(Aim::AwayFrom(1));

#[test]
fn the_ways_are_followed_one_after_another() {
    let picture = picture(0, 20.0, 4.0);
    let losses = |rule| {
        with_defended(&options(), Adaptive::new(rule), |defended| {
            let ways = 0..defended.ways();
            let loss = |way| {
                defended.follow(way);
                defended.gradient(&[&picture.pixels], &[LOSS]).unwrap()[0].loss
            };
            ways.map(loss).collect::<Vec<f64>>()
        })
    };
    let (nearest, each) = (losses(Rule::Decision), losses(Rule::Ways));
    assert_eq!((nearest.len(), each.len()), (1, 4));
    // A way that is not there has the loss 0; the nearest is the best of the others.
    let there = each.iter().copied().filter(|loss| *loss != 0.0);
    assert_eq!(there.fold(f64::NEG_INFINITY, f64::max), nearest[0]);
    assert!(each[0] != each[1], "{each:?}");
}

/// What three pictures, more than a wave, give.
fn slopes(options: &Options, adaptive: Adaptive) -> Vec<(Vec<f32>, f64, Vec<f32>)> {
    let pictures: Vec<Picture> = (0..3).map(|i| picture(i, 20.0, 4.0)).collect();
    let images: Vec<&[f32]> = pictures.iter().map(|p| &p.pixels[..]).collect();
    with_defended(options, adaptive, |defended| {
        let slopes = defended.gradient(&images, &[LOSS; 3]).unwrap();
        // One a draw, and one by which an attack knows its successes.
        let own = u64::from(adaptive.seeds == Seeds::Fresh);
        assert_eq!(
            defended.purifications(),
            3 * (u64::from(adaptive.draws) + own),
            "{adaptive:?}"
        );
        let slopes = slopes.into_iter();
        slopes
            .map(|s| (s.reading.logits().to_vec(), s.loss, s.gradient))
            .collect()
    })
}

#[test]
fn the_identity_rule_has_the_gradient_at_the_output() {
    let found = slopes(&options(), Adaptive::new(Rule::Identity));
    with_defense(&options(), |defense| {
        for (label, (logits, loss, gradient)) in found.into_iter().enumerate() {
            let outcome = defense.purify(&[&picture(label, 20.0, 4.0)]).unwrap();
            let at_output = classifier(defense)
                .gradient(&[&outcome[0].pixels], &[LOSS])
                .unwrap()
                .remove(0);
            assert_eq!(gradient, at_output.gradient);
            assert_eq!(loss, at_output.loss);
            assert_eq!(logits, outcome[0].output.logits());
            assert!(gradient.iter().any(|slope| *slope != 0.0));
        }
    });
}

/// A picture of 32×32, seen from somewhere.
fn seen(image: &[f32], from: &Viewpoint) -> Vec<f32> {
    (0..image.len())
        .map(|i| {
            let (row, column) = from.shows((i / 32 % 32, i % 32), (32, 32));
            image[i / 1024 * 1024 + row * 32 + column]
        })
        .collect()
}

/// A picture of 32×32 with left and right exchanged.
fn mirrored(image: &[f32]) -> Vec<f32> {
    (0..image.len())
        .map(|i| image[i / 32 * 32 + 31 - i % 32])
        .collect()
}

#[test]
fn the_trajectory_rule_has_the_mean_gradient_at_the_votes() {
    let found = slopes(&options(), Adaptive::new(Rule::Trajectory));
    with_defense(&options(), |defense| {
        for (label, (_, loss, gradient)) in found.into_iter().enumerate() {
            let picture = picture(label, 20.0, 4.0);
            let outcome = defense.purify(&[&picture]).unwrap().remove(0);
            let voters = defense.voters(0, &outcome.map).unwrap();
            let votes: Vec<_> = outcome.map.votes().collect();
            // Three segments of three points, each as it is, mirrored, and mirrored with noise.
            assert_eq!((voters.len(), votes.len()), (27, 27));
            let mut mean = vec![0.0; picture.pixels.len()];
            let mut losses = 0.0;
            for (voter, vote) in voters.iter().zip(&votes) {
                let at_vote = classifier(defense)
                    .gradient(&[voter], &[LOSS])
                    .unwrap()
                    .remove(0);
                // They are what the map has read, and lie on the line to the picture.
                for (a, b) in at_vote.reading.logits().iter().zip(vote.reading.logits()) {
                    assert!((a - b).abs() < 1e-4, "{a} {b}");
                }
                let start = votes
                    .iter()
                    .position(|v| v.probe == vote.probe && v.t == 0.0 && !v.mirrored);
                let line = voters[start.unwrap()].iter().zip(&picture.pixels);
                let upright = |image: &Vec<f32>| match vote.mirrored {
                    true => mirrored(image),
                    false => image.clone(),
                };
                let mut squares = 0.0;
                for (x, (from, to)) in upright(voter).iter().zip(line) {
                    let on_line = ((1.0 - vote.t) * from + vote.t * to).clamp(0.0, 1.0);
                    squares += f64::from(x - on_line).powi(2) / voter.len() as f64;
                    assert!(vote.noisy || (x - on_line).abs() < 1e-6);
                }
                // Noise of 8/255; what is clipped is less.
                let noise = squares.sqrt() * 255.0;
                assert!(!vote.noisy || (4.0..9.0).contains(&noise), "{noise}");
                losses += at_vote.loss / 27.0;
                let gradient = upright(&at_vote.gradient);
                assert_ne!(gradient, mirrored(&gradient), "the sides tell them apart");
                for (mean, slope) in mean.iter_mut().zip(&gradient) {
                    *mean += f64::from(*slope) / 27.0;
                }
            }
            assert!((loss - losses).abs() < 1e-9);
            let most = mean.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            for (slope, mean) in gradient.iter().zip(&mean) {
                assert!((f64::from(*slope) - mean).abs() < 1e-5 * most);
            }
        }
    });
}

#[test]
fn the_decision_rule_has_the_derivative_of_what_the_defense_decides_by() {
    let options = options();
    let found = slopes(&options, Adaptive::new(Rule::Decision));
    with_defense(&options, |defense| {
        for (label, (_, loss, gradient)) in found.into_iter().enumerate() {
            let picture = picture(label, 20.0, 4.0);
            let outcome = defense.purify(&[&picture]).unwrap().remove(0);
            let mut images = defense.voters(0, &outcome.map).unwrap();
            let upright = Viewpoint::default();
            let mut seen_from: Vec<Viewpoint> = (outcome.map.votes())
                .map(|vote| match vote.mirrored {
                    true => Viewpoint::MIRROR,
                    false => upright,
                })
                .collect();
            let votes = seen_from.len();
            let viewpoints = defense.viewpoints();
            assert_eq!(viewpoints.len(), outcome.map.views.len());
            seen_from.push(upright);
            seen_from.extend(&viewpoints);
            images.push(picture.pixels.clone());
            images.extend(viewpoints.iter().map(|view| seen(&picture.pixels, view)));
            let shown = outcome.verdict == Verdict::Undecided;
            images.extend(shown.then(|| outcome.pixels.clone()));
            seen_from.extend(shown.then_some(upright));
            // Uphill, but on the left side alone: it is the right side of what is seen in the mirror.
            let left = |i: usize| if i % 32 < 16 { 1.0 } else { 0.0 };
            let way: Vec<f32> = (gradient.iter().enumerate())
                .map(|(i, slope)| slope.signum() * left(i))
                .collect();
            let mut after = |step: f32| {
                let moved = |(image, view): (&Vec<f32>, &Viewpoint)| -> Vec<f32> {
                    let way = seen(&way, view);
                    image.iter().zip(way).map(|(x, d)| x + step * d).collect()
                };
                let moved: Vec<Vec<f32>> = images.iter().zip(&seen_from).map(moved).collect();
                let moved: Vec<&[f32]> = moved.iter().map(|image| &image[..]).collect();
                let readings = classifier(defense).read(&moved).unwrap();
                let (votes, rest) = readings.split_at(votes);
                let votes = votes.iter().collect();
                let (views, shown) = rest[1..].split_at(viewpoints.len());
                let verdict = &options.verdict;
                Decision::new(verdict, false, (&rest[0], views), votes, shown.first())
                    .ascent(&LOSS, None)
                    .loss
            };
            // So small that no Laplacian of 8-bit levels, which the classifier takes the magnitude of,
            // changes its sign.
            let step = 1.0 / 16384.0;
            let slope = (after(step) - after(-step)) / (2.0 * f64::from(step));
            let claimed: f64 = (gradient.iter().zip(&way))
                .map(|(g, d)| f64::from(g * d))
                .sum();
            assert!((after(0.0) - loss).abs() < 1e-4 * (1.0 + loss.abs()));
            assert!(claimed > 0.0);
            assert!(
                (slope - claimed).abs() < 0.02 * claimed,
                "{slope} {claimed}"
            );
        }
    });
}

#[test]
fn draws_are_averaged_and_fresh_ones_are_not_the_defense_s() {
    for rule in [Rule::Identity, Rule::Decision] {
        let of = |draws, seeds| {
            let adaptive = Adaptive { rule, draws, seeds };
            slopes(&options(), adaptive)
        };
        let (one, two, fresh) = (
            of(1, Seeds::Fixed),
            of(2, Seeds::Fixed),
            of(1, Seeds::Fresh),
        );
        // One draw is the rule's by the defense's seed; a fresh one is that of another defense.
        assert_eq!(one, slopes(&options(), Adaptive::new(rule)));
        let mut other = options();
        other.reconstruct.seed += SEED_STRIDE;
        let found = slopes(&other, Adaptive::new(rule));
        for ((_, loss, gradient), (_, its_loss, its_gradient)) in fresh.iter().zip(&found) {
            assert_eq!((loss, gradient), (its_loss, its_gradient));
        }
        for i in 0..3 {
            // The decision's slope may be the same: the lead is straight in the logits of the votes, and
            // these nearly so in the pixels.
            assert_ne!((one[i].1, &one[i].2), (fresh[i].1, &fresh[i].2), "{rule:?}");
            for ((a, b), both) in one[i].2.iter().zip(&fresh[i].2).zip(&two[i].2) {
                assert_eq!((a + b) / 2.0, *both, "{rule:?}");
            }
            assert_eq!((one[i].1 + fresh[i].1) / 2.0, two[i].1);
        }
    }
    // What the system says is the defense's own answer, also in and after a fresh attack.
    let picture = picture(0, 20.0, 4.0);
    let read = |adaptive| {
        with_defended(&options(), adaptive, |defended| {
            let slope = defended.gradient(&[&picture.pixels], &[LOSS]).unwrap();
            let read = defended.read(&[&picture.pixels]).unwrap()[0]
                .logits()
                .to_vec();
            assert_eq!(slope[0].reading.logits(), read);
            read
        })
    };
    let fresh = Adaptive {
        seeds: Seeds::Fresh,
        ..Adaptive::new(Rule::Identity)
    };
    assert_eq!(read(fresh), read(Adaptive::new(Rule::Identity)));
}

#[test]
fn queries_have_no_gradient_and_no_draws_are_refused() {
    let clean = picture(0, 20.0, 0.0);
    with_defended(&options(), Adaptive::new(Rule::Queries), |defended| {
        let error = defended.gradient(&[&clean.pixels], &[LOSS]).unwrap_err();
        assert!(error.to_string().contains("`through=identity`"), "{error}");
    });
    let none = Adaptive {
        draws: 0,
        ..Adaptive::new(Rule::Identity)
    };
    with_defense(&options(), |defense| {
        assert!(Defended::new(defense, none).is_err());
    });
}

fn attack_options(name: Name, options: serde_json::Value) -> AttackOptions {
    AttackOptions {
        method: Method::with(name, options.as_object().unwrap()).unwrap(),
        target: Target::Untargeted,
        seed: 3,
        eight_bit: true,
    }
}

fn fooled(attacked: &[Attacked]) -> usize {
    attacked.iter().filter(|attacked| attacked.success).count()
}

#[test]
fn attacks_through_the_defense_fool_what_others_do_not() {
    let pictures: Vec<Picture> = (0..3).map(|i| picture(i, 12.0, 0.0)).collect();
    let labels = [Some(0), Some(1), Some(2)];
    // Noise is texture, by which this classifier decides.
    let mut options = options();
    options.map.vote_noise = 0.0;
    let steps = attack_options(Name::Pgd, json!({"steps": 4, "step_size": 4.0f32 / 255.0}));
    let blind = with_defense(&options, |defense| {
        let attacked = attack(&mut classifier(defense), &steps, &pictures, &labels).unwrap();
        assert_eq!(fooled(&attacked), 3, "the classifier alone falls");
        let adaptive = Adaptive::new(Rule::Queries);
        let mut defended = Defended::new(defense, adaptive).unwrap();
        let images: Vec<&[f32]> = attacked.iter().map(|a| &a.pixels[..]).collect();
        let readings = defended.read(&images).unwrap();
        let labels = readings.iter().map(Reading::label);
        labels
            .zip(0..)
            .filter(|(found, label)| found != label)
            .count()
    });
    assert_eq!(blind, 0, "behind the defense it stands");
    for (rule, seeds) in [
        (Rule::Trajectory, Seeds::Fixed),
        (Rule::Decision, Seeds::Fresh),
    ] {
        let adaptive = Adaptive {
            rule,
            draws: 1,
            seeds,
        };
        let attacked = with_defended(&options, adaptive, |defended| {
            let attacked = attack(defended, &steps, &pictures, &labels).unwrap();
            // The clean pictures, four steps, and the judgment; an attacker without the seed asks after each step, too.
            let step = if seeds == Seeds::Fresh { 2 } else { 1 };
            assert_eq!(defended.purifications(), 3 * (1 + 4 * step + 1));
            attacked
        });
        assert_eq!(fooled(&attacked), 3, "{rule:?} {seeds:?}");
        let outputs = with_defended(&options, Adaptive::new(Rule::Queries), |defended| {
            let images: Vec<&[f32]> = attacked.iter().map(|a| &a.pixels[..]).collect();
            defended.read(&images).unwrap()
        });
        for (attacked, output) in attacked.iter().zip(outputs) {
            assert!(attacked.linf <= 8.0 / 255.0 + 1e-6);
            assert_eq!(attacked.output.logits(), output.logits());
        }
    }
}

#[test]
fn square_asks_the_defended_system_for_nothing_but_readings() {
    let pictures = [picture(0, 12.0, 0.0)];
    let queries = attack_options(Name::Square, json!({"queries": 2}));
    let adaptive = Adaptive::new(Rule::Queries);
    let (attacked, spent) = with_defended(&options(), adaptive, |defended| {
        let attacked = attack(defended, &queries, &pictures, &[Some(0)]).unwrap();
        (attacked, defended.purifications())
    });
    assert!(attacked[0].linf > 0.0);
    assert!((3..=4).contains(&spent), "{spent}");
}

#[test]
fn a_picture_without_a_gradient_stays_as_it_is() {
    let black = Picture {
        shape: rgb(32, 32),
        pixels: vec![0.0; 3072],
        eight_bit: true,
    };
    let steps = attack_options(Name::Bim, json!({"steps": 2}));
    let adaptive = Adaptive::new(Rule::Identity);
    let options = Options {
        // Black is clean beyond doubt.
        verdict: VerdictOptions::default(),
        ..options()
    };
    let attacked = with_defended(&options, adaptive, |defended| {
        attack(defended, &steps, std::slice::from_ref(&black), &[None]).unwrap()
    });
    assert_eq!(attacked[0].pixels, black.pixels);
    assert!(!attacked[0].success);
}
