//! What the processor could do at most.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::simd::{F32x16, Kernel, dispatch};

/// Multiply-adds that depend on nothing but themselves, in registers only.
struct MultiplyAdds {
    rounds: u32,
}

/// Chains that hide a multiply-add's latency: 4 or 5 cycles, two a cycle.
const CHAINS: usize = 12;

impl MultiplyAdds {
    /// Floating-point operations of one round.
    const FLOPS: f64 = (CHAINS * 16 * 2) as f64;
}

impl Kernel for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    fn run<V: F32x16>(self) -> f32 {
        if V::REGISTERS >= 32 {
            chains::<V, CHAINS>(self.rounds)
        } else {
            // Half the chains, as often twice: a vector is several registers there.
            chains::<V, { CHAINS / 2 }>(2 * self.rounds)
        }
    }
}

#[inline(always)]
fn chains<V: F32x16, const N: usize>(rounds: u32) -> f32 {
    let (a, b) = (V::splat(black_box(0.999)), V::splat(black_box(0.001)));
    let mut sums = [V::splat(black_box(1.0)); N];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.mul_add(a, b);
        }
    }
    let mut total = V::splat(0.0);
    for sum in sums {
        total = total.add(sum);
    }
    total.to_array()[0]
}

/// GFLOP/s of all threads together in a loop of multiply-adds that never leaves the registers: what a
/// kernel's speed is a share of. Measured once, in about 50 ms; other programs' load lowers it.
pub fn peak_gflops() -> f64 {
    static PEAK: OnceLock<f64> = OnceLock::new();
    *PEAK.get_or_init(|| {
        let rounds = 20_000;
        let end = Instant::now() + Duration::from_millis(50);
        let best = |_: rayon::BroadcastContext| {
            let mut best = 0.0_f64;
            while Instant::now() < end {
                let start = Instant::now();
                black_box(dispatch(MultiplyAdds { rounds }));
                let seconds = start.elapsed().as_secs_f64();
                best = best.max(f64::from(rounds) * MultiplyAdds::FLOPS / seconds);
            }
            best
        };
        let mut threads = rayon::broadcast(best);
        // Threads beyond the cores take turns: they add nothing.
        let cores = std::thread::available_parallelism().map_or(threads.len(), usize::from);
        threads.sort_by(|a, b| b.total_cmp(a));
        threads.iter().take(cores).sum::<f64>() / 1e9
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_that_of_a_processor() {
        let peak = peak_gflops();
        assert!((1.0..1e6).contains(&peak), "{peak} GFLOP/s");
    }
}
