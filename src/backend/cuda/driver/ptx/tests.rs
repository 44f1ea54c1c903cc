mod compiled;
mod counted;

use super::super::emulator::fault::Fault;
use super::super::launch::Launch;
use super::block::Failed;
use super::{State, decode};

/// A kernel with some registers and pointers: `%rd1` to what it writes, `%rd2` to what it reads, `%rd3` and `%rd4`
/// to the thread's word there; `%r1` is the thread's number, `%r2` four times that, and `%r3` the block's.
fn kernel(body: &str) -> String {
    format!(
        "\
.version 9.0
.target sm_80
.address_size 64

.extern .shared .align 16 .b8 block_memory[];

.visible .entry test(
	.param .align 8 .b8 test_param_0[16]
)
.maxntid 1024, 1, 1
{{
	.reg .pred 	%p<10>;
	.reg .b16 	%rs<10>;
	.reg .f32 	%f<40>;
	.reg .b32 	%r<40>;
	.reg .f64 	%fd<10>;
	.reg .b64 	%rd<10>;

	ld.param.u64 	%rd1, [test_param_0];
	ld.param.u64 	%rd2, [test_param_0+8];
	mov.u32 	%r1, %tid.x;
	shl.b32 	%r2, %r1, 2;
	mov.u32 	%r3, %ctaid.x;
	cvt.u64.u32 	%rd9, %r2;
	add.s64 	%rd3, %rd1, %rd9;
	add.s64 	%rd4, %rd2, %rd9;
{body}
	ret;

}}
"
    )
}

/// Launches a kernel of so many blocks and threads with 512 bytes of shared memory, and returns the words that it
/// writes; those that it did not are 0.
fn run_blocks(body: &str, [blocks, threads]: [u32; 2], input: &[u32]) -> Result<Vec<u32>, Failed> {
    let programs = decode(&kernel(body)).unwrap();
    let mut state = State::new();
    let output = state.memory.allocate(4 * 256).unwrap();
    state.memory.zero(output, 4 * 256);
    let from = state.memory.allocate(4 * input.len().max(1)).unwrap();
    state.memory.write(bytemuck::cast_slice(input), from);
    let parameters = [output.0.to_le_bytes(), from.0.to_le_bytes()].concat();
    let launch = Launch::new([blocks, 1, 1], threads).with_shared(512);
    state.run("test", &programs["test"], launch, &parameters, 1)?;
    let mut words = vec![0; 256];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    state.memory.read(output, bytes).unwrap();
    Ok(words)
}

fn run(body: &str, threads: u32, input: &[u32]) -> Vec<u32> {
    let words = run_blocks(body, [1, threads], input);
    words.unwrap_or_else(|Failed { line, fault }| panic!("line {line}: {fault}"))
}

/// What is wrong with a kernel of one block, and where.
fn fault(body: &str, threads: u32) -> (u32, Fault) {
    faults(body, [1, threads])
}

fn faults(body: &str, launch: [u32; 2]) -> (u32, Fault) {
    // The first line of the body is the 27th.
    match run_blocks(body, launch, &[0; 64]) {
        Ok(_) => panic!("no fault"),
        Err(Failed { line, fault }) => (line - 26, fault),
    }
}

/// One instruction's result, of inputs in `%r10` and on, which float instructions take from `%f10` and on.
fn compute(instruction: &str, inputs: &[u32]) -> u32 {
    let mut body = String::new();
    for i in 0..inputs.len() {
        let (register, offset) = (10 + i, 4 * i);
        body += &format!("\tld.global.u32 \t%r{register}, [%rd2+{offset}];\n");
        body += &format!("\tmov.b32 \t%f{register}, %r{register};\n");
    }
    let result = if instruction.contains("%f1,") {
        "f32 \t[%rd1], %f1"
    } else {
        "u32 \t[%rd1], %r5"
    };
    body += &format!("\t{instruction};\n\tst.global.{result};");
    run(&body, 1, inputs)[0]
}

fn compute_f32(instruction: &str, inputs: &[f32]) -> f32 {
    let bits: Vec<u32> = inputs.iter().map(|x| x.to_bits()).collect();
    f32::from_bits(compute(instruction, &bits))
}

