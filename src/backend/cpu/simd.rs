//! Sixteen float32 lanes on any processor.
//!
//! The unit of data in the cpu backend is a group of 16 float32 numbers: one AVX-512 register, two
//! AVX registers, or an array that the compiler vectorizes. Because the width is the same everywhere,
//! memory layouts do not depend on the machine. Kernels are written once against [`F32x16`] and
//! compiled for every instruction set by [`dispatch`], which picks at run time.

use std::sync::OnceLock;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen float32 numbers, aligned for the widest load.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Zeroable, bytemuck::Pod)]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// All lanes zero.
    pub const ZERO: Lanes = Lanes([0.0; LANES]);
}

/// Allocates `n` zeroed groups of lanes.
pub fn zeroed(n: usize) -> Vec<Lanes> {
    bytemuck::zeroed_vec(n)
}

/// A vector of sixteen float32 lanes.
///
/// # Safety
/// An implementation's methods use its instruction set without checking for it: values of the type
/// are only created inside [`dispatch`], which has checked.
pub unsafe trait F32x16: Copy {
    /// How many such vectors the register file holds; a kernel sizes its register tile by it.
    const REGISTERS: usize;

    /// All lanes `x`.
    fn splat(x: f32) -> Self;

    /// # Safety
    /// `from` is valid for reads of 16 floats; no alignment is needed.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `to` is valid for writes of 16 floats; no alignment is needed.
    unsafe fn store(self, to: *mut f32);

    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    fn max(self, b: Self) -> Self;
    fn min(self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    /// `self * b + c`, rounded once where the machine can.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// Lane by lane: `a` where `self > 0`, else `b`.
    fn select_positive(self, a: Self, b: Self) -> Self;
    /// Rounded to the nearest integer, ties to even.
    fn round(self) -> Self;
    /// `2^self` for integral lanes in `[-126, 127]`.
    fn exp2_integral(self) -> Self;

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array holds 16 floats.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes
    }

    /// The lanes from an array.
    #[inline(always)]
    fn from_array(lanes: [f32; LANES]) -> Self {
        // SAFETY: the array holds 16 floats.
        unsafe { Self::load(lanes.as_ptr()) }
    }
}

/// `e^x`, relative error under 2e-7 for `x` in `[-87, 88]`, clamped outside.
///
/// Range reduction by `ln 2` in two parts (Cody and Waite), then the minimax polynomial of Cephes'
/// `expf`.
#[inline(always)]
pub fn exp<V: F32x16>(x: V) -> V {
    let x = x.max(V::splat(-87.0)).min(V::splat(88.0));
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let r = n.mul_add(V::splat(-0.693_359_4), x);
    let r = n.mul_add(V::splat(2.121_944_4e-4), r);
    let mut p = V::splat(1.987_569_2e-4);
    for c in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p.mul_add(r, V::splat(c));
    }
    p.mul_add(r.mul(r), r)
        .add(V::splat(1.0))
        .mul(n.exp2_integral())
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<V: F32x16>(x: V) -> V {
    let one = V::splat(1.0);
    one.div(one.add(exp(V::splat(0.0).sub(x))))
}

/// Work written once for every instruction set.
///
/// `run` must be `#[inline(always)]`, and so must everything generic over the vector type that it
/// calls: only then is the body compiled with the instruction set that [`dispatch`] enables.
pub trait Kernel {
    type Output;
    fn run<V: F32x16>(self) -> Self::Output;
}

/// An instruction set that [`dispatch`] can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// The best instruction set of this processor.
    pub fn detect() -> Isa {
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| {
            let mut available = Isa::ALL.iter().filter(|isa| isa.is_available());
            *available.next().expect("the portable one is everywhere")
        })
    }

    /// Every instruction set, the best first.
    pub const ALL: &[Isa] = &[
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        Isa::Portable,
    ];

    /// Whether this processor has it.
    #[inline]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f") && Isa::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Isa::Portable => true,
        }
    }

    /// The name that `devices` and `run.json` show.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }
}

/// Runs a kernel on the best instruction set of this processor.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    dispatch_on(Isa::detect(), kernel)
}

