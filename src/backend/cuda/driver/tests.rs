use serde_json::Value;

use super::emulator::{Emulator, Fault, Options};
use super::*;
use crate::backend::cuda::kernels::faults as kernels;

arguments! {
    struct CountArgs {
        counts: Address,
    }

    struct FaultArgs {
        input: Address,
        out: Address,
        count: u32,
        fault: u32,
    }
}

const BLOCK: u32 = 64;

fn emulator() -> Emulator {
    Emulator::new(Options::default()).unwrap()
}

/// Adds `blocks` blocks' threads to both counts.
fn count(device: &Device, counts: &Buffer<u32>, blocks: u32) -> Result<()> {
    let arguments = CountArgs {
        counts: counts.at(0),
    };
    let launch = Launch::new([blocks, 1, 1], BLOCK)
        .with_shared(shared_bytes([4]))
        .doing(Work {
            bytes: 1000 * u64::from(blocks),
            multiply_adds: 10 * u64::from(blocks),
            matrix_multiply_adds: u64::from(blocks),
        });
    device.launch(&kernels::COUNT_THREADS, launch, &arguments)
}

/// A launch that fails where it is wanted.
fn fault(device: &Device, numbers: &Buffer<f32>, fault: bool) -> Result<()> {
    let arguments = FaultArgs {
        input: numbers.at(0),
        out: numbers.at(0),
        count: BLOCK,
        fault: fault.into(),
    };
    let launch = Launch::new([1, 1, 1], BLOCK);
    device.launch(&kernels::OUT_OF_BOUNDS_READ, launch, &arguments)
}

#[test]
fn graphs_repeat_their_launches() {
    let emulator = emulator();
    let device = emulator.device();
    let mut counts = device.allocate_with(&[0_u32; 2]).unwrap();
    let graph = device.record(|| {
        count(&device, &counts, 2)?;
        count(&device, &counts, 3)
    });
    let graph = graph.unwrap();
    assert_eq!(graph.len(), 2);
    assert_eq!(format!("{graph:?}"), "a graph of 2 count_threads");
    assert!(emulator.take_counts().is_empty());
    graph.launch(4).unwrap();
    assert_eq!(counts.download(0, 2).unwrap(), [4 * 5 * BLOCK; 2]);
    assert_eq!(emulator.take_counts()["count_threads"].launches, 8);
    // What it works on may change.
    counts.upload(&[7, 8], 0).unwrap();
    graph.launch(1).unwrap();
    assert_eq!(
        counts.download(0, 2).unwrap(),
        [7 + 5 * BLOCK, 8 + 5 * BLOCK]
    );
    let nothing = device.record(|| Ok::<_, DriverError>(())).unwrap();
    assert!(nothing.is_empty());
    nothing.launch(3).unwrap();
}

#[test]
fn graphs_hold_launches_only() {
    let (device, other) = (emulator().device(), emulator().device());
    let mut counts = device.allocate_with(&[0_u32; 2]).unwrap();
    let mut others = other.allocate_with(&[0_u32; 2]).unwrap();
    let graph = device.record(|| count(&device, &counts, 1)).unwrap();
    let refused = |result: Result<()>| {
        let error = result.unwrap_err();
        let named = error.to_string().contains("while a graph is recorded");
        assert!(
            named && matches!(error, DriverError::Recording { .. }),
            "{error}"
        );
    };
    let recorded = device.record(|| {
        refused(counts.upload(&[1], 0));
        refused(counts.download(0, 1).map(drop));
        refused(counts.zero());
        refused(device.allocate::<u32>(1).map(drop));
        refused(device.profile().map(drop));
        refused(graph.launch(1));
        refused(device.record(|| count(&device, &counts, 1)).map(drop));
        // Other devices and threads have nothing to do with it.
        others.upload(&[5], 0)?;
        count(&other, &others, 1)?;
        std::thread::scope(|scope| scope.spawn(|| counts.upload(&[3], 0)).join().unwrap())?;
        count(&device, &counts, 1)
    });
    assert_eq!(recorded.unwrap().len(), 1);
    assert_eq!(others.download(0, 2).unwrap(), [5 + BLOCK, BLOCK]);
    assert_eq!(counts.download(0, 1).unwrap(), [3]);
    // A recording that fails, or panics, has ended.
    refused(device.record(|| counts.zero()).map(drop));
    let panic = std::panic::AssertUnwindSafe(|| {
        let _ = device.record::<DriverError>(|| panic!("as it may"));
    });
    assert!(std::panic::catch_unwind(panic).is_err());
    counts.zero().unwrap();
}

