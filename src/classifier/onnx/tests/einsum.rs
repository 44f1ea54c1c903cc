//! Einsum, against tract or sums written out.

use super::*;
use crate::classifier::onnx::write::*;

/// An equation of a picture and constants, flattened.
fn model(equation: &str, weights: &[&[i64]]) -> ModelWriter {
    let names: Vec<String> = (0..weights.len()).map(|i| format!("w{i}")).collect();
    let mut inputs = vec!["x"];
    inputs.extend(names.iter().map(String::as_str));
    let mut model = ModelWriter::new(17, &[FREE, 3, 4, 2]);
    for (name, dims) in names.iter().zip(weights) {
        model = model.weights(name, dims);
    }
    model
        .node("Einsum", &inputs, &["t"], &[string("equation", equation)])
        .ints("row", &[1, -1])
        .node("Reshape", &["t", "row"], &["y"], &[])
}

#[test]
fn products() {
    for (equation, weights) in [
        ("bhqd,bhkd->bhqk", &[&[1, 3, 5, 2][..]][..]),
        ("bhij,bhjd->bihd", &[&[1, 3, 2, 5]]),
        ("nchw,nctw->nhct", &[&[1, 3, 6, 2]]),
        ("b h w d, d e -> b e h w", &[&[2, 5]]),
        ("bchw,hwo->bco", &[&[4, 2, 3]]),
        ("bchw,bc->bchw", &[&[1, 3]]),
        ("...ij,...jk->...ik", &[&[2, 5]]),
        ("...ij,...jk->...ik", &[&[1, 3, 2, 5]]),
        ("bhqd,bhkd->bhq", &[&[1, 3, 5, 2]]),
        ("bchw->bhwc", &[]),
        ("bchw->bc", &[]),
        ("...hw->...", &[]),
        ("bchw,ck,kd->bdhw", &[&[3, 5], &[5, 4]]),
        ("bchw,hw,cz->bwz", &[&[4, 2], &[3, 6]]),
        ("bchw,bchw->b", &[&[1, 3, 4, 2]]),
    ] {
        let model = model(equation, weights);
        check(&model, equation);
        check_on_the_cpu(&model, equation);
    }
}

/// What tract does not know: outputs left out, diagonals, ellipses of other lengths.
#[test]
fn what_equations_leave_out() {
    for (implied, full, weights) in [
        ("bchw,bckw", "bchw,bckw->hk", &[&[1, 3, 5, 2][..]][..]),
        ("zchw,wa", "zchw,wa->achz", &[&[2, 5]]),
        ("...h,hA", "...h,hA->...A", &[&[2, 5]]),
        ("...d,kd->...k", "bchw,kw->bchk", &[&[5, 2]]),
        ("...w,...w->...w", "bchw,aw->bchw", &[&[1, 2]]),
    ] {
        let expected = logits(&model(full, weights).load().unwrap());
        let implied = logits(&model(implied, weights).load().unwrap());
        assert_eq!(implied, expected, "{full}");
    }
    let diagonal = ModelWriter::new(17, &[FREE, 3, 4, 4])
        .node("Einsum", &["x"], &["t"], &[string("equation", "bcii->bic")])
        .node("Flatten", &["t"], &["y"], &[]);
    let x = picture(48);
    let expected: Vec<f64> = (0..12).map(|n| x[n % 3 * 16 + n / 3 * 5]).collect();
    assert_eq!(logits(&diagonal.load().unwrap()), expected);
    check_on_the_cpu(&diagonal, "diagonal");
    // A trace, weighted.
    let trace = ModelWriter::new(17, &[FREE, 3, 4, 4])
        .floats("w", &[4, 4], &[2.0; 16])
        .node(
            "Einsum",
            &["x", "w"],
            &["t"],
            &[string("equation", "...ii,ii->...")],
        )
        .node("Flatten", &["t"], &["y"], &[]);
    let sum = |c: usize| (0..4).map(|i| 2.0 * x[c * 16 + i * 5]).sum::<f64>();
    let expected = [0, 1, 2].map(sum);
    assert_close(&logits(&trace.load().unwrap()), &expected, 1e-9, "trace");
}

#[test]
fn refusals() {
    for (equation, weights, reason) in [
        (
            "bhqd,bhkd->bhqkz",
            &[&[1, 3, 5, 2][..]][..],
            "nothing has axis z",
        ),
        ("bhqd,bhkd->bhqk", &[&[1, 3, 5, 7]], "2 and 7 long"),
        ("bhqd,bkd->bhqk", &[&[1, 3, 5, 2]], "does not fit"),
        ("bhqq,bhkd->bhqk", &[&[1, 3, 5, 2]], "4 and 2 long"),
        ("bhqd->bhq", &[&[1]], "not of 2 operands"),
        ("bhqd,bhkd->bhqk", &[], "not of 1 operands"),
        ("bhqd,k->bhqdkk", &[&[5]], "twice in its output"),
        ("....d->d", &[], "not supported"),
        ("bh?d->d", &[], "not supported"),
        ("...hw,...hw->...hw", &[&[2, 4, 2]], "3 and 2 long"),
        ("", &[], "does not fit"),
    ] {
        let error = model(equation, weights).load().unwrap_err().to_string();
        assert!(error.contains(reason), "{equation}: {error}");
    }
}