/// Runs a kernel on one instruction set.
///
/// # Panics
/// The processor does not have it.
#[inline]
pub fn dispatch_on<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.is_available(), "this processor has no {}", isa.name());
    match isa {
        // SAFETY: just checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: just checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::run_avx2(kernel) },
        Isa::Portable => kernel.run::<Portable>(),
    }
}

/// Lanes in an array; the compiler vectorizes it with what the target always has.
#[derive(Clone, Copy)]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

// SAFETY: uses no instruction beyond the target's own.
unsafe impl F32x16 for Portable {
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Portable([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        self.zip(b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        Portable(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        // Without the instruction, a fused multiply-add is a slow library call.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        Portable(std::array::from_fn(|i| {
            if fused {
                self.0[i].mul_add(b.0[i], c.0[i])
            } else {
                self.0[i] * b.0[i] + c.0[i]
            }
        }))
    }
    #[inline(always)]
    fn select_positive(self, a: Self, b: Self) -> Self {
        Portable(std::array::from_fn(|i| {
            if self.0[i] > 0.0 { a.0[i] } else { b.0[i] }
        }))
    }
    #[inline(always)]
    fn round(self) -> Self {
        Portable(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    fn exp2_integral(self) -> Self {
        Portable(
            self.0
                .map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32)),
        )
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the module's text gives the one reason for all"
)]
mod x86 {
    //! AVX-512 and AVX2. Every intrinsic call below is sound because values of these types only
    //! exist inside `run_avx512` and `run_avx2`, which `dispatch` enters after detection, and because
    //! the callers of `load` and `store` vouch for their pointers.

    use super::{F32x16, Kernel};
    use std::arch::x86_64::*;

    /// # Safety
    /// The processor has AVX-512F and FMA.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx512>()
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Avx2>()
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx512(__m512);

