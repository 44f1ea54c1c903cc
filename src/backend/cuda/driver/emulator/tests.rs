mod matrices;

use super::*;
use crate::backend::cuda::driver::{Buffer, arguments, shared_bytes};
use crate::backend::cuda::kernels::faults as kernels;

arguments! {
    struct FaultArgs {
        input: Address,
        out: Address,
        count: u32,
        fault: u32,
    }

    struct CountArgs {
        counts: Address,
    }

    struct MultiplyArgs {
        a: Address,
        b: Address,
        out: Address,
        n: u32,
    }
}

const BLOCK: u32 = 64;
const BLOCKS: u32 = 3;

/// Kernels that share their arguments, ready to be launched.
struct Bench {
    device: Device,
    input: Buffer<f32>,
    out: Buffer<f32>,
}

impl Bench {
    fn new(orders: &[Order]) -> Self {
        let options = Options {
            orders: orders.to_vec(),
            ..Options::default()
        };
        let device = Emulator::new(options).unwrap().device();
        let input: Vec<f32> = (0..BLOCK).map(|i| i as f32).collect();
        Bench {
            input: device.allocate_with(&input).unwrap(),
            out: device.allocate_with(&[0.0; BLOCK as usize]).unwrap(),
            device,
        }
    }

    fn launch(&self, kernel: &Kernel, fault: bool) -> Result<()> {
        let piece = BLOCK as usize * size_of::<f32>();
        let launch = Launch::new([BLOCKS, 1, 1], BLOCK).with_shared(shared_bytes([piece, piece]));
        let arguments = FaultArgs {
            input: self.input.at(0),
            out: self.out.at(0),
            count: BLOCK,
            fault: fault.into(),
        };
        self.device.launch(kernel, launch, &arguments)
    }

    /// What a kernel's fault is reported as; without the fault nothing is.
    fn fault(&self, kernel: &Kernel) -> Fault {
        self.launch(kernel, false).unwrap();
        let error = self.launch(kernel, true).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(kernel.name) && message.contains("3×1×1"),
            "{message}"
        );
        let DriverError::Fault { fault, .. } = error else {
            panic!("{message}");
        };
        *fault
    }
}

#[test]
fn accesses_out_of_bounds_are_reported() {
    let bench = Bench::new(&[Order::Forward]);
    let access = Access {
        block: [0; 3],
        thread: BLOCK - 1,
        space: Space::Global(1),
        offset: 256,
        bytes: 4,
        size: 256,
    };
    assert_eq!(
        bench.fault(&kernels::OUT_OF_BOUNDS_READ),
        Fault::ReadOutOfBounds(access)
    );
    assert_eq!(
        bench.fault(&kernels::OUT_OF_BOUNDS_SHARED),
        Fault::WriteOutOfBounds(Access {
            space: Space::Shared(0),
            ..access
        })
    );
}

#[test]
fn reads_of_memory_never_written_are_reported() {
    let bench = Bench::new(&[Order::Forward]);
    let Fault::Uninitialized(access) = bench.fault(&kernels::UNINITIALIZED_SHARED) else {
        panic!("another fault");
    };
    assert_eq!((access.thread, access.offset), (BLOCK - 1, 252));

    let Bench { device, out, .. } = &bench;
    let input: Buffer<f32> = device.allocate(BLOCK as usize).unwrap();
    assert!(matches!(
        input.download(0, 4),
        Err(DriverError::Failed { .. })
    ));
    let arguments = FaultArgs {
        input: input.at(0),
        out: out.at(0),
        count: BLOCK,
        fault: 0,
    };
    let launch = Launch::new([1, 1, 1], BLOCK);
    let error = device
        .launch(&kernels::OUT_OF_BOUNDS_READ, launch, &arguments)
        .unwrap_err();
    let uninitialized = Fault::Uninitialized(Access {
        block: [0; 3],
        thread: 0,
        space: Space::Global(3),
        offset: 0,
        bytes: 4,
        size: 256,
    });
    assert!(
        matches!(&error, DriverError::Fault { fault, .. } if **fault == uninitialized),
        "{error}"
    );
}

