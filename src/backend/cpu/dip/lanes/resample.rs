//! Upsampling and reflection padding, sixteen instances at a time.

use super::norm::Channel;
use super::view::{View, lanes, load, store};
use crate::backend::cpu::simd::{F32x16, Isa, Kernel, Lanes, dispatch_on};
use crate::dip::Upsample;

/// `y` is `x` twice as large on both axes; `sums` gets each channel's sum over `y`.
pub(super) fn upsample(
    isa: Isa,
    mode: Upsample,
    memory: &mut [Lanes],
    x: &View,
    y: &View,
    sums: &mut [Channel],
) {
    check(memory, x, y);
    assert!(sums.len() == x.channels);
    let kernel = Forward {
        mode,
        memory,
        x,
        y,
        sums,
    };
    dispatch_on(isa, kernel);
}

/// The derivative by `x` of [`upsample`].
pub(super) fn upsample_gradient(
    isa: Isa,
    mode: Upsample,
    memory: &mut [Lanes],
    dx: &View,
    dy: &View,
) {
    check(memory, dx, dy);
    let kernel = Backward {
        mode,
        memory,
        dx,
        dy,
    };
    dispatch_on(isa, kernel);
}

/// Panics unless every access lies inside the memory: what the unsafe loops rely on.
fn check(memory: &[Lanes], small: &View, large: &View) {
    assert_eq!(
        (small.channels, 2 * small.height, 2 * small.width),
        (large.channels, large.height, large.width)
    );
    assert!(small.end() <= memory.len() && large.end() <= memory.len());
    assert!(small.at >= large.end() || large.at >= small.end());
}

struct Forward<'a> {
    mode: Upsample,
    memory: &'a mut [Lanes],
    x: &'a View,
    y: &'a View,
    sums: &'a mut [Channel],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let memory = self.memory.as_mut_ptr();
        // The weights of the nearer and of the farther source pixel.
        let (near, far) = match self.mode {
            Upsample::Nearest => (V::splat(1.0), V::splat(0.0)),
            Upsample::Bilinear => (V::splat(0.75), V::splat(0.25)),
        };
        let (height, width) = (self.x.height, self.x.width);
        for channel in 0..self.x.channels {
            let mut total = V::splat(0.0);
            for row in 0..2 * height {
                let source = row / 2;
                let beside = match row % 2 {
                    0 => source.saturating_sub(1),
                    _ => (source + 1).min(height - 1),
                };
                let source = self.x.index(channel, source, 0);
                let beside = self.x.index(channel, beside, 0);
                let out = self.y.index(channel, row, 0);
                // SAFETY: pixels of views that lie inside the memory.
                unsafe {
                    let rows = [memory.add(source), memory.add(beside)];
                    let mut middle = between::<V>(rows, 0, near, far);
                    let mut before = middle;
                    let (mut even, mut odd) = (V::splat(0.0), V::splat(0.0));
                    for x in 0..width {
                        let after = between::<V>(rows, (x + 1).min(width - 1), near, far);
                        let nearer = middle.mul(near);
                        let (left, right) =
                            (before.mul_add(far, nearer), after.mul_add(far, nearer));
                        store(memory.add(out + 2 * x), left);
                        store(memory.add(out + 2 * x + 1), right);
                        (even, odd) = (even.add(left), odd.add(right));
                        (before, middle) = (middle, after);
                    }
                    total = total.add(even.add(odd));
                }
            }
            self.sums[channel].mean = lanes(total);
        }
    }
}

/// A pixel between two rows, the first the nearer.
///
/// # Safety
/// `x` is a pixel of both rows.
#[inline(always)]
unsafe fn between<V: F32x16>(rows: [*mut Lanes; 2], x: usize, near: V, far: V) -> V {
    // SAFETY: the caller's promise.
    let [nearer, farther] = unsafe { [load::<V>(rows[0].add(x)), load(rows[1].add(x))] };
    farther.mul_add(far, nearer.mul(near))
}

