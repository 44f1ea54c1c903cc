//! What an instruction of the text costs a multiprocessor: the machine's instructions that a warp issues for it,
//! which units they keep busy, and when a result can be used.
//!
//! The assembler's choices are not known here. Moves, parameters and conversions that only rename a register are
//! taken to cost nothing, 64-bit integers two of 32 bits, and what the machine has no instruction for (divisions,
//! roots) about what the assembler's sequences have.

use super::arithmetic::{Binary, Ternary, Unary};
use super::program::{Operation, Slot, Space};

/// A unit that works on one warp's instruction for some clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Additions, multiplications and multiply-adds of float32.
    Float32,
    /// Integers, logic, comparisons, choices and conversions.
    Integer,
    Float64,
    /// Reciprocals, roots and powers.
    Special,
    /// Loads, stores and exchanges between lanes.
    Memory,
    Matrix,
    /// Branches and barriers.
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    pub unit: Unit,
    /// The machine's instructions.
    pub issues: u8,
    /// Those of them that the special unit does.
    pub special: u8,
    /// Clocks from issue until the result can be used; of accesses to memory, what is always to be waited for.
    pub latency: u8,
}

/// Clocks until a result can be used: assumed, near what microbenchmarks of these chips find (Luo et al. 2024,
/// "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture").
const ARITHMETIC: u8 = 4;
const FLOAT64: u8 = 8;
const SPECIAL: u8 = 20;
pub(super) const SHARED: u8 = 30;
const MATRIX: u8 = 33;

impl Cost {
    fn of(unit: Unit, issues: u8) -> Cost {
        let latency = match unit {
            Unit::Float64 => FLOAT64,
            Unit::Special => SPECIAL,
            Unit::Memory => SHARED,
            Unit::Matrix => MATRIX,
            Unit::Float32 | Unit::Integer | Unit::Control => ARITHMETIC,
        };
        Cost {
            unit,
            issues,
            special: u8::from(unit == Unit::Special),
            latency,
        }
    }

    /// A sequence that waits for most of its own results.
    fn sequence(unit: Unit, issues: u8, special: u8) -> Cost {
        let each = Cost::of(unit, 1).latency;
        Cost {
            unit,
            issues,
            special,
            latency: each.saturating_mul(issues),
        }
    }
}

