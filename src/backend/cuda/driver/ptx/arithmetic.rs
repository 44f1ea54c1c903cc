//! What instructions compute, in all lanes of a warp at once.
//!
//! Roundings are those that the instruction names, so results have a GPU's bits. Where the instruction set
//! leaves the last bits open (`ex2.approx`, `rcp.approx`), the float32 nearest to the exact result is taken:
//! a GPU's differs from it by 2 units of the last place at most. A float result that is no number has the one
//! bit pattern that GPUs give.

/// A value of each lane: numbers and predicates in the low bits, zeros above.
pub(super) type Lanes = [u64; 32];

/// What a lane's bits can be taken for.
pub(super) trait Number: Copy + PartialOrd {
    fn of(bits: u64) -> Self;
    fn bits(self) -> u64;
}

macro_rules! integers {
    ($($type:ident as $unsigned:ident),*) => {$(
        impl Number for $type {
            #[inline(always)]
            fn of(bits: u64) -> Self {
                bits as $type
            }
            #[inline(always)]
            fn bits(self) -> u64 {
                u64::from(self as $unsigned)
            }
        }
    )*};
}
integers!(
    u16 as u16, i16 as u16, u32 as u32, i32 as u32, u64 as u64, i64 as u64
);

impl Number for bool {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        bits & 1 == 1
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self)
    }
}

impl Number for f32 {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        let bits = if self.is_nan() {
            0x7fff_ffff
        } else {
            self.to_bits()
        };
        u64::from(bits)
    }
}

impl Number for f64 {
    #[inline(always)]
    fn of(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        if self.is_nan() {
            0x7ff8 << 48
        } else {
            self.to_bits()
        }
    }
}

#[inline(always)]
fn each<A: Number, R: Number>([a]: [&Lanes; 1], f: impl Fn(A) -> R) -> Lanes {
    std::array::from_fn(|lane| f(A::of(a[lane])).bits())
}

#[inline(always)]
fn each2<A: Number, B: Number, R: Number>([a, b]: [&Lanes; 2], f: impl Fn(A, B) -> R) -> Lanes {
    std::array::from_fn(|lane| f(A::of(a[lane]), B::of(b[lane])).bits())
}

#[inline(always)]
fn each3<A: Number, B: Number, C: Number, R: Number>(
    [a, b, c]: [&Lanes; 3],
    f: impl Fn(A, B, C) -> R,
) -> Lanes {
    std::array::from_fn(|lane| f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane])).bits())
}