#[test]
fn integers_are_computed_as_the_instruction_set_says() {
    for (instruction, inputs, result) in [
        ("add.s32 \t%r5, %r10, %r11", &[u32::MAX, 3][..], 2),
        ("add.s32 \t%r5, %r10, -5", &[3], u32::MAX - 1),
        (
            "mad.lo.s32 \t%r5, %r10, %r11, %r12",
            &[1 << 16, 1 << 16, 7],
            7,
        ),
        ("shl.b32 \t%r5, %r10, %r11", &[1, 32], 0),
        ("shr.u32 \t%r5, %r10, %r11", &[u32::MAX, 40], 0),
        ("shr.s32 \t%r5, %r10, %r11", &[1 << 31, 40], u32::MAX),
        ("div.u32 \t%r5, %r10, %r11", &[17, 5], 3),
        ("rem.u32 \t%r5, %r10, %r11", &[17, 5], 2),
        ("min.s32 \t%r5, %r10, %r11", &[u32::MAX, 5], u32::MAX),
        ("min.u32 \t%r5, %r10, %r11", &[u32::MAX, 5], 5),
        ("abs.s32 \t%r5, %r10", &[u32::MAX], 1),
        ("bfi.b32 \t%r5, %r10, %r11, 4, 8", &[0xfff, 0], 0xff0),
        ("bfi.b32 \t%r5, %r10, %r11, 28, 8", &[0xfff, 1], 0xf000_0001),
        (
            "cvt.rzi.s32.f32 \t%r5, %f10",
            &[(-2.75_f32).to_bits()],
            -2_i32 as u32,
        ),
        (
            "cvt.rzi.s32.f32 \t%r5, %f10",
            &[3e9_f32.to_bits()],
            i32::MAX as u32,
        ),
        (
            "cvt.rn.bf16x2.f32 \t%r5, %f10, %f11",
            &[0x3f80_8000, 0x3f81_8000],
            0x3f80_3f82,
        ),
        (
            "cvt.rn.bf16x2.f32 \t%r5, %f10, %f11",
            &[0xffff_ffff, 0x3f80_8001],
            0x7fff_3f81,
        ),
    ] {
        let computed = compute(instruction, inputs);
        assert_eq!(
            computed, result,
            "{instruction} of {inputs:?} is {computed:#x}"
        );
    }
}

#[test]
fn floats_are_rounded_as_the_instruction_says() {
    let tiny = 2_f32.powi(-30);
    for (instruction, inputs, result) in [
        ("add.rn.f32 \t%f1, %f10, %f11", &[1.0, tiny][..], 1.0),
        ("add.rz.f32 \t%f1, %f10, %f11", &[1.0, tiny], 1.0),
        (
            "add.rz.f32 \t%f1, %f10, %f11",
            &[1.0, -tiny],
            1_f32.next_down(),
        ),
        (
            "add.rz.f32 \t%f1, %f10, %f11",
            &[-1.0, tiny],
            -1_f32.next_down(),
        ),
        // So small that the sum of float64 numbers loses it.
        (
            "add.rz.f32 \t%f1, %f10, %f11",
            &[1.0, -1e-30],
            1_f32.next_down(),
        ),
        (
            "fma.rn.f32 \t%f1, %f10, %f10, %f11",
            &[1.0 + 2_f32.powi(-12), -1.0],
            2_f32.powi(-11) + 2_f32.powi(-24),
        ),
        (
            "fma.rm.f32 \t%f1, %f10, %f10, %f11",
            &[1.0, -1e-30],
            1_f32.next_down(),
        ),
        ("fma.rm.f32 \t%f1, %f10, %f10, %f11", &[1.0, 1e-30], 1.0),
        ("div.rn.f32 \t%f1, %f10, %f11", &[1.0, 3.0], 1.0 / 3.0),
        ("cvt.rni.f32.f32 \t%f1, %f10", &[2.5], 2.0),
        ("cvt.rmi.f32.f32 \t%f1, %f10", &[-2.5], -3.0),
        ("cvt.sat.f32.f32 \t%f1, %f10", &[1.5], 1.0),
        ("cvt.sat.f32.f32 \t%f1, %f10", &[f32::NAN], 0.0),
        ("min.f32 \t%f1, %f10, %f11", &[f32::NAN, 2.0], 2.0),
        ("max.f32 \t%f1, %f10, %f11", &[2.0, f32::NAN], 2.0),
        ("max.f32 \t%f1, %f10, %f11", &[-0.0, 0.0], 0.0),
        ("min.f32 \t%f1, %f10, %f11", &[0.0, -0.0], -0.0),
        ("copysign.f32 \t%f1, %f10, %f11", &[-1.0, 2.0], -2.0),
        (
            "ex2.approx.ftz.f32 \t%f1, %f10",
            &[0.5],
            std::f32::consts::SQRT_2,
        ),
        ("ex2.approx.ftz.f32 \t%f1, %f10", &[-130.0], 0.0),
        ("ex2.approx.f32 \t%f1, %f10", &[-130.0], 2_f32.powi(-130)),
        (
            "rcp.approx.ftz.f32 \t%f1, %f10",
            &[2_f32.powi(-130)],
            f32::INFINITY,
        ),
    ] {
        let computed = compute_f32(instruction, inputs);
        assert_eq!(
            computed.to_bits(),
            result.to_bits(),
            "{instruction} of {inputs:?} is {computed}"
        );
    }
    // What is no number has a GPU's bits.
    let none = compute_f32(
        "add.rn.f32 \t%f1, %f10, %f11",
        &[f32::INFINITY, f32::NEG_INFINITY],
    );
    assert_eq!(none.to_bits(), 0x7fff_ffff);
}

