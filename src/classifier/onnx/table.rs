//! The ONNX operators that can be run.

use super::builder::{Call, Outputs};
use super::{einsum, elementwise, layers, moves, normalization, resize, scatter, shapes};

/// An operator.
pub struct Operator {
    /// Its ONNX name.
    pub name: &'static str,
    /// What of it is supported, for the table in docs/operators.md; empty where all is.
    pub limits: &'static str,
    /// Adds a node of it to the graph.
    pub translate: fn(&mut Call<'_>) -> Outputs,
}

const fn row(
    name: &'static str,
    translate: fn(&mut Call<'_>) -> Outputs,
    limits: &'static str,
) -> Operator {
    Operator {
        name,
        limits,
        translate,
    }
}

const ON_CONSTANTS: &str = "on constants and shapes";
const EVALUATION: &str = "in evaluation mode";
const PICTURES: &str = "on NCHW pictures and NCL signals";
const FLOATS: &str = "on floats; on integers in shape arithmetic";

/// Every operator, in alphabetical order.
pub const OPERATORS: &[Operator] = &[
    row("Abs", elementwise::map, FLOATS),
    row("Add", elementwise::binary, FLOATS),
    row("And", shapes::test, ON_CONSTANTS),
    row("AveragePool", layers::pool, PICTURES),
    row("BatchNormalization", normalization::batch, EVALUATION),
    row(
        "Cast",
        shapes::cast,
        "between float types; between all in shape arithmetic",
    ),
    row("Ceil", shapes::round, ON_CONSTANTS),
    row("Celu", elementwise::celu, ""),
    row("Clip", elementwise::clip, "constant bounds"),
    row("Concat", moves::concat, ""),
    row("Constant", shapes::literal, "no strings, no sparse tensors"),
    row("ConstantOfShape", shapes::constant_of_shape, ON_CONSTANTS),
    row(
        "Conv",
        layers::conv,
        "on NCHW pictures and NCL signals, constant weights",
    ),
    row(
        "CumSum",
        elementwise::cumulative_sum,
        "on floats, constant axis",
    ),
    row("DepthToSpace", moves::depth_to_space, ""),
    row("Div", elementwise::binary, FLOATS),
    row("Dropout", moves::dropout, EVALUATION),
    row("Einsum", einsum::einsum, ""),
    row("Elu", elementwise::map, ""),
    row("Equal", shapes::test, ON_CONSTANTS),
    row("Erf", elementwise::map, ""),
    row("Exp", elementwise::map, ""),
    row("Expand", moves::expand, ""),
    row("Flatten", moves::flatten, ""),
    row("Floor", shapes::round, ON_CONSTANTS),
    row("Gather", moves::gather, "constant indices"),
    row("Gelu", elementwise::map, ""),
    row("Gemm", layers::gemm, "constant second and third input"),
    row("GlobalAveragePool", layers::global_pool, ""),
    row("GlobalLpPool", layers::global_pool, "p of 1 or 2"),
    row("GlobalMaxPool", layers::global_pool, ""),
    row("Greater", shapes::test, ON_CONSTANTS),
    row("GreaterOrEqual", shapes::test, ON_CONSTANTS),
    row(
        "GroupNormalization",
        normalization::group,
        "a scale for each group: opsets 18 to 20",
    ),
    row("HardSigmoid", elementwise::map, ""),
    row("HardSwish", elementwise::map, ""),
    row("Identity", moves::identity, ""),
    row("InstanceNormalization", normalization::instance, ""),
    row("LRN", normalization::local_response, ""),
    row(
        "LayerNormalization",
        normalization::layer,
        "without the statistics",
    ),
    row("LeakyRelu", elementwise::map, ""),
    row("Less", shapes::test, ON_CONSTANTS),
    row("LessOrEqual", shapes::test, ON_CONSTANTS),
    row("Log", elementwise::map, ""),
    row("LogSoftmax", layers::softmax, ""),
    row("LpNormalization", normalization::by_norm, ""),
    row("MatMul", layers::matmul, ""),
    row("Max", elementwise::binary, FLOATS),
    row(
        "MaxPool",
        layers::pool,
        "on NCHW pictures and NCL signals, without indices",
    ),
    row("Mean", elementwise::binary, ""),
    row("Min", elementwise::binary, FLOATS),
    row("Mish", elementwise::map, ""),
    row("Mod", shapes::remainder, ON_CONSTANTS),
    row("Mul", elementwise::binary, FLOATS),
    row("Neg", elementwise::map, FLOATS),
    row("Not", shapes::not, ON_CONSTANTS),
    row("Or", shapes::test, ON_CONSTANTS),
    row("PRelu", elementwise::prelu, "constant slope"),
    row(
        "Pad",
        moves::pad,
        "constant pads; modes constant, reflect, edge",
    ),
    row("Pow", elementwise::binary, FLOATS),
    row("Range", shapes::range, ON_CONSTANTS),
    row("Reciprocal", elementwise::map, ""),
    row("ReduceL1", elementwise::reduce, ""),
    row("ReduceL2", elementwise::reduce, ""),
    row("ReduceLogSum", elementwise::reduce, ""),
    row("ReduceLogSumExp", elementwise::reduce, ""),
    row("ReduceMax", elementwise::reduce, FLOATS),
    row("ReduceMean", elementwise::reduce, ""),
    row("ReduceMin", elementwise::reduce, FLOATS),
    row(
        "ReduceProd",
        shapes::reduce_product,
        "on integers in shape arithmetic",
    ),
    row("ReduceSum", elementwise::reduce, FLOATS),
    row("ReduceSumSquare", elementwise::reduce, FLOATS),
    row("Relu", elementwise::map, ""),
    row("Reshape", moves::reshape, "constant shape"),
    row(
        "Resize",
        resize::resize,
        "constant scales or sizes; not tf_crop_and_resize",
    ),
    row("Round", shapes::round, ON_CONSTANTS),
    row("ScatterND", scatter::scatter, ON_CONSTANTS),
    row("Selu", elementwise::map, ""),
    row("Shape", shapes::shape, ""),
    row("Sigmoid", elementwise::map, ""),
    row("Size", shapes::element_count, ""),
    row("Slice", moves::slice, "constant bounds"),
    row("Softmax", layers::softmax, ""),
    row("Softplus", elementwise::map, ""),
    row("Softsign", elementwise::softsign, ""),
    row("SpaceToDepth", moves::space_to_depth, ""),
    row("Split", moves::split, "constant sizes"),
    row("Sqrt", elementwise::map, ""),
    row("Squeeze", moves::squeeze, "constant axes"),
    row("Sub", elementwise::binary, FLOATS),
    row("Sum", elementwise::binary, FLOATS),
    row("Tanh", elementwise::map, ""),
    row("Tile", moves::tile, "constant repeats"),
    row("Transpose", moves::transpose, ""),
    row("Trilu", shapes::triangle, "constant diagonal"),
    row("Unsqueeze", moves::unsqueeze, "constant axes"),
    row("Where", shapes::choose, "constant condition"),
];

/// The operator of this name.
pub(super) fn operator(name: &str) -> Option<&'static Operator> {
    let found = OPERATORS.binary_search_by(|operator| operator.name.cmp(name));
    found.ok().map(|index| &OPERATORS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_operator() {
        assert!(OPERATORS.is_sorted_by(|a, b| a.name < b.name));
        for expected in OPERATORS {
            assert_eq!(operator(expected.name).unwrap().name, expected.name);
        }
        assert!(operator("NonMaxSuppression").is_none());
    }
}
