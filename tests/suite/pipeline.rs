//! The joined stages on a small backend whose classifier is known in closed form.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use backstitch::attack::adaptive::{Adaptive, Rule};
use backstitch::attack::{Aim, Loss};
use backstitch::backend::{At, ClassifierEngine, ImageOps};
use backstitch::defense::{
    Defense, DeviceDefense, Fallback, Options, Outcome, Segment, Shown, StitchMode, Towards,
    TrajectoryPoint, Verdict, Vote,
};
use backstitch::dip::Preset;
use backstitch::error::Error;
use backstitch::picture::Picture;
use backstitch::purifier::{Classifier, Device, Purifier};
use backstitch::scheduler::{self, Limits, Plan};

use crate::common::fixture;
use crate::toy::{Linear, SHAPE, SOUND, Toy, boxed, defense, fingerprint, options, picture};

fn purify(options: &Options, images: usize, capacity: usize, pictures: &[Picture]) -> Vec<Outcome> {
    let mut defense = defense(&SOUND, options, images, capacity);
    let outcomes = defense.purify(&pictures.iter().collect::<Vec<_>>());
    outcomes.unwrap()
}

#[test]
fn noise_is_recognized_and_stepped_back_from() {
    let (clean, noisy) = (picture(0.0, 0.0), picture(0.0, 0.05));
    let outcomes = purify(&options(), 2, 64, &[clean.clone(), noisy.clone()]);
    let [calm, attacked] = &outcomes[..] else {
        panic!("two outcomes")
    };
    assert_eq!(calm.input.label(), 0);
    assert_eq!(calm.verdict, Verdict::Clean);
    assert_eq!(
        calm.pixels, clean.pixels,
        "a clean picture comes back as it was"
    );

    assert_eq!(attacked.input.label(), 2);
    assert_eq!(attacked.verdict, Verdict::Adversarial);
    assert_eq!(attacked.recovered_label, Some(0));
    assert_eq!(attacked.output.label(), 0);
    assert_eq!(attacked.fallback, None);
    assert_eq!(attacked.iterations, 3 * 60);
    for restart in &attacked.restarts {
        assert!(restart.margin.unwrap() >= 1.0, "{restart:?}");
        assert!((0.0..=1.0).contains(&restart.alpha.unwrap()), "{restart:?}");
    }
    // On a linear classifier the boundary on a segment is where the two logits cross.
    let restart = &attacked.restarts[0];
    assert!(restart.boundary.unwrap() > 0.0 && restart.boundary.unwrap() < 1.0);
}

#[test]
fn outcomes_do_not_depend_on_company_places_or_capacity() {
    let pictures: Vec<Picture> = (0..5)
        .map(|i| picture(i as f32, if i % 2 == 0 { 0.05 } else { 0.0 }))
        .collect();
    let alone: Vec<String> = pictures
        .iter()
        .flat_map(|picture| purify(&options(), 1, 64, std::slice::from_ref(picture)))
        .map(|outcome| fingerprint(&outcome))
        .collect();
    for (images, capacity) in [(5, 60), (2, 1), (3, 7), (4, 1000), (2, 20)] {
        let together = purify(&options(), images, capacity, &pictures);
        for (i, outcome) in together.iter().enumerate() {
            assert!(
                fingerprint(outcome) == alone[i],
                "picture {i}, {images} images, capacity {capacity}"
            );
        }
    }
}

#[test]
fn a_seed_changes_the_outcome_and_the_same_seed_does_not() {
    let noisy = [picture(0.0, 0.05)];
    let first = purify(&options(), 1, 64, &noisy);
    let again = purify(&options(), 1, 64, &noisy);
    assert_eq!(fingerprint(&first[0]), fingerprint(&again[0]));
    let mut other = options();
    other.reconstruct.seed = 99;
    assert_ne!(
        fingerprint(&purify(&other, 1, 64, &noisy)[0]),
        fingerprint(&first[0])
    );
}

