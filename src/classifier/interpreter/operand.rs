//! What the interpreter computes on.

/// A tensor: shape and elements, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<'a> {
    pub dims: &'a [usize],
    pub data: &'a [f64],
}