#[test]
fn numbers_that_look_unwritten_are_numbers() {
    let mut bench = Bench::new(&[Order::Forward, Order::Reverse]);
    let unlikely = f32::from_ne_bytes([bridge::UNWRITTEN; 4]);
    bench.input.upload(&[unlikely; BLOCK as usize], 0).unwrap();
    bench.launch(&kernels::OUT_OF_BOUNDS_READ, false).unwrap();
    assert_eq!(
        bench.out.download(0, 64).unwrap(),
        [unlikely; BLOCK as usize]
    );
    // Through shared memory too.
    bench.launch(&kernels::MISSING_BARRIER, false).unwrap();
    assert_eq!(
        bench.out.download(0, 64).unwrap(),
        [unlikely; BLOCK as usize]
    );
    // What was written over is not remembered, nor what is freed.
    bench.out.zero().unwrap();
    bench.launch(&kernels::DIVERGENT_BARRIER, false).unwrap();
    let Bench { device, input, .. } = bench;
    drop(input);
    let again: Buffer<f32> = device.allocate(BLOCK as usize).unwrap();
    assert!(again.download(0, 1).is_err());
}

#[test]
fn threads_that_do_not_meet_are_reported() {
    let bench = Bench::new(&[Order::Forward]);
    let Fault::Divergence {
        thread,
        other,
        other_line,
        warp,
        ..
    } = bench.fault(&kernels::DIVERGENT_BARRIER)
    else {
        panic!("another fault");
    };
    assert_eq!(
        (thread, other, other_line, warp),
        (0, BLOCK / 2, None, false)
    );
    let Fault::Divergence {
        thread,
        other,
        warp,
        ..
    } = bench.fault(&kernels::DIVERGENT_SHUFFLE)
    else {
        panic!("another fault");
    };
    assert_eq!((thread, other, warp), (0, 1, true));
    bench.launch(&kernels::DIVERGENT_SHUFFLE, false).unwrap();
    let swapped: Vec<f32> = (0..BLOCK).map(|i| (i ^ 1) as f32).collect();
    assert_eq!(bench.out.download(0, 64).unwrap(), swapped);
    // The fibers of a launch that failed do not disturb the next.
    bench.launch(&kernels::DIVERGENT_BARRIER, false).unwrap();
    assert_eq!(bench.out.download(0, 2).unwrap(), [1.0, 1.0]);
}

#[test]
fn races_are_reported() {
    let orders = [Order::Forward, Order::Reverse, Order::Shuffled(1)];
    let bench = Bench::new(&orders);
    for kernel in [&kernels::MISSING_BARRIER, &kernels::RACING_BLOCKS] {
        let fault = bench.fault(kernel);
        assert!(
            matches!(fault, Fault::Race { .. }),
            "{}: {fault}",
            kernel.name
        );
    }
    bench.launch(&kernels::MISSING_BARRIER, false).unwrap();
    let neighbors: Vec<f32> = (0..BLOCK).map(|i| ((i + 1) % BLOCK) as f32).collect();
    assert_eq!(bench.out.download(0, 64).unwrap(), neighbors);
}