#[test]
fn comparisons_tell_what_is_no_number() {
    for (relation, of_numbers, of_none) in [
        ("lt", true, false),
        ("ltu", true, true),
        ("ge", false, false),
        ("geu", false, true),
        ("eq", false, false),
        ("equ", false, true),
        ("ne", true, false),
        ("neu", true, true),
    ] {
        for (b, expected) in [(2.0, of_numbers), (f32::NAN, of_none)] {
            let body =
                format!("setp.{relation}.f32 \t%p1, %f10, %f11;\n\tselp.u32 \t%r5, 1, 0, %p1");
            let result = compute(&body, &[1_f32.to_bits(), b.to_bits()]);
            assert_eq!(result == 1, expected, "1 {relation} {b}");
        }
    }
}

#[test]
fn lanes_part_at_branches_and_meet_again() {
    // Lane l turns l % 5 times, then all exchange what they counted.
    let body = "\
	rem.u32 	%r5, %r1, 5;
	mov.u32 	%r6, 0;
$turn:
	setp.ge.u32 	%p1, %r6, %r5;
	@%p1 bra 	$done;
	add.s32 	%r6, %r6, 1;
	bra.uni 	$turn;
$done:
	shfl.sync.bfly.b32 	%r7|%p2, %r6, 1, 31, -1;
	@!%p2 bra 	$end;
	st.global.u32 	[%rd3], %r7;
$end:";
    let words = run(body, 64, &[]);
    let expected: Vec<u32> = (0..64).map(|thread| (thread ^ 1) % 5).collect();
    assert_eq!(words[..64], expected);
}

