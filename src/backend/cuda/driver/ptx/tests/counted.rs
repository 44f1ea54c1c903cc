//! What the meter counts, and what it does not.

use super::super::super::launch::Launch;
use super::super::meter::Issued;
use super::super::{BlockShape, State, decode};
use super::kernel;

/// What the body of a kernel of one block issues: without it, the kernel has three of its own.
fn count(body: &str, threads: u32) -> Issued {
    let run = |body: &str| {
        let programs = decode(&kernel(body)).unwrap();
        let mut state = State {
            issued: Some(Default::default()),
            ..State::new()
        };
        let [output, input] = [0, 1].map(|_| {
            let address = state.memory.allocate(1 << 16).unwrap();
            state.memory.zero(address, 1 << 16);
            address
        });
        let parameters = [output.0.to_le_bytes(), input.0.to_le_bytes()].concat();
        let launch = Launch::new([1; 3], threads).with_shared(8192);
        state
            .run("test", &programs["test"], launch, &parameters, 1)
            .unwrap_or_else(|failed| panic!("line {}: {}", failed.line, failed.fault));
        let shape = BlockShape {
            threads,
            shared: 8192,
        };
        state.issued.unwrap()[&("test", shape)]
    };
    let mut issued = run(body);
    issued += run("").times(-1.0);
    issued
}

#[test]
fn instructions_go_to_their_units() {
    let body = "\
	mov.f32 	%f10, 0f3F800000;
	fma.rn.f32 	%f1, %f10, %f10, %f10;
	add.rn.f32 	%f2, %f10, %f10;
	add.s32 	%r5, %r1, 1;
	add.s64 	%rd5, %rd1, %rd2;
	cvt.f64.f32 	%fd1, %f10;
	ex2.approx.ftz.f32 	%f3, %f10;
	div.rn.f32 	%f4, %f10, %f10;";
    for (threads, warps) in [(32, 1.0), (20, 1.0), (96, 3.0)] {
        let issued = count(body, threads);
        assert_eq!(issued.instructions, warps * 17.0);
        assert_eq!(issued.float32, warps * 11.0);
        assert_eq!(issued.integer, warps * 3.0);
        assert_eq!(issued.float64, warps);
        assert_eq!(issued.special, warps * 2.0);
        assert_eq!(issued.multiply_adds, warps);
        assert_eq!(
            (issued.memory, issued.matrix, issued.turns),
            (0.0, 0.0, 0.0)
        );
    }
    // Both ways of a branch, where lanes part; one where they do not.
    let branch = |lanes: u32| {
        format!(
            "\tsetp.lt.u32 \t%p1, %r1, {lanes};\n\t@%p1 bra \t$a;\n\tadd.s32 \t%r5, %r1, 1;\n\tbra.uni \t$b;\n\
             $a:\n\tadd.s32 \t%r5, %r1, 2;\n\tadd.s32 \t%r5, %r1, 3;\n$b:"
        )
    };
    assert_eq!(count(&branch(16), 32).instructions, 6.0);
    assert_eq!(count(&branch(32), 32).instructions, 4.0);
}

#[test]
fn banks_and_lines_take_turns() {
    // Words that lie so many bytes apart in shared memory.
    let shared = |step: u32| {
        let body = format!("\tmul.lo.s32 \t%r5, %r1, {step};\n\tst.shared.u32 \t[%r5], %r1;");
        let issued = count(&body, 32);
        assert_eq!(issued.memory, 1.0);
        issued.turns
    };
    assert_eq!(
        [0, 4, 8, 12, 128, 132].map(shared),
        [1.0, 1.0, 2.0, 1.0, 32.0, 1.0]
    );
    // Sixteen bytes a lane are a quarter of the warp at a time.
    let quads = "\tshl.b32 \t%r5, %r1, 4;\n\tst.shared.v4.u32 \t[%r5], {%r1, %r1, %r1, %r1};";
    assert_eq!(count(quads, 32).turns, 4.0);
    let global = |step: u32| {
        let body = format!(
            "\tmul.wide.u32 \t%rd5, %r1, {step};\n\tadd.s64 \t%rd6, %rd2, %rd5;\n\tld.global.u32 \t%r5, [%rd6];"
        );
        count(&body, 32).turns
    };
    assert_eq!([0, 4, 8, 128].map(global), [1.0, 1.0, 2.0, 32.0]);
    let exchange = "\tshfl.sync.bfly.b32 \t%r7|%p2, %r1, 1, 31, -1;";
    assert_eq!(count(exchange, 32).turns, 1.0);
}

#[test]
fn warps_wait_for_what_they_use_and_for_nothing_else() {
    let load = |register: u32, line: u32| {
        format!("\tld.global.u32 \t%r{register}, [%rd2+{}];\n", 128 * line)
    };
    let sum = "\tadd.s32 \t%r20, %r10, %r11;\n\tadd.s32 \t%r21, %r20, %r20;\n";
    let clocks = |body: String| count(&body, 32).clocks;
    let side_by_side = clocks(load(10, 0) + &load(11, 1) + sum);
    let between = "\tadd.s32 \t%r20, %r10, %r10;\n\tadd.s32 \t%r22, %r20, %r20;\n";
    let in_turns = clocks(load(10, 0) + between + &load(11, 1) + sum);
    assert!((500.0..520.0).contains(&side_by_side), "{side_by_side}");
    assert!(in_turns > 1.9 * side_by_side, "{in_turns}");
    // What the block has had already is near; what is not used is not waited for.
    let again = clocks(load(10, 0) + between + &load(11, 0) + sum);
    assert!(again < 1.2 * side_by_side, "{again}");
    assert!(clocks(load(10, 0)) < 10.0);
}