#[test]
fn votes_are_taken_of_the_picture_of_its_mirror_image_and_of_that_with_noise() {
    let mut unmirrored = options();
    unmirrored.map.mirror = false;
    let pictures = [picture(0.0, 0.05), picture(1.0, 0.0)];
    let mut plain = defense(&SOUND, &unmirrored, 2, 64);
    let mut both = defense(&SOUND, &options(), 2, 64);
    let purify = |defense: &mut Defense<Toy>| {
        let outcomes = defense.purify(&pictures.iter().collect::<Vec<_>>());
        outcomes.unwrap()
    };
    let (plain, mirrored) = (purify(&mut plain), purify(&mut both));
    for (image, (plain, mirrored)) in plain.iter().zip(&mirrored).enumerate() {
        let logits = |vote: Vote<'_>| vote.reading.logits().to_vec();
        let votes = || mirrored.map.votes();
        let as_they_are: Vec<_> = votes().filter(|vote| !vote.mirrored).map(logits).collect();
        let upright = plain.map.votes().filter(|vote| !vote.noisy);
        let without: Vec<_> = upright.map(logits).collect();
        assert_eq!(as_they_are, without, "the mirror changes no other probe");
        assert_eq!(votes().count(), 3 * without.len());
        let noisy = plain.map.votes().filter(|vote| vote.noisy);
        assert_eq!(noisy.count(), without.len(), "noise needs no mirror");
        // Each twin is what the classifier sees with left and right exchanged, and with noise.
        let voters = both.voters(image, &mirrored.map).unwrap();
        for (twins, readings) in voters
            .chunks_exact(3)
            .zip(votes().collect::<Vec<_>>().chunks(3))
        {
            let rows = twins[0].chunks_exact(SHAPE.width);
            let reversed: Vec<f32> = rows.flat_map(|row| row.iter().rev().copied()).collect();
            assert_eq!(twins[1], reversed);
            let noise = twins[2].iter().zip(&reversed).map(|(a, b)| (a - b).powi(2));
            let noise = (noise.sum::<f32>() / reversed.len() as f32).sqrt();
            assert!((0.5..1.2).contains(&(noise * 255.0 / 8.0)), "{noise}");
            let seen: Vec<_> = readings.iter().map(|r| (r.mirrored, r.noisy)).collect();
            assert_eq!(seen, [(false, false), (true, false), (true, true)]);
            for (voter, vote) in twins.iter().zip(readings) {
                let mut images = SOUND.allocate(SHAPE, 1).unwrap();
                SOUND.upload(voter, &mut images, 0).unwrap();
                let seen = Linear.logits(&[At::new(&images, 0)]).unwrap();
                for (seen, read) in seen.iter().zip(vote.reading.logits()) {
                    assert!((seen - read).abs() < 1e-4, "{seen} {read}");
                }
            }
        }
        // A checkerboard of even width is its own opposite in the mirror.
        assert_ne!(mirrored.map.support(), plain.map.support());
    }
}

#[test]
fn every_way_to_stitch_gives_the_recovered_label() {
    for mode in [StitchMode::Average, StitchMode::Mosaic] {
        let mut options = options();
        options.stitch.mode = mode;
        options.stitch.cell = 4;
        let outcome = &purify(&options, 1, 64, &[picture(0.0, 0.05)])[0];
        assert_eq!(
            (outcome.output.label(), outcome.fallback),
            (0, None),
            "{mode:?}"
        );
    }
}

#[test]
fn ablations_show_each_stage_and_change_nothing() {
    let options = options();
    let mut ablated = options.clone();
    ablated.ablations = true;
    let pictures = [picture(0.0, 0.05), picture(0.0, 0.0)];
    let plain = purify(&options, 2, 64, &pictures);
    let shown = purify(&ablated, 2, 64, &pictures);
    for (plain, shown) in plain.iter().zip(&shown) {
        assert_eq!(fingerprint(plain), fingerprint(shown));
        assert!(plain.ablations.is_none());
    }
    let attacked = shown[0].ablations.as_ref().unwrap();
    let trajectory = &shown[0].map.trajectories[0];
    let last = &trajectory[trajectory.len() - 1].reading;
    assert_eq!(attacked.reconstruction.reading.logits(), last.logits());
    let is_a_probe =
        |point: &TrajectoryPoint| point.reading.logits() == attacked.early_stop.reading.logits();
    assert!(trajectory.iter().any(is_a_probe));
    // On the boundary the recovered label only just leads; a push widens the lead.
    let margin = |shown: &Shown| shown.reading.margin(0);
    assert!(0.0 < margin(&attacked.boundary) && margin(&attacked.boundary) < 1.0);
    assert!(margin(&attacked.push) >= 1.0);
    let clean = shown[1].ablations.as_ref().unwrap();
    assert_eq!(clean.push.pixels, pictures[1].pixels);
    assert_ne!(clean.reconstruction.pixels, pictures[1].pixels);
}