/// A table of instructions of so many operands: name, opcodes, meaning in one lane.
macro_rules! instructions {
    ($(#[$doc:meta])* $table:ident, $operands:literal, $each:ident:
     $($name:ident: $($opcode:literal)|+ => $meaning:expr;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $table { $($name),* }

        impl $table {
            pub(super) fn named(opcode: &str) -> Option<Self> {
                match opcode {
                    $($($opcode)|+ => Some($table::$name),)*
                    _ => None,
                }
            }

            #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
            pub(super) fn compute(self, operands: [&Lanes; $operands]) -> Lanes {
                match self { $($table::$name => $each(operands, $meaning)),* }
            }
        }
    };
}

instructions! {
    /// Instructions of one operand.
    Unary, 1, each:
    Move16: "mov.b16" | "mov.u16" | "cvt.u16.u32" | "cvt.u16.u64" => |a: u16| a;
    Move32: "mov.b32" | "mov.u32" | "mov.f32" | "cvt.u32.u16" | "cvt.u32.u64" => |a: u32| a;
    Move64: "mov.b64" | "mov.u64" | "mov.f64" | "cvt.u64.u16" | "cvt.u64.u32" | "cvta.to.global.u64" => |a: u64| a;
    MovePredicate: "mov.pred" => |a: bool| a;
    Widen32: "cvt.s64.s32" => |a: i32| i64::from(a);
    Widen16: "cvt.s32.s16" => |a: i16| i32::from(a);
    NotPredicate: "not.pred" => |a: bool| !a;
    Not16: "not.b16" => |a: u16| !a;
    Not32: "not.b32" => |a: u32| !a;
    Not64: "not.b64" => |a: u64| !a;
    Neg32: "neg.s32" => i32::wrapping_neg;
    Neg64: "neg.s64" => i64::wrapping_neg;
    Abs32: "abs.s32" => i32::wrapping_abs;
    NegF32: "neg.f32" => |a: f32| -a;
    NegF64: "neg.f64" => |a: f64| -a;
    AbsF32: "abs.f32" => f32::abs;
    AbsF64: "abs.f64" => f64::abs;
    SqrtF32: "sqrt.rn.f32" => f32::sqrt;
    SqrtF64: "sqrt.rn.f64" => f64::sqrt;
    ReciprocalF32: "rcp.rn.f32" => |a: f32| 1.0 / a;
    ReciprocalF64: "rcp.rn.f64" => |a: f64| 1.0 / a;
    ReciprocalApprox: "rcp.approx.ftz.f32" => |a: f32| flush(1.0 / flush(a));
    Exp2Approx: "ex2.approx.f32" => exp2;
    Exp2ApproxFlush: "ex2.approx.ftz.f32" => |a: f32| flush(exp2(flush(a)));
    RoundF32: "cvt.rni.f32.f32" => f32::round_ties_even;
    TruncateF32: "cvt.rzi.f32.f32" => f32::trunc;
    FloorF32: "cvt.rmi.f32.f32" => f32::floor;
    SaturateF32: "cvt.sat.f32.f32" => |a: f32| if a > 0.0 { lesser(a, 1.0) } else { 0.0 };
    F32ToS32: "cvt.rzi.s32.f32" => |a: f32| a as i32;
    F32ToU32: "cvt.rzi.u32.f32" => |a: f32| a as u32;
    S32ToF32: "cvt.rn.f32.s32" => |a: i32| a as f32;
    U32ToF32: "cvt.rn.f32.u32" => |a: u32| a as f32;
    S32ToF64: "cvt.rn.f64.s32" => |a: i32| f64::from(a);
    U32ToF64: "cvt.rn.f64.u32" => |a: u32| f64::from(a);
    F32ToF64: "cvt.f64.f32" => |a: f32| f64::from(a);
    F64ToF32: "cvt.rn.f32.f64" => |a: f64| a as f32;
}

instructions! {
    /// Instructions of two operands.
    Binary, 2, each2:
    Add16: "add.s16" | "add.u16" => u16::wrapping_add;
    Add32: "add.s32" | "add.u32" => u32::wrapping_add;
    Add64: "add.s64" | "add.u64" => u64::wrapping_add;
    Sub16: "sub.s16" | "sub.u16" => u16::wrapping_sub;
    Sub32: "sub.s32" | "sub.u32" => u32::wrapping_sub;
    Sub64: "sub.s64" | "sub.u64" => u64::wrapping_sub;
    Mul16: "mul.lo.s16" | "mul.lo.u16" => u16::wrapping_mul;
    Mul32: "mul.lo.s32" | "mul.lo.u32" => u32::wrapping_mul;
    Mul64: "mul.lo.s64" | "mul.lo.u64" => u64::wrapping_mul;
    MulHighU32: "mul.hi.u32" => |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    MulHighS32: "mul.hi.s32" => |a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32;
    MulWideU16: "mul.wide.u16" => |a: u16, b: u16| u32::from(a) * u32::from(b);
    MulWideS16: "mul.wide.s16" => |a: i16, b: i16| i32::from(a) * i32::from(b);
    MulWideU32: "mul.wide.u32" => |a: u32, b: u32| u64::from(a) * u64::from(b);
    MulWideS32: "mul.wide.s32" => |a: i32, b: i32| i64::from(a) * i64::from(b);
    // What a division by zero gives is not specified; GPUs give ones.
    DivU32: "div.u32" => |a: u32, b: u32| a.checked_div(b).unwrap_or(u32::MAX);
    DivU64: "div.u64" => |a: u64, b: u64| a.checked_div(b).unwrap_or(u64::MAX);
    DivS32: "div.s32" => |a: i32, b: i32| if b == 0 { -1 } else { a.wrapping_div(b) };
    RemU32: "rem.u32" => |a: u32, b: u32| a.checked_rem(b).unwrap_or(a);
    RemU64: "rem.u64" => |a: u64, b: u64| a.checked_rem(b).unwrap_or(a);
    RemS32: "rem.s32" => |a: i32, b: i32| if b == 0 { a } else { a.wrapping_rem(b) };
    MinU32: "min.u32" => |a: u32, b: u32| a.min(b);
    MinS32: "min.s32" => |a: i32, b: i32| a.min(b);
    MaxU32: "max.u32" => |a: u32, b: u32| a.max(b);
    MaxS32: "max.s32" => |a: i32, b: i32| a.max(b);
    And16: "and.b16" => |a: u16, b: u16| a & b;
    And32: "and.b32" => |a: u32, b: u32| a & b;
    And64: "and.b64" => |a: u64, b: u64| a & b;
    AndPredicate: "and.pred" => |a: bool, b: bool| a & b;
    Or16: "or.b16" => |a: u16, b: u16| a | b;
    Or32: "or.b32" => |a: u32, b: u32| a | b;
    Or64: "or.b64" => |a: u64, b: u64| a | b;
    OrPredicate: "or.pred" => |a: bool, b: bool| a | b;
    Xor16: "xor.b16" => |a: u16, b: u16| a ^ b;
    Xor32: "xor.b32" => |a: u32, b: u32| a ^ b;
    Xor64: "xor.b64" => |a: u64, b: u64| a ^ b;
    XorPredicate: "xor.pred" => |a: bool, b: bool| a ^ b;
    // All bits leave for shifts by the width or more.
    Shl16: "shl.b16" => |a: u16, b: u32| if b < 16 { a << b } else { 0 };
    Shl32: "shl.b32" => |a: u32, b: u32| if b < 32 { a << b } else { 0 };
    Shl64: "shl.b64" => |a: u64, b: u32| if b < 64 { a << b } else { 0 };
    ShrU16: "shr.u16" | "shr.b16" => |a: u16, b: u32| if b < 16 { a >> b } else { 0 };
    ShrU32: "shr.u32" | "shr.b32" => |a: u32, b: u32| if b < 32 { a >> b } else { 0 };
    ShrU64: "shr.u64" | "shr.b64" => |a: u64, b: u32| if b < 64 { a >> b } else { 0 };
    ShrS32: "shr.s32" => |a: i32, b: u32| a >> b.min(31);
    ShrS64: "shr.s64" => |a: i64, b: u32| a >> b.min(63);
    AddF32: "add.rn.f32" => |a: f32, b: f32| a + b;
    AddF64: "add.rn.f64" => |a: f64, b: f64| a + b;
    AddZeroF32: "add.rz.f32" => |a: f32, b: f32| {
        let (sum, rest) = exact_sum(f64::from(a), f64::from(b));
        if sum < 0.0 { round_up(sum, rest) } else { round_down(sum, rest) }
    };
    SubF32: "sub.rn.f32" => |a: f32, b: f32| a - b;
    SubF64: "sub.rn.f64" => |a: f64, b: f64| a - b;
    MulF32: "mul.rn.f32" => |a: f32, b: f32| a * b;
    MulF64: "mul.rn.f64" => |a: f64, b: f64| a * b;
    DivF32: "div.rn.f32" => |a: f32, b: f32| a / b;
    DivF64: "div.rn.f64" => |a: f64, b: f64| a / b;
    MinF32: "min.f32" => lesser;
    MaxF32: "max.f32" => |a: f32, b: f32| -lesser(-a, -b);
    MaxF64: "max.f64" => |a: f64, b: f64| if a > b || b.is_nan() || (a == b && a.is_sign_positive()) { a } else { b };
    CopySignF32: "copysign.f32" => |sign: f32, magnitude: f32| magnitude.copysign(sign);
    ToBFloat16: "cvt.rn.bf16x2.f32" => |high: f32, low: f32| bfloat16(high) << 16 | bfloat16(low);
}

instructions! {
    /// Instructions of three operands.
    Ternary, 3, each3:
    MulAdd16: "mad.lo.s16" | "mad.lo.u16" => |a: u16, b: u16, c: u16| a.wrapping_mul(b).wrapping_add(c);
    MulAdd32: "mad.lo.s32" | "mad.lo.u32" => |a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c);
    MulAdd64: "mad.lo.s64" | "mad.lo.u64" => |a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c);
    MulAddWideU32: "mad.wide.u32" => |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c);
    MulAddWideS32: "mad.wide.s32" => |a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c);
    Select16: "selp.b16" | "selp.u16" | "selp.s16" => |a: u16, b: u16, p: bool| if p { a } else { b };
    Select32: "selp.b32" | "selp.u32" | "selp.s32" | "selp.f32" => |a: u32, b: u32, p: bool| if p { a } else { b };
    Select64: "selp.b64" | "selp.u64" | "selp.s64" | "selp.f64" => |a: u64, b: u64, p: bool| if p { a } else { b };
    FmaF32: "fma.rn.f32" => f32::mul_add;
    FmaF64: "fma.rn.f64" => f64::mul_add;
    FmaDownF32: "fma.rm.f32" => |a: f32, b: f32, c: f32| {
        let product = f64::from(a) * f64::from(b);
        let (sum, rest) = exact_sum(product, f64::from(c));
        // Downwards, numbers that cancel leave -0.
        let cancels = sum == 0.0 && (product.is_sign_negative() || c.is_sign_negative());
        if cancels { -0.0 } else { round_down(sum, rest) }
    };
}

