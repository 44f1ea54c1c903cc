use super::*;

/// A chip of round numbers: 100 GB/s of memory, 128 · 10 · 1 = 1280 GB/s on the chip, half a multiply-add
/// a picosecond, and ten of the matrix units.
const ROUND: Chip = Chip {
    name: "round",
    product: "",
    multiprocessors: 10,
    boost_clock: 1.0,
    float32: 1.0,
    matrix_bf16: 20.0,
    memory_bandwidth: 100.0,
    link_bandwidth: 10.0,
    shared_memory: 64,
    architecture: "90",
    warps: 64,
    blocks: 32,
    float64_lanes: 2.0,
};

fn near(got: f64, want: f64) {
    assert!((got / want - 1.0).abs() < 1e-12, "{got} for {want}");
}

#[test]
fn floors_are_what_is_computed_by_hand() {
    // A convolution of 8 to 8 channels, 3×3, over 10×10 pixels: 800 + 800 + 576 + 8 numbers, 57,600
    // multiply-adds, each of which asks for a weight and a pixel.
    let demand = Demand {
        launches: 1.0,
        bytes: 4.0 * 2184.0,
        on_chip_bytes: 57_600.0 * 8.0 + 800.0 * 4.0,
        multiply_adds: 57_600.0,
        ..Demand::default()
    };
    let floor = ROUND.floor(&demand);
    near(floor.memory, 8736.0 / 100e9);
    near(floor.on_chip, 464_000.0 / 1280e9);
    near(floor.float32, 115_200.0 / 1e12);
    assert_eq!(floor.matrix, 0.0);
    near(floor.seconds(), 0.3625e-6);
    assert_eq!(floor.bound(), Bound::OnChip);
}

#[test]
fn the_bound_is_what_takes_longest() {
    let mut demand = Demand {
        bytes: 1e3, // 10 ns
        on_chip_bytes: 1.0,
        multiply_adds: 1.0,
        ..Demand::default()
    };
    let bound = |demand: &Demand| ROUND.floor(demand).bound();
    assert_eq!(bound(&demand), Bound::Memory);
    demand.on_chip_bytes = 12.9e3;
    assert_eq!(bound(&demand), Bound::OnChip);
    demand.multiply_adds = 5.1e3;
    assert_eq!(bound(&demand), Bound::Float32);
    demand.matrix_multiply_adds = 102.1e3;
    assert_eq!(bound(&demand), Bound::Matrix);
    near(ROUND.floor(&demand).seconds(), 10.21e-9);
    assert_eq!(bound(&Demand::default()), Bound::Memory);
}

/// A launch of ten warps a multiprocessor, each of a thousand multiply-adds and as many loads, among 4,000
/// instructions.
#[test]
fn instructions_are_held_against_their_units() {
    let warps = 100.0;
    let issued = Issued {
        instructions: 4000.0 * warps,
        float32: 1000.0 * warps,
        integer: 900.0 * warps,
        float64: 100.0 * warps,
        special: 50.0 * warps,
        memory: 1000.0 * warps,
        multiply_adds: 1000.0 * warps,
        turns: 2000.0 * warps,
        clocks: 5000.0 * 20.0,
        ..Issued::default()
    };
    let demand = Demand {
        // Too much, and too little, of what is counted better.
        on_chip_bytes: 1e12,
        multiply_adds: 1.0,
        issued: Some(issued),
        ..Demand::default()
    };
    let floor = ROUND.floor(&demand);
    let clocks = |seconds: f64| seconds * 1e9 * 10.0;
    near(clocks(floor.issue), 100_000.0);
    near(clocks(floor.on_chip), 200_000.0);
    // 50 lanes of float32.
    near(clocks(floor.float32), 64_000.0);
    near(clocks(floor.integer), 45_000.0);
    near(clocks(floor.float64), 160_000.0);
    near(clocks(floor.special), 10_000.0);
    near(clocks(floor.latency), 100_000.0);
    assert_eq!(floor.bound(), Bound::OnChip);
}

#[test]
fn blocks_side_by_side_are_bounded_by_what_they_take() {
    let [h100, l4] = ["h100", "l4"].map(|name| Chip::named(name).unwrap());
    // By blocks, threads, registers and shared memory.
    assert_eq!(h100.blocks(32, 10, 0), 32);
    assert_eq!(h100.blocks(256, 32, 0), 8);
    assert_eq!(h100.blocks(256, 33, 0), 6);
    assert_eq!(h100.blocks(256, 255, 0), 1);
    assert_eq!(h100.blocks(256, 32, 227 * 1024), 1);
    assert_eq!(h100.blocks(256, 32, 75 * 1024), 3);
    assert_eq!(h100.blocks(256, 32, 75 * 1024 + 1), 2);
    assert_eq!(l4.blocks(32, 10, 0), 24);
    assert_eq!(l4.blocks(256, 32, 0), 6);
    assert_eq!(l4.blocks(256, 32, 49 * 1024), 2);
}

/// The published rates are the multiprocessors' units times the clock, rounded.
#[test]
fn rates_are_those_of_the_units() {
    // Multiply-adds a clock and multiprocessor: of float32, and of the matrix units with their own clock.
    let units = [
        ("h100", 128.0, 2048.0, 1.83),
        ("a100", 64.0, 1024.0, 1.41),
        ("l4", 128.0, 512.0, 2.04),
        ("rtx4090", 128.0, 256.0, 2.52),
    ];
    assert_eq!(units.map(|unit| unit.0), Chip::ALL.map(|chip| chip.name));
    for (name, float32, matrix, matrix_clock) in units {
        let chip = Chip::named(name).unwrap();
        let peak = |units: f64, clock: f64| 2e-3 * f64::from(chip.multiprocessors) * units * clock;
        let close = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.002, "{name}");
        close(chip.float32, peak(float32, chip.boost_clock));
        close(chip.matrix_bf16, peak(matrix, matrix_clock));
        // On-chip memory is an order faster than the device's, and slower than the arithmetic.
        let ratio = chip.on_chip_bandwidth() / chip.memory_bandwidth;
        assert!((5.0..60.0).contains(&ratio), "{name}: {ratio}");
        assert!((100..=228).contains(&chip.shared_memory), "{name}");
    }
    assert!(Chip::named("h1000").is_none());
}