#[test]
fn undecided_and_forced_pictures_get_a_reconstruction() {
    let mut undecided = options();
    undecided.verdict.clean_below = 0.0;
    undecided.verdict.adversarial_from = 1.0;
    let noisy = picture(0.0, 0.05);
    let outcome = &purify(&undecided, 1, 64, std::slice::from_ref(&noisy))[0];
    assert_eq!(outcome.verdict, Verdict::Undecided);
    assert_ne!(outcome.pixels, noisy.pixels);

    let mut always = options();
    always.always = true;
    let clean = picture(0.0, 0.0);
    let outcome = &purify(&always, 1, 64, std::slice::from_ref(&clean))[0];
    assert_eq!(outcome.verdict, Verdict::Clean);
    assert_ne!(outcome.pixels, clean.pixels);
    assert_eq!(outcome.fallback, None);
}

/// Whether the map of an outcome has a point of the label.
fn on_map(outcome: &Outcome, label: usize) -> bool {
    let map = &outcome.map;
    let on_lines = map.segments.iter().flatten().flat_map(|line| &line.points);
    let on_trajectories = map.trajectories.iter().flatten();
    (on_lines.map(|point| &point.reading))
        .chain(on_trajectories.map(|point| &point.reading))
        .any(|reading| reading.label() == label)
}

/// Networks that learn a checkerboard in time, read at the reconstructions and towards the input.
fn learning(iterations: u32, probe_interval: u32) -> Options {
    let mut options = options();
    // The votes have the wrong label: the views alone must decide.
    options.verdict.evidence.view_bound_nats = f64::INFINITY;
    options.map.reach = 0.0;
    options.map.reach_points = 0;
    options.reconstruct.spec.down = vec![8, 8];
    options.reconstruct.spec.up = vec![8, 8];
    options.reconstruct.spec.skip = vec![4, 4];
    options.reconstruct.iterations = iterations;
    options.reconstruct.probe_interval = probe_interval;
    options
}

#[test]
fn a_label_that_is_nowhere_on_the_map_is_looked_for_behind_it_and_else_made() {
    // A checkerboard that the network learns, read once, at the reconstruction and towards the input. Moved
    // by a pixel it is its own opposite: the views speak against its class.
    let purified = |iterations, noise| {
        let options = learning(iterations, iterations);
        let outcome = purify(&options, 1, 64, &[picture(0.0, noise)]).remove(0);
        assert_eq!(outcome.verdict, Verdict::Adversarial);
        assert_eq!(outcome.recovered_label, Some(0));
        assert!(!on_map(&outcome, 0), "{iterations} {noise}");
        outcome
    };
    // Half learned: it is gone far enough behind the reconstruction.
    let outcome = purified(60, 0.05);
    assert_eq!((outcome.fallback, outcome.output.label()), (None, 0));
    let crossed = outcome.restarts.iter().filter_map(|r| r.boundary);
    assert!(crossed.clone().count() > 0 && crossed.clone().all(|t| t < 0.0));
    // Learnt: nothing but a nudge helps.
    let outcome = purified(150, 0.035);
    assert_eq!(outcome.fallback, Some(Fallback::Nudged));
    assert_eq!(outcome.output.label(), 0);
    // By a margin, so that no rounding to 8 bits loses the label.
    assert!(outcome.output.margin(0) >= options().push.margin);
    assert!(outcome.restarts.iter().all(|r| r.boundary.is_none()));
    // Stronger than a nudge.
    let outcome = purified(150, 0.07);
    assert_eq!(outcome.fallback, Some(Fallback::Reconstruction));
    assert_eq!(outcome.output.label(), 2);
}

