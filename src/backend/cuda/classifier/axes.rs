//! Where elements lie, as kernels take it, and batches in parts that 32 bits count.

use super::super::backend::to_u32;
use super::super::driver::{self, Address, Launch};
use crate::error::{Error, Result};

/// Axes of a kernel's [`Axes`]: AXES in `kernels/axes.cuh`.
pub(super) const AXES: usize = 12;
/// Threads of a block that has no reason for another number.
pub(super) const THREADS: u32 = 256;
/// Elements that a launch can count: below 2^31, with room for a block beyond the end.
const LIMIT: usize = i32::MAX as usize - 1024;

driver::arguments! {
    /// A number that indices below 2^31 are divided by.
    #[derive(Debug)]
    pub(super) struct Divisor {
        number: u32,
        multiplier: u32,
        shift: u32,
    }

    /// Axes of elements, the first one outermost, and how far apart neighbors on each lie in another
    /// tensor.
    pub(super) struct Axes {
        sizes: [Divisor; AXES],
        strides: [u32; AXES],
        count: u32,
    }
}

impl Divisor {
    /// To divide by `number`; 0, of which there are no indices, counts as 1.
    ///
    /// # Errors
    /// The number is 2^31 or more.
    pub(super) fn new(number: usize) -> Result<Divisor> {
        let number = to_u32(number.max(1), "elements")?;
        // With the multiplier rounded up by less than one part in 2^31 of itself, no index below 2^31
        // reaches the next quotient; it has 32 bits, for 2^log is less than twice the number.
        let log = u32::BITS - (number - 1).leading_zeros();
        let shift = 31 + log;
        let multiplier = (1_u64 << shift).div_ceil(number.into());
        Ok(Divisor {
            number,
            multiplier: multiplier as u32,
            shift,
        })
    }
}

/// An axis of the elements that a kernel goes through.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub size: usize,
    /// How far apart neighbors lie in the other tensor, modulo 2^32; `None` where a list says where each
    /// lies.
    pub stride: Option<u32>,
}

impl Axis {
    /// With its neighbors in the other tensor so far apart, modulo 2^32.
    pub(super) fn new(size: usize, stride: usize) -> Axis {
        Axis {
            size,
            stride: Some(stride as u32),
        }
    }

    /// All images of a batch; their number does not matter, for they are outermost.
    pub(super) fn images(stride: usize) -> Axis {
        Axis::new(usize::MAX, stride)
    }
}

/// Fewer axes that go through the same elements: neighboring axes that are contiguous are merged.
pub(super) fn merged(axes: impl IntoIterator<Item = Axis>) -> Vec<Axis> {
    let mut merged: Vec<Axis> = vec![];
    for axis in axes {
        match (merged.last_mut(), axis.stride) {
            (_, Some(_)) if axis.size == 1 => {}
            (Some(outer), Some(stride))
                if outer.stride == Some(stride.wrapping_mul(axis.size as u32)) =>
            {
                outer.size = outer.size.saturating_mul(axis.size);
                outer.stride = Some(stride);
            }
            _ => merged.push(axis),
        }
    }
    merged
}

impl Axes {
    /// One element after another, as in the other tensor.
    pub(super) fn dense() -> Axes {
        let one = Divisor {
            number: 1,
            multiplier: 1 << 31,
            shift: 31,
        };
        let mut strides = [0; AXES];
        strides[0] = 1;
        Axes {
            sizes: [one; AXES],
            strides,
            count: 1,
        }
    }

    /// As kernels take them.
    ///
    /// # Errors
    /// There are more than [`AXES`], or an inner one has 2^31 elements.
    pub(super) fn new(axes: &[Axis]) -> Result<Axes> {
        if axes.len() > AXES {
            return Err(Error::invalid(format!(
                "a tensor of {} axes that cannot be joined is too much for the cuda backend, which takes \
                 {AXES}",
                axes.len()
            )));
        }
        let mut laid = Axes {
            sizes: [Divisor::new(1)?; AXES],
            strides: [0; AXES],
            count: axes.len().max(1) as u32,
        };
        for (k, axis) in axes.iter().enumerate() {
            laid.strides[k] = axis.stride.unwrap_or(0);
            if k > 0 {
                laid.sizes[k] = Divisor::new(axis.size)?;
            }
        }
        Ok(laid)
    }
}

/// Some images of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    first: usize,
    pub images: usize,
}

