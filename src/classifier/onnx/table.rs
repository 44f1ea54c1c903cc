//! The ONNX operators that can be run.

use super::builder::{Call, Outputs};
use super::{
    branch, einsum, elementwise, layers, moves, normalization, quantize, resize, scatter, shapes,
};

/// An operator.
pub struct Operator {
    /// Its ONNX name, that of one outside the standard after its domain.
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
const PICTURES: &str = "on NCHW pictures, NCL signals and NCDHW volumes";
const CONV: &str = "on NCHW pictures and NCL signals, constant weights";
const GEMM: &str = "constant second and third input";
const PARAMETERS: &str = "constant scale and zero point";
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
    row(
        "CastLike",
        shapes::cast_like,
        "between float types; between all in shape arithmetic",
    ),
    row("Ceil", shapes::round, ON_CONSTANTS),
    row("Celu", elementwise::celu, ""),
    row("Clip", elementwise::clip, "constant bounds"),
    row("Concat", moves::concat, ""),
    row("Constant", shapes::literal, "no strings, no sparse tensors"),
    row("ConstantOfShape", shapes::constant_of_shape, ON_CONSTANTS),
    row("Conv", layers::conv, CONV),
    row(
        "CumSum",
        elementwise::cumulative_sum,
        "on floats, constant axis",
    ),
    row("DepthToSpace", moves::depth_to_space, ""),
    row("DequantizeLinear", quantize::dequantize, PARAMETERS),
    row("Div", elementwise::binary, FLOATS),
    row("Dropout", moves::dropout, EVALUATION),
    row("Einsum", einsum::einsum, ""),
    row("Elu", elementwise::map, ""),
    row("Equal", shapes::test, ON_CONSTANTS),
    row("Erf", elementwise::map, ""),
    row("Exp", elementwise::map, ""),
    row("Expand", moves::expand, ""),
    row("EyeLike", shapes::diagonal, ""),
    row("Flatten", moves::flatten, ""),
    row("Floor", shapes::round, ON_CONSTANTS),
    row("Gather", moves::gather, "constant indices"),
    row("GatherND", scatter::gather, "constant indices"),
    row("Gelu", elementwise::map, ""),
    row("Gemm", layers::gemm, GEMM),
    row("GlobalAveragePool", layers::global_pool, ""),
    row("GlobalLpPool", layers::global_pool, "p of 1 or 2"),
    row("GlobalMaxPool", layers::global_pool, ""),
    row("Greater", shapes::test, ON_CONSTANTS),
    row("GreaterOrEqual", shapes::test, ON_CONSTANTS),
    row("GroupNormalization", normalization::group, ""),
    row("HardSigmoid", elementwise::map, ""),
    row("HardSwish", elementwise::map, ""),
    row("Identity", moves::identity, ""),
    row("If", branch::choose_branch, "constant condition"),
    row("InstanceNormalization", normalization::instance, ""),
    row(
        "IsNaN",
        shapes::is_nan,
        "where no constant brings in an infinity",
    ),
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
        "on NCHW pictures, NCL signals and NCDHW volumes, without indices",
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
    row("Pad", moves::pad, "constant pads"),
    row("Pow", elementwise::binary, FLOATS),
    row(
        "QuantizeLinear",
        quantize::quantize,
        "constant scale and zero point; what is computed from the picture is not rounded",
    ),
    row("RMSNormalization", normalization::by_root_mean_square, ""),
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
    row(
        "ScatterND",
        scatter::scatter,
        "constant indices, no reduction",
    ),
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
    row("Swish", elementwise::swish, ""),
    row("Tanh", elementwise::map, ""),
    row("Tile", moves::tile, "constant repeats"),
    row("Transpose", moves::transpose, ""),
    row("Trilu", shapes::triangle, "constant diagonal"),
    row("Unsqueeze", moves::unsqueeze, "constant axes"),
    row("Upsample", resize::resize, "constant scales"),
    row("Where", shapes::choose, "constant condition"),
    row("com.microsoft.BiasGelu", elementwise::biased, ""),
    row(
        "com.microsoft.DequantizeLinear",
        quantize::dequantize,
        PARAMETERS,
    ),
    row("com.microsoft.FastGelu", elementwise::biased, ""),
    row("com.microsoft.FusedConv", layers::fused_conv, CONV),
    row("com.microsoft.FusedGemm", layers::fused_gemm, GEMM),
    row("com.microsoft.Gelu", elementwise::map, ""),
    row(
        "com.microsoft.QuantizeLinear",
        quantize::quantize,
        PARAMETERS,
    ),
    row("com.microsoft.QuickGelu", elementwise::swish, ""),
];

/// The operator of this name in a domain, the standard one's being empty.
pub(super) fn operator(domain: &str, name: &str) -> Option<&'static Operator> {
    let full = match domain {
        "" => name.to_string(),
        domain => format!("{domain}.{name}"),
    };
    let found = OPERATORS.binary_search_by(|operator| operator.name.cmp(&full));
    found.ok().map(|index| &OPERATORS[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_operator() {
        assert!(OPERATORS.is_sorted_by(|a, b| a.name < b.name));
        for expected in OPERATORS {
            let (domain, name) = (expected.name.rsplit_once('.')).unwrap_or(("", expected.name));
            assert_eq!(operator(domain, name).unwrap().name, expected.name);
        }
        assert!(operator("", "NonMaxSuppression").is_none());
        assert!(operator("com.example", "Relu").is_none());
    }
}
