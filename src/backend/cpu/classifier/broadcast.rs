//! Broadcasting as runs: stretches of the output along which each operand is either contiguous or
//! constant.

use crate::backend::cpu::simd::{F32x16, LANES};

/// What an element of a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// One number.
    Number,
    /// A group of sixteen channels.
    Group,
}

impl Unit {
    /// Numbers in it.
    pub(super) fn len(self) -> usize {
        match self {
            Unit::Number => 1,
            Unit::Group => LANES,
        }
    }
}

/// One axis of the outer loop: its length, and each operand's stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis<const N: usize> {
    len: usize,
    strides: [usize; N],
}

/// How N operands broadcast to one output.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Broadcast<const N: usize> {
    unit: Unit,
    outer: Vec<Axis<N>>,
    /// Units of a run.
    pub run: usize,
    /// Whether each operand moves along a run.
    pub moves: [bool; N],
}

impl<const N: usize> Broadcast<N> {
    /// Operands of shapes `operands` (NumPy's rules) for an output of shape `output`, all in units.
    pub(super) fn new(unit: Unit, operands: [&[usize]; N], output: &[usize]) -> Self {
        let strides = operands.map(|dims| {
            let mut strides = vec![0; output.len()];
            let new = output.len() - dims.len();
            let mut stride = 1;
            for (axis, &len) in dims.iter().enumerate().rev() {
                if len > 1 {
                    strides[new + axis] = stride;
                }
                stride *= len;
            }
            strides
        });
        let mut axes: Vec<Axis<N>> = Vec::new();
        for (axis, &len) in output.iter().enumerate() {
            if len == 1 {
                continue;
            }
            let strides = std::array::from_fn(|n| strides[n][axis]);
            match axes.last_mut() {
                Some(last) if (0..N).all(|n| last.strides[n] == strides[n] * len) => {
                    last.len *= len;
                    last.strides = strides;
                }
                _ => axes.push(Axis { len, strides }),
            }
        }
        let inner = axes.pop().unwrap_or(Axis {
            len: 1,
            strides: [1; N],
        });
        Broadcast {
            unit,
            outer: axes,
            run: inner.len,
            moves: inner.strides.map(|stride| stride > 0),
        }
    }

    /// Number of runs.
    pub(super) fn runs(&self) -> usize {
        self.outer.iter().map(|axis| axis.len).product()
    }

    /// Numbers of a run.
    pub(super) fn run_numbers(&self) -> usize {
        self.run * self.unit.len()
    }

    /// Where each operand starts in run `i`, in numbers.
    pub(super) fn starts(&self, mut i: usize) -> [usize; N] {
        let mut starts = [0; N];
        for axis in self.outer.iter().rev() {
            let at = i % axis.len;
            i /= axis.len;
            for (start, stride) in starts.iter_mut().zip(axis.strides) {
                *start += at * stride * self.unit.len();
            }
        }
        starts
    }

    /// Whether operand `n` has one element for each of the output's.
    pub(super) fn is_whole(&self, n: usize) -> bool {
        self.moves[n] && self.outer.iter().all(|axis| axis.strides[n] > 0)
    }

    /// How operand `n` is read along a run.
    pub(super) fn along(&self, n: usize) -> Along {
        match (self.moves[n], self.unit) {
            (true, _) => Along::Moves,
            (false, Unit::Number) => Along::Number,
            (false, Unit::Group) => Along::Group,
        }
    }
}

/// How an operand behaves along a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    /// One number for each of the run's.
    Moves,
    /// The same number throughout.
    Number,
    /// The same sixteen throughout.
    Group,
}

impl Along {
    /// The vector at number `i` of a run, of which `count` lanes matter.
    ///
    /// # Safety
    /// The run's operand starts at `from` and has what `i` and `count` say.
    #[inline(always)]
    pub(super) unsafe fn load<V: F32x16>(self, from: *const f32, i: usize, count: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Along::Moves => super::gemm::load_part(from.add(i), count),
                Along::Number => V::splat(*from),
                Along::Group => V::load(from),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_visit_what_broadcasting_pairs() {
        let shapes: [(&[usize], &[usize], &[usize]); 6] = [
            (&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]),
            (&[2, 3, 4], &[4], &[2, 3, 4]),
            (&[2, 1, 4], &[3, 1], &[2, 3, 4]),
            (&[], &[5], &[5]),
            (&[1, 1], &[1], &[1, 1]),
            (&[2, 3, 1, 5], &[2, 1, 4, 1], &[2, 3, 4, 5]),
        ];
        for (a, b, output) in shapes {
            let broadcast = Broadcast::new(Unit::Number, [a, b], output);
            let want: Vec<_> = crate::classifier::layout::broadcast(a, output)
                .into_iter()
                .zip(crate::classifier::layout::broadcast(b, output))
                .collect();
            let got: Vec<_> = (0..broadcast.runs())
                .flat_map(|run| {
                    let [a, b] = broadcast.starts(run);
                    let moves = broadcast.moves.map(usize::from);
                    (0..broadcast.run).map(move |i| (a + i * moves[0], b + i * moves[1]))
                })
                .collect();
            assert_eq!(got, want, "{a:?} and {b:?}");
        }
        let whole = Broadcast::new(Unit::Number, [&[2, 3, 4], &[4]], &[2, 3, 4]);
        assert_eq!((whole.runs(), whole.run), (6, 4));
        assert!(whole.is_whole(0) && !whole.is_whole(1));
    }
}