#[test]
fn earlier_segments_are_drawn_where_the_last_has_no_point_of_the_label() {
    let drawn = |outcome: &Outcome| -> Vec<Vec<usize>> {
        let of_path = |lines: &Vec<Segment>| lines.iter().map(|line| line.probe).collect();
        outcome.map.segments.iter().map(of_path).collect()
    };
    // The consensus votes on all of its segments; each restart's last one has points of the label.
    let outcome = purify(&options(), 1, 64, &[picture(0.0, 0.05)]).remove(0);
    assert_eq!(outcome.verdict, Verdict::Adversarial);
    let last = *drawn(&outcome)[3].last().unwrap();
    assert_eq!(drawn(&outcome)[..3], [[last], [last], [last]]);
    assert_eq!(drawn(&outcome)[3].len(), options().map.segments);

    // A checkerboard that the networks have learned at the last probe, but not at the first.
    let mut options = learning(150, 50);
    options.map.warm_up = 0.0;
    let outcome = purify(&options, 1, 64, &[picture(0.0, 0.025)]).remove(0);
    assert_eq!(outcome.verdict, Verdict::Adversarial);
    assert_eq!(drawn(&outcome), vec![vec![0, 1, 2]; 4]);
    for path in 0..4 {
        let pair = outcome.map.pair(path, 0).unwrap();
        assert_eq!(pair.towards, Towards::Input);
        assert!(pair.probe < 2);
    }
}

/// How many points each path of a map has: on its trajectory, and on each of its segments.
fn points(outcome: &Outcome) -> Vec<(usize, Vec<usize>)> {
    let map = &outcome.map;
    let segments = |lines: &Vec<Segment>| lines.iter().map(|line| line.points.len()).collect();
    let paths = map.trajectories.iter().zip(&map.segments);
    paths
        .map(|(trajectory, lines)| (trajectory.len(), segments(lines)))
        .collect()
}

#[test]
fn what_no_result_needs_is_drawn_where_whole_maps_are_wanted() {
    let mut options = options();
    let pictures = [picture(0.0, 0.05), picture(0.0, 0.0)];
    let lean = purify(&options, 2, 64, &pictures);
    options.whole_maps = true;
    let whole = purify(&options, 2, 64, &pictures);
    for (lean, whole) in lean.iter().zip(&whole) {
        assert_eq!(fingerprint(lean), fingerprint(whole));
    }
    let probes = options.reconstruct.probes();
    let line = options.map.reach_points + 1 + options.map.segment_points;
    let votes = options.map.reach_points + 1;
    let (restart, consensus) = ((probes, vec![line]), (probes, vec![line; 3]));
    let all = [restart.clone(), restart.clone(), restart, consensus];
    assert_eq!(whole[0].verdict, Verdict::Adversarial);
    assert_eq!(points(&whole[0]), all);
    // The boundary is looked for on each path's last line.
    let boundary = (probes, vec![votes, votes, line]);
    assert_eq!(points(&lean[0])[..3], all[..3]);
    assert_eq!(points(&lean[0])[3], boundary);
    // A clean picture has none.
    assert_eq!(whole[1].verdict, Verdict::Clean);
    assert_eq!(points(&whole[1]), all);
    assert_eq!(points(&lean[1])[..3], vec![(0, vec![]); 3]);
    assert_eq!(points(&lean[1])[3], (0, vec![votes; 3]));
}

#[test]
fn eight_bit_outputs_are_judged_as_they_will_be_stored() {
    let mut options = options();
    options.eight_bit = true;
    let outcome = &purify(&options, 1, 64, &[picture(0.0, 0.05)])[0];
    for pixel in &outcome.pixels {
        let level = pixel * 255.0;
        assert!((level - level.round()).abs() < 1e-4);
    }
}

#[test]
fn the_plan_keeps_all_slots_busy() {
    let plan = |capacity| {
        let limits = Limits {
            capacity: Some(capacity),
            ..Limits::default()
        };
        Plan::new(&SOUND, &options(), SHAPE, 3, limits).unwrap()
    };
    // 12×10 in tiles of 8: four tiles, three restarts.
    let per_image = 12;
    let images = |capacity| plan(capacity).images;
    assert_eq!(images(2 * per_image), 2);
    // The third image has 1 slot: a fourth one's instances take those that the first two leave.
    assert_eq!(images(2 * per_image + 1), 4);
    assert_eq!(images(1), 2);
    assert_eq!(plan(5).capacity, 5);
}