/// `bfi.b32`: `into` with its `length` bits from `start` on replaced by the lowest of `bits`.
pub(super) fn insert_bits(bits: u32, into: u32, start: u32, length: u32) -> u32 {
    let (start, length) = (start & 0xff, length & 0xff);
    let ones = (1_u64 << length.min(32)) - 1;
    let mask = if start < 32 {
        (ones << start) as u32
    } else {
        0
    };
    let shifted = if start < 32 { bits << start } else { 0 };
    into & !mask | shifted & mask
}

/// What `setp` compares by. The relations that end in `u` hold also where an operand is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    relation: Relation,
    numbers: Numbers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F32,
    F64,
}

impl Comparison {
    /// Of `setp.lt.u32` and its like.
    pub(super) fn named(opcode: &str) -> Option<Self> {
        let (relation, numbers) = opcode.strip_prefix("setp.")?.split_once('.')?;
        let relation = match relation {
            "eq" => Relation::Eq,
            "ne" => Relation::Ne,
            "lt" => Relation::Lt,
            "le" => Relation::Le,
            "gt" => Relation::Gt,
            "ge" => Relation::Ge,
            "equ" => Relation::Equ,
            "neu" => Relation::Neu,
            "ltu" => Relation::Ltu,
            "leu" => Relation::Leu,
            "gtu" => Relation::Gtu,
            "geu" => Relation::Geu,
            _ => return None,
        };
        let numbers = match numbers {
            "u16" | "b16" => Numbers::U16,
            "s16" => Numbers::S16,
            "u32" | "b32" => Numbers::U32,
            "s32" => Numbers::S32,
            "u64" | "b64" => Numbers::U64,
            "s64" => Numbers::S64,
            "f32" => Numbers::F32,
            "f64" => Numbers::F64,
            _ => return None,
        };
        Some(Comparison { relation, numbers })
    }