#[test]
fn matrices_are_loaded_and_multiplied() {
    // Lane l keeps row l of 32 rows of 16 bytes: four matrices of 8 x 8, the element (row, column) of matrix m
    // being 2 to the power of m + row - column.
    let element = |matrix: u32, row: u32, column: u32| (127 + matrix + row - column) << 7;
    let mut input = vec![];
    for lane in 0..32 {
        for pair in 0..4 {
            let [low, high] = [0, 1].map(|which| element(lane / 8, lane % 8, 2 * pair + which));
            input.push(low | high << 16);
        }
    }
    let load = "\
	mul.wide.u32 	%rd5, %r1, 16;
	add.s64 	%rd6, %rd2, %rd5;
	ld.global.v4.u32 	{%r10, %r11, %r12, %r13}, [%rd6];
	shl.b32 	%r4, %r1, 4;
	mov.u32 	%r5, block_memory;
	add.s32 	%r6, %r5, %r4;
	st.shared.v4.u32 	[%r6], {%r10, %r11, %r12, %r13};
	bar.sync 	0;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r6];
	ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r24, %r25, %r26, %r27}, [%r6];
	add.s64 	%rd7, %rd1, %rd5;";
    let store = |registers: &str| format!("{load}\n\tst.global.v4.u32 \t[%rd7], {{{registers}}};");
    for (transposed, registers) in [
        (false, "%r20, %r21, %r22, %r23"),
        (true, "%r24, %r25, %r26, %r27"),
    ] {
        let words = run(&store(registers), 32, &input);
        for lane in 0..32 {
            for matrix in 0..4 {
                let [low, high] = [0, 1].map(|which| match (lane / 4, lane % 4 * 2 + which) {
                    (major, minor) if transposed => element(matrix, minor, major),
                    (major, minor) => element(matrix, major, minor),
                });
                let word = words[(4 * lane + matrix) as usize];
                assert_eq!(word, low | high << 16, "lane {lane}, matrix {matrix}");
            }
        }
    }

    // Quarters in the order top left, bottom left, top right, bottom right; right's upper half is matrix 0
    // transposed back, its lower half matrix 1.
    let multiply = format!(
        "{load}
	mov.f32 	%f20, 0f3F800000;
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%f30, %f31, %f32, %f33}}, {{%r20, %r21, %r22, %r23}}, {{%r24, %r25}}, {{%f20, %f20, %f20, %f20}};
	st.global.v4.f32 	[%rd7], {{%f30, %f31, %f32, %f33}};"
    );
    let words = run(&multiply, 32, &input);
    let number = |bits: u32| f64::from(f32::from_bits(bits << 16));
    for lane in 0..32_u32 {
        for k in 0..4 {
            let (row, column) = (lane / 4 + k / 2 * 8, lane % 4 * 2 + k % 2);
            let products = (0..16).map(|i| {
                let left = element(row / 8 + i / 8 * 2, row % 8, i % 8);
                number(left) * number(element(i / 8, i % 8, column))
            });
            let exact = 1.0 + products.sum::<f64>();
            let computed = f64::from(f32::from_bits(words[(4 * lane + k) as usize]));
            // 16 sums, rounded to 24 bits.
            assert!(
                (computed - exact).abs() <= exact * 16.0 * 2_f64.powi(-24),
                "{computed} {exact}"
            );
        }
    }
}

#[test]
fn copies_land_when_they_are_waited_for() {
    let copy = |wait: &str| {
        format!(
            "\
	mov.u32 	%r5, 0;
	mov.u32 	%r6, 16;
	st.shared.v4.u32 	[%r5], {{%r6, %r6, %r6, %r6}};
	st.shared.v4.u32 	[%r5+16], {{%r6, %r6, %r6, %r6}};
	cp.async.cg.shared.global [%r5], [%rd2], 16, %r6;
	cp.async.commit_group;
	cp.async.cg.shared.global [%r5+16], [%rd2+16], 16, %r5;
	cp.async.commit_group;
	cp.async.wait_group {wait};
	ld.shared.v2.u32 	{{%r10, %r11}}, [%r5];
	ld.shared.v2.u32 	{{%r12, %r13}}, [%r5+16];
	st.global.v4.u32 	[%rd1], {{%r10, %r11, %r12, %r13}};"
        )
    };
    for (wait, expected) in [("2", [16; 4]), ("1", [5, 6, 16, 16]), ("0", [5, 6, 0, 0])] {
        let words = run(&copy(wait), 1, &[5, 6, 7, 8]);
        assert_eq!(words[..4], expected, "{wait} groups may be under way");
    }
}

#[test]
fn what_a_thread_does_wrong_is_told() {
    let out_of_bounds = fault("\tld.global.u32 \t%r5, [%rd4+252];", 2);
    assert!(
        matches!(out_of_bounds, (1, Fault::ReadOutOfBounds(a)) if a.thread == 1 && a.offset == 256)
    );
    let out_of_bounds = fault("\tst.global.u32 \t[%rd3+1024], %r1;", 1);
    assert!(matches!(out_of_bounds, (1, Fault::WriteOutOfBounds(_))));
    let out_of_bounds = fault("\tst.shared.u32 \t[%r2+512], %r1;", 1);
    assert!(matches!(out_of_bounds, (1, Fault::WriteOutOfBounds(a)) if a.size == 512));
    let misaligned = fault("\tld.global.v2.u32 \t{%r5, %r6}, [%rd2+4];", 1);
    assert!(matches!(misaligned, (1, Fault::Misaligned(_))));
    let unknown = fault("\tmov.u64 \t%rd5, 64;\n\tld.global.u32 \t%r5, [%rd5];", 1);
    assert!(matches!(unknown, (2, Fault::BadAddress { .. })));
    let unwritten = fault("\tld.shared.u32 \t%r5, [%r2];", 1);
    assert!(matches!(unwritten, (1, Fault::Uninitialized(_))));
    // Of a vector, the bytes that are used: here the second word.
    let vector = "\tst.shared.u32 \t[%r2+4], %r1;\n\t.pragma \"used_bytes_mask 240\";\n\tld.shared.v2.u32 \t{%r5, %r6}, [%r2];";
    assert_eq!(run(vector, 1, &[])[0], 0);
    let other = fault(&vector.replace("240", "15"), 1);
    assert!(matches!(other, (3, Fault::Uninitialized(_))));
}