impl Part {
    /// Where its images start in a value of so many elements an image.
    pub(super) fn of(&self, value: Address, elements: usize) -> Address {
        value.offset(self.first * elements * size_of::<f32>())
    }

    /// Elements of its images; they are below 2^31 for what the batch was parted by.
    pub(super) fn count(&self, elements: usize) -> u32 {
        (self.images * elements) as u32
    }
}

/// A batch in parts for launches that go through `launched` elements of an image, each part with how many
/// it has of those: 1 or more, for there is no launch of nothing. A value that has `largest` elements of an
/// image, fewer than 2^31, has fewer than that of a part.
pub(super) fn parts(
    images: usize,
    largest: usize,
    launched: usize,
) -> impl Iterator<Item = (Part, u32)> {
    let at_once = (LIMIT / largest.max(1)).max(1);
    let parts = (0..images).step_by(at_once).map(move |first| Part {
        first,
        images: at_once.min(images - first),
    });
    let counted = parts.map(move |part| (part, part.count(launched)));
    counted.filter(|&(_, count)| count > 0)
}

/// # Errors
/// An image's value of so many elements cannot be counted.
pub(super) fn check_elements(elements: usize) -> Result<()> {
    if elements <= LIMIT {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a value of {elements} elements an image is too large for the cuda backend"
    )))
}

/// A thread to each of `n`.
pub(super) fn per_thread(n: u32) -> Launch {
    Launch::new([n.div_ceil(THREADS), 1, 1], THREADS)
}

/// Bytes of so many float32 numbers of each of `images` images.
pub(super) fn bytes(images: usize, numbers: usize) -> u64 {
    (images * numbers * size_of::<f32>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_exact() {
        let last = i32::MAX as u32;
        let numbers = [
            1,
            2,
            3,
            5,
            7,
            10,
            49,
            224,
            641,
            65_537,
            1 << 30,
            last - 1,
            last,
        ];
        for number in numbers {
            let by = Divisor::new(number as usize).unwrap();
            let near = |n: u32| [n.saturating_sub(1), n, (n + 1).min(last)];
            let multiples = [0, 1, 2, 1000, last / number / 2, last / number];
            let multiples = multiples.map(|n| n.min(last / number) * number);
            for index in multiples.into_iter().chain([last]).flat_map(near) {
                let quotient = (u64::from(index) * u64::from(by.multiplier)) >> by.shift;
                assert_eq!(quotient, u64::from(index / number), "{index} / {number}");
            }
        }
        assert!(Divisor::new(1 << 31).is_err());
    }

    #[test]
    fn neighboring_axes_are_one() {
        let sizes = |axes: &[(usize, usize)]| -> Vec<(usize, Option<u32>)> {
            let axes = axes.iter().map(|&(size, stride)| Axis::new(size, stride));
            let merged = merged(axes);
            merged.iter().map(|axis| (axis.size, axis.stride)).collect()
        };
        assert_eq!(sizes(&[(2, 12), (3, 4), (1, 7), (4, 1)]), [(24, Some(1))]);
        assert_eq!(sizes(&[(2, 4), (3, 8)]), [(2, Some(4)), (3, Some(8))]);
        assert_eq!(
            sizes(&[(2, 0), (3, 0), (4, 1)]),
            [(6, Some(0)), (4, Some(1))]
        );
        assert!(Axes::new(&vec![Axis::new(2, 1); AXES + 1]).is_err());
    }

    #[test]
    fn large_batches_are_parted() {
        let images = |largest: usize, launched: usize| -> Vec<usize> {
            let parts = parts(5, largest, launched);
            parts
                .map(|(part, count)| {
                    assert_eq!(count, part.count(launched));
                    part.images
                })
                .collect()
        };
        assert_eq!(images(1 << 30, 1 << 30), [1; 5]);
        assert_eq!(images(1 << 29, 7), [3, 2]);
        assert_eq!(images(7, 7), [5]);
        assert!(images(7, 0).is_empty() && images(0, 0).is_empty());
        assert_eq!(parts(0, 7, 7).count(), 0);
        let at = Part {
            first: 3,
            images: 2,
        };
        assert_eq!(at.of(Address(100), 1 << 30), Address(100 + (12 << 30)));
        assert!(check_elements(1 << 30).is_ok() && check_elements(i32::MAX as usize).is_err());
    }
}
