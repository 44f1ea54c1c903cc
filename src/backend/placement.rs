//! Where buffers lie in an arena: two may share memory when they are not alive at the same time.

/// A buffer to place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    /// Length, in the arena's units.
    pub len: usize,
    /// The step that first writes it.
    pub first: usize,
    /// The last step that reads or writes it.
    pub last: usize,
}

/// Offsets of buffers, in the order given, and the arena's length.
#[derive(Clone, Debug, Default)]
pub(super) struct Placement {
    pub offsets: Vec<usize>,
    pub len: usize,
}

/// Places buffers, the largest first, each at the lowest offset that no buffer alive at the same time
/// occupies ("greedy by size" of Pisarchyk and Lee, "Efficient memory management for deep neural net
/// inference", 2020: within a few per cent of the lower bound on real networks).
///
/// Returns `None` where the arena's length would overflow.
pub(super) fn place(buffers: &[Lifetime]) -> Option<Placement> {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].len), i));
    let mut offsets = vec![0; buffers.len()];
    // Buffers placed so far, by offset.
    let mut placed: Vec<usize> = Vec::with_capacity(buffers.len());
    let mut len = 0usize;
    for i in order {
        let buffer = buffers[i];
        let mut offset = 0usize;
        for &other in &placed {
            let b = &buffers[other];
            if b.last < buffer.first || buffer.last < b.first {
                continue;
            }
            if offsets[other] >= offset && offsets[other] - offset >= buffer.len {
                break;
            }
            offset = offset.max(offsets[other] + b.len);
        }
        offsets[i] = offset;
        len = len.max(offset.checked_add(buffer.len)?);
        let at = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(at, i);
    }
    Some(Placement { offsets, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_together_never_overlap() {
        let mut word = 1u32;
        let mut next = |n: u32| {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((word >> 16) % n) as usize
        };
        for _ in 0..50 {
            let buffers: Vec<Lifetime> = (0..60)
                .map(|_| {
                    let first = next(40);
                    Lifetime {
                        len: next(100),
                        first,
                        last: first + next(10),
                    }
                })
                .collect();
            let placement = place(&buffers).unwrap();
            for (i, a) in buffers.iter().enumerate() {
                assert!(placement.offsets[i] + a.len <= placement.len);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let (x, y) = (placement.offsets[i], placement.offsets[j]);
                    let overlap = x < y + b.len && y < x + a.len && a.len > 0 && b.len > 0;
                    assert!(!(together && overlap), "{i} and {j}");
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_its_two_largest_neighbors() {
        let sizes = [10, 40, 20, 5, 30, 30, 1];
        let chain: Vec<Lifetime> = sizes
            .iter()
            .enumerate()
            .map(|(i, &len)| Lifetime {
                len,
                first: i,
                last: i + 1,
            })
            .collect();
        assert_eq!(place(&chain).unwrap().len, 60);
    }

    #[test]
    fn a_length_that_overflows_is_refused() {
        let huge = Lifetime {
            len: usize::MAX - 1,
            first: 0,
            last: 1,
        };
        assert!(place(&[huge, huge]).is_none());
    }
}