#[test]
fn the_scheduler_passes_unreadable_pictures_on() {
    let pictures = (0..5).map(|i| {
        let readable = if i == 2 {
            Err(Error::invalid("torn"))
        } else {
            Ok(picture(i as f32, 0.0))
        };
        (i, readable)
    });
    let seen = Mutex::new(Vec::new());
    let mut defenses = [boxed(&SOUND, &options(), 2, 30)];
    let (usage, ended) = scheduler::run(
        &mut defenses,
        pictures,
        &|| false,
        || {},
        |name, outcome, _| {
            seen.lock().unwrap().push((name, outcome.is_ok()));
            Ok(())
        },
    );
    ended.unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [(0, true), (1, true), (2, false), (3, true), (4, true)]
    );
    assert!((0.0..=1.0).contains(&usage.engine_busy) && usage.seconds_by_phase.dip > 0.0);
}

#[test]
fn a_stopped_run_says_so_and_finishes_what_is_in_flight() {
    // More than the devices and the queues hold.
    let pictures = (0..).map(|i| (i, Ok(picture(i as f32, 0.0))));
    let done = AtomicUsize::new(0);
    let stop = || done.load(Ordering::Relaxed) > 0;
    let mut defenses = [boxed(&SOUND, &options(), 1, 12)];
    let (_, ended) = scheduler::run(
        &mut defenses,
        pictures,
        &stop,
        || {},
        |_, outcome, _| {
            outcome.unwrap();
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        },
    );
    assert!(matches!(ended, Err(Error::Interrupted)));
    assert!(done.into_inner() > 0);
}

#[test]
fn a_run_that_an_error_ended_leaves_the_devices_ready_for_another() {
    let mut defenses = [boxed(&SOUND, &options(), 3, 36)];
    let mut run = |fails: bool| {
        let done = AtomicUsize::new(0);
        let pictures = (0..6).map(|i| (i, Ok(picture(i as f32, 0.0))));
        let (_, ended) = scheduler::run(
            &mut defenses,
            pictures,
            &|| false,
            || {},
            |_, outcome, _| {
                outcome.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
                match fails {
                    true => Err(Error::invalid("the disk is full")),
                    false => Ok(()),
                }
            },
        );
        (ended.is_ok(), done.into_inner())
    };
    assert!(!run(true).0);
    assert_eq!(run(false), (true, 6));
}

#[test]
fn a_purifier_that_was_interrupted_goes_on_as_if_it_had_not_been() {
    let interrupt = Arc::new(AtomicBool::new(false));
    let classifier = Classifier::open(fixture("toy.onnx")).unwrap();
    let shape = classifier.shape();
    let mut purifier = Purifier::builder(classifier)
        .device(Device::Cpu(1))
        .preset(Preset::Cifar)
        .iterations(40)
        .restarts(1)
        .interrupt(interrupt.clone())
        .build()
        .unwrap();
    let level = |i: usize| (i % 17) as f32 / 17.0;
    let pixels = (0..shape.elements()).map(level).collect();
    let pictures = [Picture::new(shape, pixels).unwrap()];
    let losses = [Loss::CrossEntropy(Aim::AwayFrom(0))];
    let decision = Some(Adaptive::new(Rule::Decision));
    let score = |purifier: &mut Purifier| {
        let purified = purifier.purify(&pictures[0])?;
        Ok::<_, Error>((purified.score().to_bits(), purified.picture().hash()))
    };
    let before = score(&mut purifier).unwrap();
    interrupt.store(true, Ordering::Relaxed);
    assert!(matches!(score(&mut purifier), Err(Error::Interrupted)));
    assert!(matches!(
        purifier.classify(&pictures),
        Err(Error::Interrupted)
    ));
    for through in [None, decision] {
        let gradient = purifier.gradient(&pictures, &losses, through);
        assert!(matches!(gradient, Err(Error::Interrupted)));
    }
    interrupt.store(false, Ordering::Relaxed);
    assert_eq!(score(&mut purifier).unwrap(), before);
    purifier.gradient(&pictures, &losses, decision).unwrap();
}
