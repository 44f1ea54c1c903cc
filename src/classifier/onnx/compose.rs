//! Operations put together from the graph's own, which every backend therefore has with their
//! gradients.

use std::slice;

use super::builder::{Call, Item};
use super::fold;
use super::tensor::{Constant, Data};
use crate::classifier::function::Function;
use crate::classifier::graph::{Binary, Op, Reduction};
use crate::classifier::layout;

impl Call<'_> {
    /// The function of each element.
    pub fn map(&mut self, function: Function, x: &Item) -> Result<Item, String> {
        let dims = x.dims().to_vec();
        self.apply(Op::Map(function), slice::from_ref(x), dims)
    }

    /// The function of two tensors that broadcast.
    pub fn binary(&mut self, binary: Binary, a: &Item, b: &Item) -> Result<Item, String> {
        let dims = fold::broadcast(a.dims(), b.dims())?;
        self.apply(Op::Binary(binary), &[a.clone(), b.clone()], dims)
    }

    /// The function of each element and one number.
    pub fn with_number(&mut self, binary: Binary, x: &Item, number: f32) -> Result<Item, String> {
        self.binary(binary, x, &Item::floats(vec![], [number]))
    }

    /// The reduction along `axes`, which are kept as 1 or dropped.
    pub fn reduce(
        &mut self,
        kind: Reduction,
        axes: &[usize],
        keep: bool,
        x: &Item,
    ) -> Result<Item, String> {
        let dims = reduced(x.dims(), axes, keep);
        let axes = axes.to_vec();
        self.apply(Op::Reduce { kind, axes }, slice::from_ref(x), dims)
    }

    /// Every line of `x` along `axis` times a matrix of `rows` rows, one for each element of the
    /// output's line.
    pub fn product_along(
        &mut self,
        axis: usize,
        rows: usize,
        matrix: Vec<f32>,
        x: Item,
    ) -> Result<Item, String> {
        let columns = x.dims()[axis];
        let mut dims = x.dims().to_vec();
        dims[axis] = rows;
        let matrix = Item::floats(vec![rows, columns], matrix);
        let inner: usize = dims[axis + 1..].iter().product();
        if inner == 1 {
            let outer = x.dims()[..axis].to_vec();
            let x = self.reshape(x, [&outer[..], &[columns]].concat())?;
            let bias = Item::floats(vec![rows], vec![0.0; rows]);
            let op = Op::Gemm { activation: None };
            let y = self.apply(op, &[x, matrix, bias], [&outer[..], &[rows]].concat())?;
            return self.reshape(y, dims);
        }
        let outer: usize = dims[..axis].iter().product();
        let x = self.reshape(x, vec![outer, columns, inner])?;
        let y = self.apply(Op::MatMul, &[matrix, x], vec![outer, rows, inner])?;
        self.reshape(y, dims)
    }

    /// `a` where a condition of booleans holds, else `b`; the three broadcast. What is not chosen
    /// may be infinite or no number.
    pub fn choose(&mut self, condition: &Constant, a: &Item, b: &Item) -> Result<Item, String> {
        let dims = fold::broadcast(&condition.dims, &fold::broadcast(a.dims(), b.dims())?)?;
        let Data::Bool(chosen) = &condition.data else {
            return Err("its condition is not boolean".into());
        };
        for (branch, only) in [(a, true), (b, false)] {
            if chosen.iter().all(|&is| is == only) && matches!(branch, Item::Value { .. }) {
                return self.expand(branch.clone(), dims);
            }
        }
        self.builder.reserve(&dims)?;
        if let (Item::Constant(a), Item::Constant(b)) = (a, b) {
            return fold::choose(condition, a, b, &dims).map(Item::Constant);
        }
        if let Some(masked) = self.mask(condition, chosen, a, b)? {
            return self.expand(masked, dims);
        }
        // Picked out of both, one after the other.
        let first: usize = a.dims().iter().product();
        let (from_a, from_b) = (
            layout::broadcast(a.dims(), &dims),
            layout::broadcast(b.dims(), &dims),
        );
        let indices: Vec<usize> = layout::broadcast(&condition.dims, &dims)
            .into_iter()
            .zip(from_a.into_iter().zip(from_b))
            .map(|(at, (i, j))| if chosen[at] { i } else { first + j })
            .collect();
        let count = indices.len();
        let row = |item: &Item| vec![1, item.dims().iter().product()];
        let rows = [
            self.reshape(a.clone(), row(a))?,
            self.reshape(b.clone(), row(b))?,
        ];
        let length = rows[0].dims()[1] + rows[1].dims()[1];
        let both = self.apply(Op::Concat { axis: 1 }, &rows, vec![1, length])?;
        let op = Op::Gather { axis: 1, indices };
        let picked = self.apply(op, &[both], vec![1, count])?;
        self.reshape(picked, dims)
    }

    /// [`Self::choose`] where one of the two is an infinity, as in attention masks: a minimum with
    /// −∞ or a maximum with +∞ where it is chosen, and with the other infinity elsewhere.
    fn mask(
        &mut self,
        condition: &Constant,
        chosen: &[bool],
        a: &Item,
        b: &Item,
    ) -> Result<Option<Item>, String> {
        let (x, fill, where_filled) = match (a, b) {
            (x, Item::Constant(fill)) => (x, fill, false),
            (Item::Constant(fill), x) => (x, fill, true),
            _ => return Ok(None),
        };
        let infinity = match &fill.data {
            Data::Float(fill) if !fill.is_empty() && fill.iter().all(|&x| x == fill[0]) => fill[0],
            _ => return Ok(None),
        };
        let binary = match infinity {
            f32::NEG_INFINITY => Binary::Min,
            f32::INFINITY => Binary::Max,
            _ => return Ok(None),
        };
        let sign = |&is: &bool| {
            if is == where_filled {
                infinity
            } else {
                -infinity
            }
        };
        let limits: Vec<f32> = chosen.iter().map(sign).collect();
        let limits = Item::floats(condition.dims.clone(), limits);
        self.binary(binary, x, &limits).map(Some)
    }

    /// The item broadcast to a shape, where it has another.
    fn expand(&mut self, item: Item, dims: Vec<usize>) -> Result<Item, String> {
        match item.dims() == dims {
            true => Ok(item),
            false => self.apply(Op::Expand, &[item], dims),
        }
    }
}

/// The shape of a reduction.
pub(super) fn reduced(dims: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    (0..dims.len())
        .filter(|axis| keep || !axes.contains(axis))
        .map(|axis| if axes.contains(&axis) { 1 } else { dims[axis] })
        .collect()
}
