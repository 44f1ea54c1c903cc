//! `If`, whose condition is known when the model is loaded.

use super::builder::{Call, Outputs};
use super::tensor::Data;

/// The branch that an `If` takes takes its place.
pub(super) fn choose_branch(call: &mut Call<'_>) -> Outputs {
    let condition = call.constant(0)?;
    let Data::Bool(condition) = &condition.data else {
        return Err(format!("its condition is {}", condition.data.kind()));
    };
    let name = match condition[..] {
        [true] => "then_branch",
        [false] => "else_branch",
        _ => return Err("its condition is not a single one".into()),
    };
    call.branch = Some(name);
    Ok(Vec::new())
}