    // SAFETY: created only inside `run_avx512` (see the module).
    unsafe impl F32x16 for Avx512 {
        const REGISTERS: usize = 32;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            unsafe { Avx512(_mm512_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Avx512(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_add_ps(self.0, b.0)) }
        }
        #[inline(always)]
        fn sub(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_sub_ps(self.0, b.0)) }
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_mul_ps(self.0, b.0)) }
        }
        #[inline(always)]
        fn div(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_div_ps(self.0, b.0)) }
        }
        #[inline(always)]
        fn max(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_max_ps(self.0, b.0)) }
        }
        #[inline(always)]
        fn min(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_min_ps(self.0, b.0)) }
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            unsafe { Avx512(_mm512_sqrt_ps(self.0)) }
        }
        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe { Avx512(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        fn select_positive(self, a: Self, b: Self) -> Self {
            unsafe {
                let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, _mm512_setzero_ps());
                Avx512(_mm512_mask_blend_ps(mask, b.0, a.0))
            }
        }
        #[inline(always)]
        fn round(self) -> Self {
            unsafe {
                Avx512(_mm512_roundscale_ps::<
                    { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
                >(self.0))
            }
        }
        #[inline(always)]
        fn exp2_integral(self) -> Self {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
            }
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx2(__m256, __m256);

    impl Avx2 {
        #[inline(always)]
        fn zip(self, b: Self, f: impl Fn(__m256, __m256) -> __m256) -> Self {
            Avx2(f(self.0, b.0), f(self.1, b.1))
        }
    }

    // SAFETY: created only inside `run_avx2` (see the module).
    unsafe impl F32x16 for Avx2 {
        const REGISTERS: usize = 8;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            unsafe { Avx2(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            self.zip(b, |a, b| unsafe { _mm256_add_ps(a, b) })
        }
        #[inline(always)]
        fn sub(self, b: Self) -> Self {
            self.zip(b, |a, b| unsafe { _mm256_sub_ps(a, b) })
        }
        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            self.zip(b, |a, b| unsafe { _mm256_mul_ps(a, b) })
        }
        #[inline(always)]
        fn div(self, b: Self) -> Self {
            self.zip(b, |a, b| unsafe { _mm256_div_ps(a, b) })
        }
        #[inline(always)]
        fn max(self, b: Self) -> Self {
            self.zip(b, |a, b| unsafe { _mm256_max_ps(a, b) })
        }
        #[inline(always)]
        fn min(self, b: Self) -> Self {
            self.zip(b, |a, b| unsafe { _mm256_min_ps(a, b) })
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            unsafe { Avx2(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
        }
        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe {
                Avx2(
                    _mm256_fmadd_ps(self.0, b.0, c.0),
                    _mm256_fmadd_ps(self.1, b.1, c.1),
                )
            }
        }
        #[inline(always)]
        fn select_positive(self, a: Self, b: Self) -> Self {
            #[inline(always)]
            fn half(x: __m256, a: __m256, b: __m256) -> __m256 {
                unsafe {
                    let mask = _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_setzero_ps());
                    _mm256_blendv_ps(b, a, mask)
                }
            }
            Avx2(half(self.0, a.0, b.0), half(self.1, a.1, b.1))
        }
        #[inline(always)]
        fn round(self) -> Self {
            const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            unsafe {
                Avx2(
                    _mm256_round_ps::<MODE>(self.0),
                    _mm256_round_ps::<MODE>(self.1),
                )
            }
        }
        #[inline(always)]
        fn exp2_integral(self) -> Self {
            #[inline(always)]
            fn half(x: __m256) -> __m256 {
                unsafe {
                    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
                }
            }
            Avx2(half(self.0), half(self.1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation of the vector type against the scalar one, lane by lane.
    pub(super) struct All;

    impl Kernel for All {
        type Output = ();
        #[inline(always)]
        fn run<V: F32x16>(self) {
            let a: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.4) * 1.7);
            let b: [f32; LANES] = std::array::from_fn(|i| (i as f32 * 0.3 - 2.0).cos() * 3.0 + 4.0);
            let (va, vb) = (V::from_array(a), V::from_array(b));
            let check = |name: &str, got: V, want: &dyn Fn(f32, f32) -> f32| {
                for (i, got) in got.to_array().into_iter().enumerate() {
                    assert_eq!(got, want(a[i], b[i]), "{name}, lane {i}");
                }
            };
            check("add", va.add(vb), &|a, b| a + b);
            check("sub", va.sub(vb), &|a, b| a - b);
            check("mul", va.mul(vb), &|a, b| a * b);
            check("div", va.div(vb), &|a, b| a / b);
            check("max", va.max(vb), &f32::max);
            check("min", va.min(vb), &f32::min);
            check("sqrt", vb.sqrt(), &|_, b| b.sqrt());
            check("round", va.round(), &|a, _| a.round_ties_even());
            check("exp2", va.round().exp2_integral(), &|a, _| {
                a.round_ties_even().exp2()
            });
            check("select_positive", va.select_positive(va, vb), &|a, b| {
                if a > 0.0 { a } else { b }
            });
            for (i, got) in va.mul_add(vb, va).to_array().into_iter().enumerate() {
                let want = (f64::from(a[i]) * f64::from(b[i]) + f64::from(a[i])) as f32;
                assert!(
                    (got - want).abs() <= 2e-6 * want.abs().max(1.0),
                    "mul_add, lane {i}"
                );
            }
            for step in -87..=87 {
                let x: [f32; LANES] = std::array::from_fn(|i| step as f32 + i as f32 / 16.0);
                let (e, s) = (
                    exp(V::from_array(x)).to_array(),
                    sigmoid(V::from_array(x)).to_array(),
                );
                for i in 0..LANES {
                    let want = f64::from(x[i]).exp();
                    assert!((f64::from(e[i]) / want - 1.0).abs() < 3e-7, "exp {}", x[i]);
                    let want = 1.0 / (1.0 + (-f64::from(x[i])).exp());
                    assert!(
                        (f64::from(s[i]) / want - 1.0).abs() < 5e-7,
                        "sigmoid {}",
                        x[i]
                    );
                }
            }
        }
    }

    #[test]
    fn lanes_compute_what_scalars_do() {
        for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            dispatch_on(isa, All);
        }
    }
}
