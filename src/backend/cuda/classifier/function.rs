//! Elementwise functions as kernels take them.

use super::super::driver;
use crate::classifier::Function;

driver::arguments! {
    /// `Function` of `kernels/function.cuh`.
    #[derive(Debug)]
    pub(super) struct FunctionArgs {
        kind: u32,
        alpha: f32,
        beta: f32,
    }
}

impl From<Option<Function>> for FunctionArgs {
    /// The identity where there is none.
    fn from(function: Option<Function>) -> Self {
        let (kind, alpha, beta) = match function {
            None => (0, 0.0, 0.0),
            Some(Function::Relu) => (1, 0.0, 0.0),
            Some(Function::LeakyRelu { alpha }) => (2, alpha, 0.0),
            Some(Function::Clip { low, high }) => (3, low, high),
            Some(Function::Sigmoid) => (4, 0.0, 0.0),
            Some(Function::HardSigmoid { alpha, beta }) => (5, alpha, beta),
            Some(Function::HardSwish) => (6, 0.0, 0.0),
            Some(Function::Silu) => (7, 0.0, 0.0),
            Some(Function::Gelu) => (8, 0.0, 0.0),
            Some(Function::GeluTanh) => (9, 0.0, 0.0),
            Some(Function::Tanh) => (10, 0.0, 0.0),
            Some(Function::Elu { alpha }) => (11, alpha, 0.0),
            Some(Function::Selu { alpha, gamma }) => (12, alpha, gamma),
            Some(Function::Softplus) => (13, 0.0, 0.0),
            Some(Function::Mish) => (14, 0.0, 0.0),
            Some(Function::Erf) => (15, 0.0, 0.0),
            Some(Function::Exp) => (16, 0.0, 0.0),
            Some(Function::Log) => (17, 0.0, 0.0),
            Some(Function::Sqrt) => (18, 0.0, 0.0),
            Some(Function::Reciprocal) => (19, 0.0, 0.0),
            Some(Function::Neg) => (20, 0.0, 0.0),
            Some(Function::Abs) => (21, 0.0, 0.0),
        };
        FunctionArgs { kind, alpha, beta }
    }
}

/// Multiply-adds of the kernels' function at one number.
pub(super) fn multiply_adds(function: Function) -> u64 {
    match function {
        Function::HardSigmoid { .. } | Function::GeluTanh => 1,
        _ => 0,
    }
}

/// Multiply-adds of its derivative.
pub(super) fn derivative_multiply_adds(function: Function) -> u64 {
    match function {
        Function::HardSigmoid { .. } | Function::Silu | Function::Gelu | Function::Mish => 1,
        Function::GeluTanh => 3,
        _ => 0,
    }
}
