//! The runs that the importer refuses, and why that is as it should be.
//!
//! What is not run is refused when the model is loaded: no test may give other numbers. Each
//! exclusion has to refuse all it names, with a message that it names too, or the suite fails.

use self::Reason::*;

/// Why tests are excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Types,
    Integers,
    Empty,
    Parameters,
    Constants,
    Training,
    Outputs,
    Ignored,
    Bodies,
    Form,
}

impl Reason {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Types => "strings, sequences, floats of 8 bits or fewer, integers of fewer than 8",
            Integers => "integers or booleans in place of a picture's floats",
            Empty => "empty tensors",
            Parameters => "a layer's parameter computed from the image",
            Constants => "an operator that takes constants only, some of them integers only",
            Training => "training mode",
            Outputs => "outputs that inference has no use for: statistics, masks, indices",
            Ignored => "the output does not depend on the input",
            Bodies => "an operator outside the table, in a branch",
            Form => "forms that exporters do not write: crops while resizing, scatters that add up",
        }
    }
}

/// Runs that are refused.
pub(crate) struct Exclusion {
    /// Names of the tests; a `*` stands for any text. Function bodies (`_expanded`) are meant only where
    /// it says so.
    pub tests: &'static [&'static str],
    /// Which of their runs, as they are shown; a `*` stands for any text.
    pub runs: &'static [&'static str],
    /// Parts of the importer's messages; one of them is in each.
    pub says: &'static [&'static str],
    pub reason: Reason,
}

const fn exclude(
    reason: Reason,
    tests: &'static [&'static str],
    runs: &'static [&'static str],
    says: &'static [&'static str],
) -> Exclusion {
    Exclusion {
        tests,
        runs,
        says,
        reason,
    }
}

const ALL: &[&str] = &["*"];
const NOT_CONSTANT: &[&str] = &["only a constant is supported"];
const EXTRA_OUTPUT: &[&str] = &["of its outputs is supported"];