    pub(super) fn is_float64(self) -> bool {
        self.numbers == Numbers::F64
    }

    /// Whether it compares integers of 64 bits.
    pub(super) fn is_wide(self) -> bool {
        matches!(self.numbers, Numbers::U64 | Numbers::S64)
    }

    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    pub(super) fn compute(self, operands: [&Lanes; 2]) -> Lanes {
        match self.numbers {
            Numbers::U16 => self.relation.compute::<u16>(operands),
            Numbers::S16 => self.relation.compute::<i16>(operands),
            Numbers::U32 => self.relation.compute::<u32>(operands),
            Numbers::S32 => self.relation.compute::<i32>(operands),
            Numbers::U64 => self.relation.compute::<u64>(operands),
            Numbers::S64 => self.relation.compute::<i64>(operands),
            Numbers::F32 => self.relation.compute::<f32>(operands),
            Numbers::F64 => self.relation.compute::<f64>(operands),
        }
    }
}

impl Relation {
    #[inline(always)]
    #[expect(
        clippy::double_comparisons,
        clippy::neg_cmp_op_on_partial_ord,
        reason = "they differ where an operand is no number"
    )]
    fn compute<T: Number>(self, operands: [&Lanes; 2]) -> Lanes {
        match self {
            Relation::Eq => each2(operands, |a: T, b: T| a == b),
            Relation::Ne => each2(operands, |a: T, b: T| a < b || a > b),
            Relation::Lt => each2(operands, |a: T, b: T| a < b),
            Relation::Le => each2(operands, |a: T, b: T| a <= b),
            Relation::Gt => each2(operands, |a: T, b: T| a > b),
            Relation::Ge => each2(operands, |a: T, b: T| a >= b),
            Relation::Equ => each2(operands, |a: T, b: T| !(a < b || a > b)),
            Relation::Neu => each2(operands, |a: T, b: T| a != b),
            Relation::Ltu => each2(operands, |a: T, b: T| !(a >= b)),
            Relation::Leu => each2(operands, |a: T, b: T| !(a > b)),
            Relation::Gtu => each2(operands, |a: T, b: T| !(a <= b)),
            Relation::Geu => each2(operands, |a: T, b: T| !(a < b)),
        }
    }
}

