//! Matrix-multiply fragments, rounding to bfloat16 and asynchronous copies.

use half::bf16;

use super::*;
use crate::backend::cuda::kernels::matrices as kernels;
use crate::random::philox;

arguments! {
    struct MatricesArgs {
        a: Address,
        b: Address,
        product: Address,
        fault: u32,
    }

    struct RoundArgs {
        from: Address,
        to: Address,
    }

    struct CopiesArgs {
        from: Address,
        to: Address,
        count: u32,
        fault: u32,
    }
}

// The mistakes of the kernels' source.
const OUT_OF_BOUNDS: u32 = 1;
const DIVERGENT: u32 = 2;

fn emulator() -> Emulator {
    let orders = vec![Order::Forward, Order::Reverse, Order::Shuffled(1)];
    let options = Options {
        orders,
        ..Options::default()
    };
    Emulator::new(options).unwrap()
}

/// `sums + a · b`, and what it counts.
fn multiply(
    [a, b, sums]: [&[f32]; 3],
    fault: u32,
    block: u32,
) -> std::result::Result<(Vec<f32>, Counters), Fault> {
    let emulator = emulator();
    let device = emulator.device();
    let [a, b, product] = [a, b, sums].map(|numbers| device.allocate_with(numbers).unwrap());
    let arguments = MatricesArgs {
        a: a.at(0),
        b: b.at(0),
        product: product.at(0),
        fault,
    };
    let launch = Launch::new([1, 1, 1], block).with_shared(shared_bytes([512, 256]));
    let kernel = &kernels::MULTIPLY_PRODUCT;
    match device.launch(kernel, launch, &arguments) {
        Ok(()) => {
            let done = emulator.take_counts()["multiply_product"].done;
            Ok((product.download(0, 128).unwrap(), done))
        }
        Err(DriverError::Fault { fault, .. }) => Err(*fault),
        Err(error) => panic!("{error}"),
    }
}

/// Numbers that need rounding, in `[-1, 1)`.
fn numbers(seed: u32, n: u32) -> Vec<f32> {
    (0..n)
        .map(|i| philox([i, 0, 0, 0], [seed, 9])[0] as f32 / (1_u32 << 31) as f32 - 1.0)
        .collect()
}

#[test]
fn products_of_matrices_are_the_references_and_are_counted() {
    let (a, b, sums) = (numbers(1, 256), numbers(2, 128), numbers(3, 128));
    let (product, done) = multiply([&a, &b, &sums], 0, 32).unwrap();
    let rounded = |number: f32| f64::from(bf16::from_f32(number).to_f32());
    for (i, &got) in product.iter().enumerate() {
        let terms = (0..16).map(|k| rounded(a[i / 8 * 16 + k]) * rounded(b[k * 8 + i % 8]));
        let want = f64::from(sums[i]) + terms.sum::<f64>();
        // Sixteen products of 16 bits are exact in float64, and their sum all but.
        assert!((f64::from(got) - want).abs() <= want.abs() * 2f64.powi(-24) + 1e-14);
    }
    assert_eq!(done.matrix_multiply_adds, 16 * 8 * 16);
    // Rows of 16 bytes: a's and b's once as they are written; two loads of 32 rows.
    assert_eq!(
        (done.shared_written, done.shared_read),
        (48 * 16, 2 * 32 * 16)
    );
}