#[test]
fn freed_memory_and_wrong_addresses_are_reported() {
    let Bench { device, input, out } = Bench::new(&[Order::Forward]);
    let mut arguments = FaultArgs {
        input: input.at(0),
        out: out.at(0),
        count: BLOCK,
        fault: 0,
    };
    drop(input);
    let launch = |arguments: &FaultArgs| {
        let launch = Launch::new([1, 1, 1], BLOCK);
        match device.launch(&kernels::OUT_OF_BOUNDS_READ, launch, arguments) {
            Err(DriverError::Fault { fault, .. }) => *fault,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(
        launch(&arguments),
        Fault::BadAddress { freed: true, .. }
    ));
    arguments.input = Address(0);
    assert!(matches!(
        launch(&arguments),
        Fault::BadAddress { freed: false, .. }
    ));
    arguments.input = Address(out.at(0).0 + 2);
    assert!(matches!(launch(&arguments), Fault::Misaligned(_)));
}

#[test]
fn launches_that_do_not_fit_their_kernel_are_refused() {
    let bench = Bench::new(&[Order::Forward]);
    let Bench { device, out, .. } = &bench;
    let kernel = &kernels::COUNT_THREADS;
    let arguments = CountArgs { counts: out.at(0) };
    let refused = |launch: Launch| {
        matches!(
            device.launch(kernel, launch, &arguments),
            Err(DriverError::Launch { .. })
        )
    };
    let launch = Launch::new([1, 1, 1], BLOCK);
    assert!(
        refused(Launch {
            block: 65,
            ..launch
        }) && refused(Launch { block: 0, ..launch })
    );
    assert!(refused(Launch {
        grid: [1, 0, 1],
        ..launch
    }));
    assert!(refused(launch.with_shared(SHARED_LIMIT + 1)));
    assert!(
        device
            .launch(&kernels::MULTIPLY_MATRICES, launch, &arguments)
            .is_err()
    );
    let DriverError::Fault { fault, .. } = device.launch(kernel, launch, &arguments).unwrap_err()
    else {
        panic!("another error");
    };
    assert_eq!(*fault, Fault::SharedTooSmall { has: 0, wanted: 16 });
}

#[test]
fn layouts_that_differ_from_the_kernels_are_refused() {
    mod other {
        use crate::backend::cuda::driver::{Address, arguments};
        arguments! {
            struct CountArgs { count: Address }
            struct MultiplyArgs { a: Address, b: Address, n: u32, out: Address }
            struct FaultArgs { input: Address, out: Address }
        }
        pub(crate) const LAYOUTS: [crate::backend::cuda::driver::Layout; 3] = {
            use crate::backend::cuda::driver::Arguments;
            [CountArgs::LAYOUT, MultiplyArgs::LAYOUT, FaultArgs::LAYOUT]
        };
    }
    use crate::backend::cuda::driver::Arguments;
    let ours = [CountArgs::LAYOUT, MultiplyArgs::LAYOUT, FaultArgs::LAYOUT];
    let kernels = [
        &kernels::COUNT_THREADS,
        &kernels::MULTIPLY_MATRICES,
        &kernels::MISSING_BARRIER,
    ];
    for (kernel, (ours, other)) in kernels.iter().zip(ours.into_iter().zip(other::LAYOUTS)) {
        kernel.emulated.check(ours).unwrap();
        kernel.emulated.check(other).unwrap_err();
    }
}

#[test]
fn all_threads_of_all_blocks_run_and_their_work_is_counted() {
    let options = Options {
        orders: vec![Order::Shuffled(3), Order::Forward],
        ..Options::default()
    };
    let emulator = Emulator::new(options).unwrap();
    let device = emulator.device();
    let counts = device.allocate_with(&[0_u32; 2]).unwrap();
    let arguments = CountArgs {
        counts: counts.at(0),
    };
    let launch = Launch::new([7, 5, 3], BLOCK).with_shared(shared_bytes([4]));
    device
        .launch(&kernels::COUNT_THREADS, launch, &arguments)
        .unwrap();
    assert_eq!(counts.download(0, 2).unwrap(), [7 * 5 * 3 * BLOCK; 2]);

    let n = 20_usize;
    let a: Vec<f32> = (0..n * n).map(|i| (i % 7) as f32).collect();
    let b: Vec<f32> = (0..n * n).map(|i| (i % 5) as f32 - 2.0).collect();
    let (left, right) = (
        device.allocate_with(&a).unwrap(),
        device.allocate_with(&b).unwrap(),
    );
    let out = device.allocate::<f32>(n * n).unwrap();
    let arguments = MultiplyArgs {
        a: left.at(0),
        b: right.at(0),
        out: out.at(0),
        n: n as u32,
    };
    let launch = Launch::new([2, 1, 1], 256);
    device
        .launch(&kernels::MULTIPLY_MATRICES, launch, &arguments)
        .unwrap();
    let product = out.download(0, n * n).unwrap();
    for (i, &got) in product.iter().enumerate() {
        let want: f32 = (0..n).map(|k| a[i / n * n + k] * b[k * n + i % n]).sum();
        assert_eq!(got, want);
    }
    let counts = emulator.take_counts();
    let done = Counters {
        global_read: 8 * (n * n * n) as u64,
        global_written: 4 * (n * n) as u64,
        multiply_adds: (n * n * n) as u64,
        ..Counters::default()
    };
    assert_eq!(counts["multiply_matrices"].launches, 1);
    assert_eq!(counts["multiply_matrices"].done, done);
    let threads = u64::from(7 * 5 * 3 * BLOCK);
    let blocks = threads / u64::from(BLOCK);
    let done = Counters {
        global_read: 4 * (threads + blocks),
        global_written: 4 * (threads + blocks),
        shared_read: 4 * (threads + blocks),
        shared_written: 4 * (threads + blocks),
        ..Counters::default()
    };
    assert_eq!(counts["count_threads"].launches, 1);
    assert_eq!(counts["count_threads"].done, done);
    assert!(emulator.take_counts().is_empty());
}

#[test]
fn memory_that_is_not_to_be_had_is_an_error_and_freed_memory_can_be_had() {
    let options = Options {
        memory: 1000,
        ..Options::default()
    };
    let device = Emulator::new(options).unwrap().device();
    let first = device.allocate::<u32>(200).unwrap();
    assert_eq!(device.free_bytes(), Some(200));
    let refused = device.allocate::<u32>(51).unwrap_err();
    assert!(
        matches!(refused, DriverError::OutOfMemory { bytes: 204, .. }),
        "{refused}"
    );
    drop(first);
    let mut buffer = device.allocate::<u32>(250).unwrap();
    assert!(matches!(
        buffer.upload(&[1; 2], 249),
        Err(DriverError::Range { .. })
    ));
    assert!(device.allocate::<u64>(usize::MAX).is_err());
}

/// What would overflow a thread's stack does not get so far.
#[test]
fn frames_too_large_for_a_threads_stack_are_not_compiled() {
    use crate::backend::cuda::kernels::{HOST_COMPILER, LARGEST_FRAME};
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    let (source, object) = (
        folder.path().join("large.cu"),
        folder.path().join("large.o"),
    );
    let compile = |bytes: usize| {
        let text = format!(
            "#include \"device.cuh\"\nstruct LargeArgs {{ uint32_t n; }};\n\
             KERNEL(large, LargeArgs, 64) {{ char frame[{bytes}]; volatile char* at = frame; \
             at[args.n] = 1; }}\n"
        );
        std::fs::write(&source, text).unwrap();
        let output = Command::new(HOST_COMPILER[0])
            .args(&HOST_COMPILER[1..])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("-c")
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (compiled, said) = compile(LARGEST_FRAME / 2);
    assert!(compiled, "{said}");
    let (compiled, said) = compile(LARGEST_FRAME + 1);
    assert!(!compiled && said.contains("frame-larger-than"), "{said}");
}

/// Launches large enough to be shared among threads, from threads that wait for one another.
#[test]
fn launches_from_many_threads_do_not_wait_for_one_another_forever() {
    use rayon::prelude::*;
    let device = Emulator::new(Options::default()).unwrap().device();
    let blocks = WORTH_SHARING as u32;
    let run = || {
        let counts = device.allocate_with(&[0_u32; 2]).unwrap();
        let arguments = CountArgs {
            counts: counts.at(0),
        };
        let launch = Launch::new([blocks / 16, 1, 1], BLOCK).with_shared(shared_bytes([4]));
        device
            .launch(&kernels::COUNT_THREADS, launch, &arguments)
            .unwrap();
        assert_eq!(counts.download(0, 2).unwrap(), [blocks / 16 * BLOCK; 2]);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..8).for_each(|_| run()));
        (0..16).into_par_iter().for_each(|_| run());
    });
}