pub(super) fn cost(operation: &Operation) -> Cost {
    use Unit::{Control, Float32, Float64, Integer, Matrix, Memory, Special};
    const FREE: Cost = Cost {
        unit: Integer,
        issues: 0,
        special: 0,
        latency: 0,
    };
    match operation {
        Operation::Unary(unary, _) => match unary {
            Unary::Move16
            | Unary::Move32
            | Unary::Move64
            | Unary::MovePredicate
            | Unary::NotPredicate
            | Unary::NegF32
            | Unary::NegF64
            | Unary::AbsF32
            | Unary::AbsF64 => FREE,
            Unary::Widen32
            | Unary::Widen16
            | Unary::Not16
            | Unary::Not32
            | Unary::Neg32
            | Unary::Abs32
            | Unary::RoundF32
            | Unary::TruncateF32
            | Unary::FloorF32
            | Unary::SaturateF32
            | Unary::F32ToS32
            | Unary::F32ToU32
            | Unary::S32ToF32
            | Unary::U32ToF32 => Cost::of(Integer, 1),
            Unary::Not64 | Unary::Neg64 => Cost::of(Integer, 2),
            Unary::ReciprocalApprox | Unary::Exp2ApproxFlush => Cost::of(Special, 1),
            // With the ways around what is too small to be normal.
            Unary::Exp2Approx => Cost::sequence(Float32, 4, 1),
            Unary::SqrtF32 | Unary::ReciprocalF32 => Cost::sequence(Float32, 8, 1),
            Unary::SqrtF64 | Unary::ReciprocalF64 => Cost::sequence(Float64, 12, 1),
            Unary::S32ToF64 | Unary::U32ToF64 | Unary::F32ToF64 | Unary::F64ToF32 => {
                Cost::of(Float64, 1)
            }
        },
        Operation::Binary(binary, _) => match binary {
            Binary::AddF32 | Binary::AddZeroF32 | Binary::SubF32 | Binary::MulF32 => {
                Cost::of(Float32, 1)
            }
            Binary::AddF64 | Binary::SubF64 | Binary::MulF64 | Binary::MaxF64 => {
                Cost::of(Float64, 1)
            }
            Binary::DivF32 => Cost::sequence(Float32, 10, 1),
            Binary::DivF64 => Cost::sequence(Float64, 14, 1),
            Binary::DivU32 | Binary::RemU32 => Cost::sequence(Integer, 16, 1),
            Binary::DivS32 | Binary::RemS32 => Cost::sequence(Integer, 20, 1),
            Binary::DivU64 | Binary::RemU64 => Cost::sequence(Integer, 60, 2),
            Binary::Add64
            | Binary::Sub64
            | Binary::And64
            | Binary::Or64
            | Binary::Xor64
            | Binary::ShrU64
            | Binary::ShrS64 => Cost::of(Integer, 2),
            // Of an index to an address, which the addition that follows does too.
            Binary::Shl64 => FREE,
            Binary::Mul64 => Cost::of(Integer, 4),
            _ => Cost::of(Integer, 1),
        },
        Operation::Ternary(ternary, _) => match ternary {
            Ternary::FmaF32 | Ternary::FmaDownF32 => Cost::of(Float32, 1),
            Ternary::FmaF64 => Cost::of(Float64, 1),
            Ternary::MulAdd64 => Cost::of(Integer, 4),
            Ternary::Select64 => Cost::of(Integer, 2),
            _ => Cost::of(Integer, 1),
        },
        Operation::Compare(comparison, _) => match comparison.is_float64() {
            true => Cost::of(Float64, 1),
            false => Cost::of(Integer, if comparison.is_wide() { 2 } else { 1 }),
        },
        Operation::InsertBits(_) => Cost::of(Integer, 2),
        Operation::Split { .. } | Operation::Join { .. } => FREE,
        // An operand from the constants' memory.
        Operation::Load {
            space: Space::Parameter,
            ..
        } => FREE,
        Operation::Load { .. }
        | Operation::Store { .. }
        | Operation::Shuffle { .. }
        | Operation::LoadMatrices { .. }
        | Operation::Copy { .. } => Cost::of(Memory, 1),
        Operation::MultiplyMatrices { .. } => Cost::of(Matrix, 1),
        Operation::Branch(_)
        | Operation::Exit
        | Operation::Barrier
        | Operation::Commit
        | Operation::Wait(_) => Cost::of(Control, 1),
    }
}

/// Whether it is a multiply-add of float32.
pub(super) fn is_multiply_add(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Ternary(Ternary::FmaF32 | Ternary::FmaDownF32, _)
    )
}

/// What an operation reads and what it writes.
pub(super) fn operands(operation: &Operation) -> (Vec<Slot>, Vec<Slot>) {
    match operation {
        Operation::Unary(_, [to, from @ ..]) => (from.to_vec(), vec![*to]),
        Operation::Binary(_, [to, from @ ..]) | Operation::Compare(_, [to, from @ ..]) => {
            (from.to_vec(), vec![*to])
        }
        Operation::Ternary(_, [to, from @ ..]) => (from.to_vec(), vec![*to]),
        Operation::InsertBits([to, from @ ..]) => (from.to_vec(), vec![*to]),
        Operation::Split { to, from } => (vec![*from], to.to_vec()),
        Operation::Join { to, from } => (from.to_vec(), vec![*to]),
        Operation::Load { to, from, .. } => (vec![from.base], to.slots().to_vec()),
        Operation::Store { to, from, .. } => ([&[to.base], from.slots()].concat(), vec![]),
        Operation::Shuffle {
            to, found, value, ..
        } => (
            vec![*value],
            [Some(*to), *found].into_iter().flatten().collect(),
        ),
        Operation::MultiplyMatrices {
            to,
            left,
            right,
            sum,
        } => ([&left[..], right, sum].concat(), to.to_vec()),
        Operation::LoadMatrices { to, row, .. } => (vec![row.base], to.to_vec()),
        Operation::Copy { to, from, bytes } => (vec![to.base, from.base, *bytes], vec![]),
        Operation::Branch(_)
        | Operation::Exit
        | Operation::Barrier
        | Operation::Commit
        | Operation::Wait(_) => (vec![], vec![]),
    }
}