/// The exact sum, as the nearest float64 and what that leaves.
#[inline(always)]
fn exact_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let of_b = sum - a;
    let rest = (a - (sum - of_b)) + (b - of_b);
    (sum, rest)
}

/// `sum + rest`, where `rest` is less than a unit of the sum's last place, rounded downwards.
#[inline(always)]
fn round_down(sum: f64, rest: f64) -> f32 {
    let near = sum as f32;
    let above = f64::from(near) > sum || (f64::from(near) == sum && rest < 0.0);
    if above { near.next_down() } else { near }
}

#[inline(always)]
fn round_up(sum: f64, rest: f64) -> f32 {
    -round_down(-sum, -rest)
}

/// A number that is too small to be normal, as zero.
#[inline(always)]
fn flush(a: f32) -> f32 {
    if a.abs() < f32::MIN_POSITIVE {
        0.0_f32.copysign(a)
    } else {
        a
    }
}

#[inline(always)]
fn exp2(a: f32) -> f32 {
    f64::from(a).exp2() as f32
}

/// Not the operand that is no number; -0 before 0.
#[inline(always)]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b || b.is_nan() || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// To nearest, ties to even.
#[inline(always)]
fn bfloat16(a: f32) -> u32 {
    let bits = a.to_bits();
    match a.is_nan() {
        true => 0x7fff,
        false => (bits + 0x7fff + (bits >> 16 & 1)) >> 16,
    }
}

/// `sum + a * b` for matrices of 16 x 16 and 16 x 8, as `multiply_matrices` in `kernels/device.cuh` lays them
/// out. Products are exact; they are added in float32, one after another, where the order and the roundings
/// of the sums are a GPU's own.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
pub(super) fn multiply_matrices(a: [&Lanes; 4], b: [&Lanes; 2], sum: [&Lanes; 4]) -> [Lanes; 4] {
    let number = |pair: u64, which: usize| match which {
        0 => f32::from_bits((pair as u32) << 16),
        _ => f32::from_bits(pair as u32 & 0xffff_0000),
    };
    let (mut left, mut right, mut total) = ([[0.0; 16]; 16], [[0.0; 8]; 16], [[0.0; 8]; 16]);
    for lane in 0..32 {
        let (row, pair) = (lane / 4, lane % 4 * 2);
        for which in 0..2 {
            for (quarter, a) in a.iter().enumerate() {
                left[row + quarter % 2 * 8][pair + which + quarter / 2 * 8] =
                    number(a[lane], which);
            }
            for (half, b) in b.iter().enumerate() {
                right[pair + which + half * 8][row] = number(b[lane], which);
            }
            for half in 0..2 {
                total[row + half * 8][pair + which] = f32::of(sum[half * 2 + which][lane]);
            }
        }
    }
    for (total, left) in total.iter_mut().zip(&left) {
        for (left, right) in left.iter().zip(&right) {
            for (total, right) in total.iter_mut().zip(right) {
                *total += left * right;
            }
        }
    }
    std::array::from_fn(|k| {
        std::array::from_fn(|lane| total[lane / 4 + k / 2 * 8][lane % 4 * 2 + k % 2].bits())
    })
}