struct Backward<'a> {
    mode: Upsample,
    memory: &'a mut [Lanes],
    dx: &'a View,
    dy: &'a View,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let memory = self.memory.as_mut_ptr();
        let (near, far) = match self.mode {
            Upsample::Nearest => (V::splat(1.0), V::splat(0.0)),
            Upsample::Bilinear => (V::splat(0.75), V::splat(0.25)),
        };
        let (height, width) = (self.dx.height, self.dx.width);
        for channel in 0..self.dx.channels {
            for y in 0..height {
                // A source row shows in the two rows it is nearest to and in the ones around those; at
                // the edge, where there is none, in the nearest once more.
                let (above, below) = ((2 * y).saturating_sub(1), (2 * y + 2).min(2 * height - 1));
                let out = self.dx.index(channel, y, 0);
                // SAFETY: pixels of views that lie inside the memory.
                unsafe {
                    let rows = [above, 2 * y, 2 * y + 1, below]
                        .map(|y| memory.add(self.dy.index(channel, y, 0)));
                    let mut first = column::<V>(rows, 0, near, far);
                    let mut second = column::<V>(rows, 1, near, far);
                    let mut before = first;
                    for x in 0..width {
                        let (mut after, mut last) = (second, second);
                        if x + 1 < width {
                            after = column(rows, 2 * x + 2, near, far);
                            last = column(rows, 2 * x + 3, near, far);
                        }
                        let inner = first.add(second).mul(near);
                        store(memory.add(out + x), before.add(after).mul_add(far, inner));
                        (before, first, second) = (second, after, last);
                    }
                }
            }
        }
    }
}

/// What four rows' pixels of a column add to the source row between them.
///
/// # Safety
/// `x` is a pixel of all rows.
#[inline(always)]
unsafe fn column<V: F32x16>(rows: [*mut Lanes; 4], x: usize, near: V, far: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let inner = load::<V>(rows[1].add(x)).add(load(rows[2].add(x)));
        let outer = load::<V>(rows[0].add(x)).add(load(rows[3].add(x)));
        outer.mul_add(far, inner.mul(near))
    }
}

/// Fills a border of one pixel with the reflection of the rows and columns next to the edge's.
pub(super) fn reflect_border(memory: &mut [Lanes], view: &View) {
    let (height, width) = (view.height, view.width);
    assert!(view.border == 1 && height > 1 && width > 1);
    for channel in 0..view.channels {
        for y in 0..height {
            let row = view.index(channel, y, 0);
            memory[row - 1] = memory[row + 1];
            memory[row + width] = memory[row + width - 2];
        }
        let mut copy = |from: usize, to: usize| {
            let from = view.index(channel, from, 0) - 1;
            memory.copy_within(from..from + view.row(), to);
        };
        let top = view.index(channel, 0, 0) - 1 - view.row();
        copy(1, top);
        copy(height - 2, top + (height + 1) * view.row());
    }
}

/// The derivative of [`reflect_border`]: adds the border to the pixels that it shows.
pub(super) fn fold_border(memory: &mut [Lanes], view: &View) {
    let (height, width) = (view.height, view.width);
    assert!(view.border == 1 && height > 1 && width > 1);
    let mut add = |from: usize, to: usize| {
        let from = memory[from].0;
        for (to, from) in memory[to].0.iter_mut().zip(from) {
            *to += from;
        }
    };
    for channel in 0..view.channels {
        let top = view.index(channel, 0, 0) - 1 - view.row();
        for x in 0..view.row() {
            let at = |row: usize| top + row * view.row() + x;
            add(at(0), at(2));
            add(at(height + 1), at(height - 1));
        }
        for y in 0..height {
            let row = view.index(channel, y, 0);
            add(row - 1, row + 1);
            add(row + width, row + width - 2);
        }
    }
}