#[test]
fn faults_in_graphs_name_the_kernel() {
    let device = emulator().device();
    let counts = device.allocate_with(&[0_u32; 2]).unwrap();
    let numbers = device.allocate_with(&[0.0_f32; BLOCK as usize]).unwrap();
    let graph = device.record(|| {
        count(&device, &counts, 1)?;
        fault(&device, &numbers, true)
    });
    let error = graph.unwrap().launch(1).unwrap_err();
    let DriverError::Fault { kernel, fault, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*kernel, "out_of_bounds_read");
    assert!(matches!(**fault, Fault::ReadOutOfBounds(_)), "{error}");
}

/// Launches in two phases, one in the other, and transfers.
fn profiled(device: &Device) -> Profile {
    let profiling = device.profile().unwrap();
    let outer = device.phase("outer");
    let mut counts = device.allocate_with(&[0_u32; 2]).unwrap();
    count(device, &counts, 1).unwrap();
    for _ in 0..3 {
        let _inner = device.phase("inner");
        count(device, &counts, 2).unwrap();
    }
    drop(outer);
    let graph = device.record(|| count(device, &counts, 5)).unwrap();
    graph.launch(4).unwrap();
    counts.zero().unwrap();
    assert_eq!(counts.download(0, 1).unwrap(), [0]);
    profiling.finish().unwrap()
}

#[test]
fn profiles_sum_up_what_was_done() {
    let emulator = emulator();
    let profile = profiled(&emulator.device());
    let total = |name: &str| *profile.totals.iter().find(|t| t.name == name).unwrap();
    let counted = total("count_threads");
    let blocks = 1 + 3 * 2 + 4 * 5;
    assert_eq!(counted.count, 8);
    assert_eq!(
        counted.count,
        emulator.take_counts()["count_threads"].launches
    );
    let work = Work {
        bytes: 1000 * blocks,
        multiply_adds: 10 * blocks,
        matrix_multiply_adds: blocks,
    };
    assert_eq!(counted.work, work);
    assert!(counted.seconds > 0.0);
    let rate = 22.0 * blocks as f64 / counted.seconds;
    assert!((counted.arithmetic() / rate - 1.0).abs() < 1e-12);
    for (name, bytes) in [("upload", 8), ("zeroing", 8), ("download", 4)] {
        let transfer = total(name);
        assert_eq!((transfer.count, transfer.work.bytes), (1, bytes));
        assert_eq!(transfer.kind, ActivityKind::Transfer);
    }
    let [outer, inner] = &profile.phases[..] else {
        panic!("{:?}", profile.phases);
    };
    assert_eq!((outer.name, outer.count), ("outer", 1));
    assert_eq!((inner.name, inner.count), ("inner", 3));
    // What lies in one another holds one another.
    assert!(inner.device_seconds < outer.device_seconds);
    assert!(inner.device_seconds <= inner.seconds && inner.seconds <= outer.seconds);
    assert!(outer.device_seconds < profile.device_seconds());
    assert!(profile.device_seconds() <= profile.seconds);
}

#[test]
fn tables_say_what_is_known() {
    let work = Work {
        bytes: 3_000_000_000,
        multiply_adds: 500_000_000,
        matrix_multiply_adds: 0,
    };
    let total = Total {
        name: "conv",
        kind: ActivityKind::Kernel,
        count: 20,
        seconds: 0.003,
        work,
    };
    let transfer = Total {
        name: "upload",
        kind: ActivityKind::Transfer,
        count: 1,
        seconds: 0.001,
        ..total
    };
    let mut profile = Profile {
        device: "a chip".to_owned(),
        peak: Peak {
            bytes: Some(2e12),
            multiply_adds: Some(1e12),
            matrix_multiply_adds: None,
        },
        seconds: 0.008,
        totals: vec![total, transfer],
        phases: vec![PhaseTotal {
            name: "probe",
            count: 2,
            seconds: 0.004,
            device_seconds: 0.003,
        }],
        events: vec![],
        dropped: 3,
    };
    let want = "\
a chip: 0.008 s, busy 50.0%
peak: 2000 GB/s, 2000 GFLOP/s float32, unknown GFLOP/s bfloat16 by matrix units

kernel or transfer  count     ms  of all  floor ms  µs each    GB/s  of peak  GFLOP/s  of peak
conv                   20  3.000   75.0%     1.500    150.0  1000.0    50.0%    333.3    16.7%
upload                  1  1.000   25.0%             1000.0  3000.0

phase  count     ms  device ms   busy
probe      2  4.000      3.000  75.0%

the trace holds the first 0 events; 3 later ones are only in the sums
";
    assert_eq!(profile.to_string(), want);
    profile.totals[0].work.matrix_multiply_adds = 1;
    profile.peak.bytes = None;
    let table = profile.to_string();
    let line = table.lines().find(|line| line.starts_with("conv")).unwrap();
    assert_eq!(line.matches("unknown").count(), 3, "{line}");
}