pub(crate) const EXCLUSIONS: &[Exclusion] = &[
    exclude(
        Types,
        &[
            "test_cast_*FLOAT8*",
            "test_cast_*FLOAT4*",
            "test_cast_*_to_INT4",
            "test_cast_*_to_UINT4",
            "test_cast_*INT2*",
            "test_castlike_*FLOAT8*_expanded",
            "test_castlike_*FLOAT4*_expanded",
            "test_castlike_*_to_INT4_expanded",
            "test_castlike_*_to_UINT4_expanded",
            "test_castlike_*INT2*_expanded",
            "test_equal_string*",
            "test_identity_opt",
            "test_identity_sequence",
            "test_if_opt",
            "test_if_seq",
        ],
        ALL,
        &["has elements of type", "a cast to type"],
    ),
    exclude(
        Types,
        &[
            "test_castlike_*FLOAT8*",
            "test_castlike_*FLOAT4*",
            "test_castlike_*INT2*",
            "test_castlike_*_to_INT4",
            "test_castlike_*_to_UINT4",
        ],
        &["→output"],
        &["has elements of type", "a cast to type"],
    ),
    exclude(
        Types,
        &[
            "test_dequantizelinear_e*",
            "test_dequantizelinear_float4e2m1",
            "test_dequantizelinear_int2",
            "test_dequantizelinear_uint2",
        ],
        &["x_scale→y", "→y"],
        &["has elements of type"],
    ),
    exclude(
        Types,
        &[
            "test_quantizelinear_e*",
            "test_quantizelinear_float4e2m1",
            "test_quantizelinear_int2",
            "test_quantizelinear_uint2",
        ],
        &["→y"],
        &["has elements of type"],
    ),
    exclude(
        Integers,
        &[
            "test_clip_default_int8_min",
            "test_clip_default_int8_max",
            "test_clip_default_int8_inbounds",
            "test_maxpool_2d_uint8",
            "test_pow_types_int*_float32",
            "test_reduce_max_bool_inputs",
            "test_reduce_min_bool_inputs",
            "test_cumsum_1d_int32_exclusive",
            "test_cumsum_2d_int32",
        ],
        ALL,
        &[
            "is integer, not float",
            "inputs are not supported",
            "its inputs are integer and float",
            "its inputs are float and integer",
        ],
    ),
    exclude(
        Empty,
        &[
            "test_constantofshape_int_shape_zero",
            "test_reduce_*_empty_set*",
            "test_reduce_*_empty_set_expanded",
            "test_reshape_allowzero_reordered",
            "test_shape_start_greater_than_end",
            "test_slice_start_out_of_bounds",
            "test_split_zero_size_splits_opset*",
            "test_tril_zero",
            "test_triu_zero",
        ],
        ALL,
        &["is empty", "empty tensor"],
    ),
    exclude(Empty, &["test_castlike_*"], &["like→output"], &["is empty"]),
    exclude(
        Empty,
        &["test_causal_conv_with_state_kernel_size_one_expanded"],
        &["input→present_state", "→present_state"],
        &["is empty"],
    ),
    // They split off a part of length 0.
    exclude(
        Empty,
        &[
            "test_rotary_embedding_3d_input_expanded",
            "test_rotary_embedding_expanded",
            "test_rotary_embedding_interleaved_expanded",
            "test_rotary_embedding_no_position_ids_expanded",
            "test_rotary_embedding_no_position_ids_interleaved_expanded",
        ],
        &["input→output"],
        &["its output is empty"],
    ),
    exclude(
        Parameters,
        &[
            "test_dequantizelinear",
            "test_dequantizelinear_axis",
            "test_dequantizelinear_blocked",
            "test_dequantizelinear_int16",
            "test_dequantizelinear_int4",
            "test_dequantizelinear_uint16",
            "test_dequantizelinear_uint4",
        ],
        &["x_scale→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &["test_group_normalization_*"],
        &["scale→y", "bias→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &["test_rms_normalization_*"],
        &["W→Y"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &["test_upsample_nearest"],
        &["scales→Y"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &[
            "test_basic_conv_*",
            "test_conv_with_*",
            "test_layer_normalization_*",
        ],
        &["W→*", "B→*"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &[
            "test_batchnorm_epsilon",
            "test_batchnorm_example",
            "test_instancenorm_*",
        ],
        &["s→y", "bias→y", "mean→y", "var→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &["test_causal_conv_with_state_*_expanded"],
        &["weight→output", "bias→output"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &["test_prelu_example", "test_prelu_broadcast"],
        &["slope→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &["test_resize_*_scales_*"],
        &["scales→Y"],
        NOT_CONSTANT,
    ),
    exclude(Parameters, &["test_gemm_*"], &["b→y", "c→y"], NOT_CONSTANT),
    exclude(
        Parameters,
        &["test_clip*"],
        &["min→y", "max→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Parameters,
        &["test_constant_pad*"],
        &["value→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Constants,
        &["test_ceil*", "test_floor*", "test_round"],
        &["x→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Constants,
        &[
            "test_clip_expanded",
            "test_clip_default_min_expanded",
            "test_clip_default_max_expanded",
            "test_clip_example_expanded",
            "test_clip_inbounds_expanded",
            "test_clip_outbounds_expanded",
            "test_clip_splitbounds_expanded",
            "test_clip_min_greater_than_max_expanded",
        ],
        &["x→y", "min→y", "max→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Constants,
        &["test_mod_mixed_sign_float*"],
        ALL,
        &[
            "only integer inputs are supported",
            "only a constant is supported",
        ],
    ),
    exclude(
        Constants,
        &[
            "test_elu*_expanded_ver18",
            "test_selu*_expanded_ver18",
            "test_shrink_*_expanded_ver18",
            "test_thresholdedrelu*_expanded_ver18",
            "test_leakyrelu*_expanded",
            "test_prelu_*_expanded",
        ],
        &["x→y"],
        NOT_CONSTANT,
    ),
    exclude(
        Bodies,
        &["test_affine_grid_2d*_expanded"],
        &["→grid"],
        &["(GatherElements): is not supported"],
    ),
    exclude(
        Constants,
        &["test_range_float*_type_positive_delta"],
        &["start→*", "limit→*", "delta→*"],
        NOT_CONSTANT,
    ),
    exclude(
        Constants,
        &["test_reduce_prod_*"],
        ALL,
        &[
            "only a constant is supported",
            "is empty",
            "float inputs are not supported",
        ],
    ),
    exclude(
        Training,
        &["test_training_dropout*", "test_batchnorm_*_training_mode"],
        &[
            "x→*",
            "r→*",
            "s→*",
            "bias→*",
            "→output_*",
            "mean→output_*",
            "var→output_*",
        ],
        &[
            "training_mode",
            "only a constant is supported",
            "of its outputs is supported",
        ],
    ),
    exclude(
        Training,
        &["test_training_dropout*"],
        &["→*"],
        &["training_mode"],
    ),
    exclude(
        Ignored,
        &["test_batchnorm_*_training_mode"],
        &["mean→y", "var→y"],
        &["depends on the image"],
    ),
    exclude(
        Ignored,
        &["test_dropout_default*_ratio"],
        &["r→y"],
        &["depends on the image"],
    ),
    exclude(
        Outputs,
        &["test_layer_normalization_*"],
        &["*→Mean", "*→InvStdDev"],
        &[
            "of its outputs is supported",
            "only a constant is supported",
        ],
    ),
    exclude(
        Outputs,
        &[
            "test_dropout_default_mask*",
            "test_maxpool_with_argmax_2d_*",
        ],
        &["→z"],
        EXTRA_OUTPUT,
    ),
    exclude(
        Form,
        &["test_resize_tf_crop_and_resize*"],
        ALL,
        &["tf_crop_and_resize"],
    ),
    exclude(Form, &["test_scatternd_*"], ALL, &["reduction"]),
];

/// Tests whose numbers ONNX Runtime and PyTorch do not give either: they align corners by a length that no output has.
pub(crate) const OTHER_NUMBERS: [&str; 2] = [
    "test_resize_downsample_scales_cubic_align_corners",
    "test_resize_downsample_scales_linear_align_corners",
];

impl Exclusion {
    /// Whether it names a run of a test.
    pub(crate) fn names(&self, test: &str, run: &str) -> bool {
        self.tests.iter().any(|pattern| is_test(pattern, test))
            && self.runs.iter().any(|pattern| matches(pattern, run))
    }

    /// The patterns that do so.
    pub(crate) fn patterns(&self, test: &str, run: &str) -> impl Iterator<Item = &'static str> {
        let tests = self
            .tests
            .iter()
            .filter(move |pattern| is_test(pattern, test));
        let runs = self
            .runs
            .iter()
            .filter(move |pattern| matches(pattern, run));
        tests.chain(runs).copied()
    }
}

/// Whether a pattern stands for a test.
fn is_test(pattern: &str, test: &str) -> bool {
    let body = |name: &str| name.contains("_expanded");
    body(pattern) == body(test) && matches(pattern, test)
}

/// Whether a text is of a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|text| {
            let mut starts = text.char_indices().map(|(i, _)| i).chain([text.len()]);
            starts.any(|i| matches(rest, &text[i..]))
        }),
    }
}

#[test]
fn patterns() {
    assert!(matches("a*c*", "abcd") && matches("*", "") && matches("x→y", "x→y"));
    assert!(matches("*→y", "→y") && matches("a*bc", "abbc"));
    assert!(!matches("a*c", "abcd") && !matches("a", "ab") && !matches("*a", ""));
    assert!(
        is_test("test_cast_*", "test_cast_a") && !is_test("test_cast_*", "test_cast_a_expanded")
    );
    assert!(is_test(
        "test_cast_*_expanded*",
        "test_cast_a_expanded_ver18"
    ));
}