#[test]
fn numbers_are_rounded_to_bfloat16_as_everywhere() {
    // Ties to either side, the largest, infinities, no numbers, subnormal ones, and all that is between.
    let mut bits = vec![
        0x3f80_8000,
        0x3f81_8000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
    ];
    bits.extend([
        0x7fc0_0000,
        0xff80_0001,
        0x0000_8000,
        0x0000_8001,
        0x8000_0001,
        0x3f80_7fff,
    ]);
    bits.extend((0..1013).map(|i| philox([i, 1, 0, 0], [4, 4])[0]));
    let numbers: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
    let device = emulator().device();
    let from = device.allocate_with(&numbers).unwrap();
    let to = device.allocate::<u32>(numbers.len() / 2).unwrap();
    let arguments = RoundArgs {
        from: from.at(0),
        to: to.at(0),
    };
    let launch = Launch::new([numbers.len() as u32 / 128, 1, 1], 64);
    device
        .launch(&kernels::ROUND_PAIRS, launch, &arguments)
        .unwrap();
    let got = to.download(0, numbers.len() / 2).unwrap();
    for (i, &number) in numbers.iter().enumerate() {
        let got = (got[i / 2] >> (16 * (i % 2))) as u16;
        let want = match number.is_nan() {
            true => 0x7fff,
            false => bf16::from_f32(number).to_bits(),
        };
        assert_eq!(got, want, "{number:e}");
    }
}

#[test]
fn misuse_of_matrices_is_reported() {
    let (a, b, sums) = ([0.0; 256], [0.0; 128], [0.0; 128]);
    let fault = |fault, block| multiply([&a, &b, &sums], fault, block).unwrap_err();
    assert_eq!(
        fault(OUT_OF_BOUNDS, 32),
        Fault::ReadOutOfBounds(Access {
            block: [0; 3],
            thread: 31,
            space: Space::Shared(0),
            offset: 512,
            bytes: 16,
            size: 512,
        })
    );
    let diverges = |fault| {
        matches!(
            fault,
            Fault::Divergence {
                warp: true,
                other: 31,
                ..
            }
        )
    };
    assert!(diverges(fault(DIVERGENT, 32)));
    let absent = fault(0, 16);
    assert!(
        matches!(absent, Fault::AbsentLane { lane: 31, .. }),
        "{absent}"
    );
}

#[test]
fn copies_land_when_they_are_waited_for() {
    const BLOCK: usize = 64;
    let emulator = emulator();
    let device = emulator.device();
    let numbers: Vec<u32> = (0..4 * 2 * BLOCK as u32).collect();
    let from = device.allocate_with(&numbers).unwrap();
    let to = device.allocate_with(&vec![7_u32; numbers.len()]).unwrap();
    let launch = Launch::new([1, 1, 1], BLOCK as u32).with_shared(shared_bytes([2 * BLOCK * 16]));
    let copy = |first: Address, count: usize, fault: u32| {
        let arguments = CopiesArgs {
            from: first,
            to: to.at(0),
            count: count as u32,
            fault,
        };
        match device.launch(&kernels::COPY_BESIDE, launch, &arguments) {
            Ok(()) => None,
            Err(DriverError::Fault { fault, .. }) => Some(*fault),
            Err(error) => panic!("{error}"),
        }
    };
    // Of the last, which is not there, zeros.
    let count = 2 * BLOCK - 1;
    assert_eq!(copy(from.at(0), count, 0), None);
    let copied = to.download(0, numbers.len()).unwrap();
    for (at, piece) in copied.chunks_exact(4).enumerate() {
        let source = at / BLOCK * BLOCK + (at + 1) % BLOCK;
        let want = |k| {
            if source < count {
                (4 * source + k) as u32
            } else {
                0
            }
        };
        assert_eq!(piece, [0, 1, 2, 3].map(want));
    }
    let done = emulator.take_counts()["copy_beside"].done;
    assert_eq!(done.global_read, 16 * count as u64);
    assert_eq!(done.shared_written, 16 * 2 * BLOCK as u64);

    let early = copy(from.at(0), count, 1);
    let unwritten = |access: &Access| access.offset == (BLOCK as i64 + 1) * 16;
    assert!(
        matches!(&early, Some(Fault::Uninitialized(access)) if unwritten(access)),
        "{early:?}"
    );
    let crooked = copy(Address(from.at(0).0 + 4), count, 0);
    assert!(matches!(crooked, Some(Fault::Misaligned(_))), "{crooked:?}");
    let beyond = copy(from.at(4), 2 * BLOCK, 0);
    assert!(
        matches!(beyond, Some(Fault::ReadOutOfBounds(_))),
        "{beyond:?}"
    );
}