#[test]
fn traces_hold_every_launch_and_phase() {
    let profile = profiled(&emulator().device());
    let mut trace = vec![];
    profile.write_trace(&mut trace).unwrap();
    let trace: Vec<Value> = serde_json::from_slice(&trace).unwrap();
    let named = |name: &str| {
        let events = trace.iter().filter(|event| event["name"] == name);
        events.collect::<Vec<_>>()
    };
    assert_eq!(named("thread_name").len(), 2);
    let launches = named("count_threads");
    assert_eq!(launches.len(), 8);
    let number = |value: &Value| value.as_f64().unwrap();
    let span = |event: &Value| {
        assert_eq!(event["ph"], "X");
        let begin = number(&event["ts"]);
        (begin, begin + number(&event["dur"]))
    };
    let seconds: f64 = launches.iter().map(|event| number(&event["dur"])).sum();
    let total = profile.totals.iter().find(|t| t.name == "count_threads");
    assert!((seconds * 1e-6 / total.unwrap().seconds - 1.0).abs() < 1e-9);
    assert_eq!(launches[1]["args"]["bytes"], 2000);
    assert_eq!(
        launches[1]["args"]["launch"],
        "(2×1×1 blocks of 64 threads, 16 bytes shared)"
    );
    // One after another, and each in its phase on the other track.
    for pair in launches.windows(2) {
        assert!(span(pair[0]).1 <= span(pair[1]).0);
    }
    let outer = span(named("outer")[0]);
    let inner = named("inner");
    assert_eq!(inner.len(), 3);
    for (phase, launch) in inner.iter().zip(&launches[1..4]) {
        assert_ne!(phase["tid"], launch["tid"]);
        let (phase, launch) = (span(phase), span(launch));
        // The device's clock and the phases' start at the same time, to some microseconds.
        let slack = 1000.0;
        assert!(outer.0 <= phase.0 && phase.1 <= outer.1);
        assert!(phase.0 <= launch.0 + slack && launch.1 <= phase.1 + slack);
    }
}

#[test]
fn what_fails_is_not_counted() {
    let device = emulator().device();
    let numbers = device.allocate_with(&[0.0_f32; BLOCK as usize]).unwrap();
    let profiling = device.profile().unwrap();
    fault(&device, &numbers, false).unwrap();
    fault(&device, &numbers, true).unwrap_err();
    fault(&device, &numbers, false).unwrap();
    let profile = profiling.finish().unwrap();
    assert_eq!(profile.totals.len(), 1);
    assert_eq!(profile.totals[0].count, 2);
}

#[test]
fn a_device_has_one_profile_at_a_time() {
    let emulator = emulator();
    let device = emulator.device();
    let profiling = device.profile().unwrap();
    let error = device.profile().unwrap_err();
    assert!(error.to_string().contains("profiled already"), "{error}");
    let old = device.phase("old");
    drop(profiling);
    // Another handle of the same device; the phase of before is no phase of it.
    let profiling = emulator.device().profile().unwrap();
    let new = device.phase("new");
    drop(old);
    let counts = device.allocate_with(&[0_u32; 2]).unwrap();
    count(&device, &counts, 1).unwrap();
    let profile = profiling.finish().unwrap();
    drop(new);
    let names: Vec<_> = profile.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(names, ["new"]);
    assert!(profile.phases[0].device_seconds > 0.0);
    let phase = device.phase("after");
    drop(phase);
}

#[test]
fn long_profiles_take_bounded_memory() {
    let device = emulator().device();
    let profiling = device.profile().unwrap();
    let counts = device.allocate_with(&[0_u32; 2]).unwrap();
    for _ in 0..profiler::BATCH {
        count(&device, &counts, 1).unwrap();
    }
    for _ in 0..profiler::MAX_EVENTS {
        drop(device.phase("short"));
    }
    let profile = profiling.finish().unwrap();
    // The uploads and launches of the first batch were read before, those of the next after.
    let activities: u64 = profile.totals.iter().map(|total| total.count).sum();
    assert_eq!(activities, profiler::BATCH as u64 + 1);
    assert_eq!(profile.dropped(), activities);
    let phases = profile.phases[0];
    assert_eq!(phases.count, profiler::MAX_EVENTS as u64);
    assert!(profile.to_string().contains("only in the sums"));
}
