//! What the text of the compiled kernels must and must not have in it.

use std::collections::BTreeMap;

use super::super::program::Program;
use super::super::text::{Entry, Instruction, parse};
use crate::backend::cuda::driver::testing::ptx_device;
use crate::backend::cuda::kernels::MODULES;

/// Multiplications of matrices that each kernel has in its text; the others have none.
const MULTIPLICATIONS: [(&str, usize); 9] = [
    ("dip_conv1_tensor_backward_data", 32),
    ("dip_conv1_tensor_backward_weights", 34),
    ("dip_conv1_tensor_forward", 32),
    ("dip_conv3_tensor_backward_data", 132),
    ("dip_conv3_tensor_backward_data_stride", 80),
    ("dip_conv3_tensor_backward_weights", 26),
    ("dip_conv3_tensor_backward_weights_stride", 26),
    ("dip_conv3_tensor_forward", 96),
    ("dip_conv3_tensor_forward_stride", 96),
];

/// Library functions use these, where the order of their errors is known: those of `exp2` and of a reciprocal.
const APPROXIMATIONS: [&str; 3] = ["ex2.approx.f32", "ex2.approx.ftz.f32", "rcp.approx.ftz.f32"];

/// Every kernel, of every module; none, and a word why, where this build had no nvcc.
fn entries() -> Vec<Entry<'static>> {
    if ptx_device().is_none() {
        return vec![];
    }
    let texts = MODULES.iter().map(|(module, _)| module.ptx.unwrap());
    texts.flat_map(|text| parse(text).unwrap()).collect()
}

#[test]
fn parameters_and_blocks_are_those_of_the_table() {
    let entries = entries();
    let kernels = MODULES.iter().flat_map(|(_, kernels)| kernels.iter());
    for kernel in kernels.filter(|_| !entries.is_empty()) {
        let entry = entries.iter().find(|entry| entry.name == kernel.name);
        let entry = entry.unwrap_or_else(|| panic!("{} has no PTX", kernel.name));
        assert_eq!(
            entry.parameter_bytes,
            kernel.emulated.bytes(),
            "{}",
            kernel.name
        );
        assert_eq!(entry.threads, kernel.threads, "{}", kernel.name);
    }
}

#[test]
fn every_instruction_is_known() {
    for entry in entries() {
        if let Err(why) = Program::new(&entry) {
            panic!("{why}");
        }
    }
}

/// What would leave the result to the assembler or to the order of threads, or go to memory by a way that the
/// kernels do not have.
fn fault(instruction: &Instruction<'_>) -> Option<&'static str> {
    let parts: Vec<&str> = instruction.opcode.split('.').collect();
    let rounded = |part: &str| matches!(part, "rn" | "rz" | "rm" | "rp");
    match parts[..] {
        ["ld" | "st", "global" | "shared" | "param", ..] | ["cvta", "to", "global", _] => None,
        ["ld" | "st" | "cvta", ..] => Some("a generic or local address"),
        ["atom" | "red", ..] => Some("the order of threads decides"),
        ["call" | "vote" | "match" | "activemask" | "brx", ..] => Some("not for the interpreter"),
        [
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt",
            mode,
            ..,
            "f32" | "f64",
        ] => {
            let known = rounded(mode) || APPROXIMATIONS.contains(&instruction.opcode);
            (!known).then_some("no rounding mode")
        }
        [
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt",
            "f32" | "f64",
        ] => Some("no rounding mode"),
        ["cvt", "rn", to, _] if to.contains('f') => None,
        ["cvt", to @ ("f32" | "f16" | "bf16" | "bf16x2"), from] if (to, from) != ("f32", "f32") => {
            Some("no rounding mode")
        }
        [.., "approx", _] | [_, "approx", ..] if !APPROXIMATIONS.contains(&instruction.opcode) => {
            Some("an approximation")
        }
        _ => None,
    }
}

#[test]
fn results_are_left_to_nobody() {
    for entry in entries() {
        for instruction in &entry.code {
            if let Some(what) = fault(instruction) {
                let (line, opcode) = (instruction.line, instruction.opcode);
                panic!("{}, line {line}: {opcode}: {what}", entry.name);
            }
        }
    }
    // The text says so of what it should not have.
    for (opcode, found) in [
        ("add.f32", true),
        ("fma.f64", true),
        ("mul.ftz.f32", true),
        ("div.approx.f32", true),
        ("div.full.f32", true),
        ("sin.approx.f32", true),
        ("cvt.f32.f64", true),
        ("ld.f32", true),
        ("ld.local.f32", true),
        ("atom.global.add.f32", true),
        ("cvta.shared.u64", true),
        ("add.rn.f32", false),
        ("add.s32", false),
        ("mad.lo.s32", false),
        ("cvt.rn.f32.f64", false),
        ("cvt.f64.f32", false),
        ("ex2.approx.ftz.f32", false),
    ] {
        let text = format!(
            ".visible .entry k(\n.param .align 8 .b8 k_param_0[8]\n)\n{{\n\t{opcode} \t%f1, %f2;\n}}"
        );
        let entries = parse(&text).unwrap();
        assert_eq!(fault(&entries[0].code[0]).is_some(), found, "{opcode}");
    }
}

#[test]
fn matrix_units_are_asked_as_often_as_the_source_does() {
    let mut found = BTreeMap::new();
    let entries = entries();
    for entry in &entries {
        let mut opcodes = entry.code.iter().map(|instruction| instruction.opcode);
        let count = opcodes
            .by_ref()
            .filter(|opcode| opcode.starts_with("mma."))
            .count();
        if count > 0 {
            found.insert(entry.name, count);
        }
    }
    if !entries.is_empty() {
        assert_eq!(found, BTreeMap::from(MULTIPLICATIONS));
    }
}