#[test]
fn races_are_found_whatever_the_order() {
    // Each thread writes its word and reads the next one's.
    let share = |barrier: &str| {
        format!(
            "\
	st.shared.u32 	[%r2], %r1;
	{barrier}
	xor.b32 	%r5, %r2, 4;
	ld.shared.u32 	%r6, [%r5];
	st.global.u32 	[%rd3], %r6;"
        )
    };
    assert_eq!(run(&share("bar.sync \t0;"), 64, &[])[..4], [1, 0, 3, 2]);
    assert!(matches!(fault(&share(""), 64), (3 | 4, Fault::Conflict(_))));
    let both = "\tst.global.u32 \t[%rd1], %r1;";
    assert!(matches!(fault(both, 2), (1, Fault::Conflict(a)) if a.thread == 1));
    // Blocks cannot wait for one another.
    let blocks = "\tst.global.u32 \t[%rd3], %r3;\n\tbar.sync \t0;\n\tld.global.u32 \t%r5, [%rd3];";
    run(blocks, 32, &[]);
    assert!(matches!(faults(blocks, [2, 32]), (1, Fault::Conflict(_))));
    let reads = "\tld.global.u32 \t%r5, [%rd2];";
    assert!(run_blocks(reads, [3, 32], &[1]).is_ok());
}

#[test]
fn threads_that_do_not_meet_are_told() {
    let half =
        |what: &str| format!("\tsetp.lt.u32 \t%p1, %r1, 16;\n\t@%p1 bra \t$end;\n\t{what};\n$end:");
    let (line, fault_of_lanes) = fault(&half("shfl.sync.bfly.b32 \t%r5|%p2, %r1, 1, 31, -1"), 32);
    let Fault::Divergence {
        thread: 16,
        warp: true,
        other: 0,
        other_line: None,
        ..
    } = fault_of_lanes
    else {
        panic!("{fault_of_lanes}");
    };
    assert_eq!(line, 3);
    let in_warp = fault(&half("bar.sync \t0"), 32);
    assert!(matches!(
        in_warp,
        (3, Fault::Divergence { warp: false, .. })
    ));
    let warps = half("bar.sync \t0").replace("16;", "32;");
    assert!(matches!(
        fault(&warps, 64),
        (
            3,
            Fault::Divergence {
                thread: 32,
                other: 0,
                ..
            }
        )
    ));
    let absent = fault("\tshfl.sync.bfly.b32 \t%r5|%p2, %r1, 16, 31, -1;", 20);
    assert!(matches!(absent, (1, Fault::AbsentLane { .. })));
}

#[test]
fn what_is_not_known_is_told_before_it_runs() {
    for (body, why) in [
        (
            "\tsin.approx.f32 \t%f1, %f2;",
            "test, line 27: sin.approx.f32: this instruction is not known",
        ),
        (
            "\tadd.s32 \t%r1, %r99, 1;",
            "test, line 27: add.s32: %r99 is no register",
        ),
        (
            "\tld.global.u32 \t%tid.x, [%rd1];",
            "test, line 27: ld.global.u32: %tid.x is no register",
        ),
        (
            "\tbra \t$nowhere;",
            "test, line 27: bra: $nowhere is no label",
        ),
        (
            "\tld.local.u32 \t%r1, [%rd1];",
            "test, line 27: ld.local.u32: this memory is not known",
        ),
        (
            "\t@%p1 bar.sync \t0;",
            "test, line 27: bar.sync: a condition is not understood",
        ),
        (
            "\t.local .b8 \tdepot[8];",
            "line 27 is not understood: .local .b8 \tdepot[8];",
        ),
    ] {
        assert_eq!(decode(&kernel(body)).err().as_deref(), Some(why));
    }
}
