//! The pages of a Parquet column: what is compressed in them, and how values are written
//! (<https://parquet.apache.org/docs/file-format/data-pages/>).

use std::io::Read;

use flate2::read::MultiGzDecoder;

use super::thrift::Value;
use crate::picture::MAX_BYTES;

/// The most values of a page.
pub(super) const MAX_VALUES: usize = 1 << 24;

/// The most structs that a value may lie in, if they may be null: a value's level is how many of them, and it itself,
/// are not.
pub(super) const MAX_LEVEL: usize = 7;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dictionary,
    /// With the lengths of the levels in the data, and all of it compressed.
    First,
    /// With the lengths of the levels in the header, and the levels not compressed.
    Second {
        levels: usize,
        compressed: bool,
    },
    /// An index, or of a later version.
    Other,
}

/// A page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    /// Bytes in the file, and of the page as it is without compression.
    pub packed: usize,
    pub plain: usize,
    /// Values, those that are null too.
    pub values: usize,
    /// Parquet's number of the encoding.
    pub encoding: i64,
}

impl Header {
    /// What a header says; `None` if it is damaged.
    pub(super) fn of(value: &Value<'_>) -> Option<Header> {
        let size = |number| usize::try_from(value.integer(number)?).ok();
        let own = |number: i64| value.field(number);
        let count = |header: &Value<'_>, number| usize::try_from(header.integer(number)?).ok();
        let (kind, header, encoding) = match value.integer(1)? {
            0 => (Kind::First, own(5)?, 2),
            2 => (Kind::Dictionary, own(7)?, 2),
            3 => {
                let header = own(8)?;
                let levels = count(header, 5)?.checked_add(count(header, 6)?)?;
                let compressed = header.integer(7) != Some(0);
                (Kind::Second { levels, compressed }, header, 4)
            }
            _ => {
                return Some(Header {
                    kind: Kind::Other,
                    packed: size(3)?,
                    plain: size(2)?,
                    values: 0,
                    encoding: 0,
                });
            }
        };
        Some(Header {
            kind,
            packed: size(3)?,
            plain: size(2)?,
            values: count(header, 1)?,
            encoding: header.integer(encoding)?,
        })
    }
}

/// The bytes of a page, as they are without compression.
///
/// # Errors
/// They are damaged, more than a picture may have, or compressed in an unknown way.
pub(super) fn unpack(codec: i64, header: &Header, packed: &[u8]) -> Result<Vec<u8>, String> {
    let (levels, codec) = match header.kind {
        Kind::Second { levels, compressed } => (levels, if compressed { codec } else { 0 }),
        _ => (0, codec),
    };
    if levels > packed.len() || header.plain > MAX_BYTES || header.plain < levels {
        return Err("has a damaged page".into());
    }
    let (levels, packed) = packed.split_at(levels);
    let wanted = header.plain - levels.len();
    let whole = |reader: &mut dyn Read| -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        reader
            .take(wanted as u64 + 1)
            .read_to_end(&mut plain)
            .ok()?;
        Some(plain)
    };
    let plain = match codec {
        0 => Some(packed.to_vec()),
        // A byte of Snappy's becomes at most 64 / 3.
        1 if wanted / 24 > packed.len() => None,
        1 => snap::raw::decompress_len(packed)
            .ok()
            .filter(|length| *length == wanted)
            .and_then(|_| snap::raw::Decoder::new().decompress_vec(packed).ok()),
        2 => whole(&mut MultiGzDecoder::new(packed)),
        6 => ruzstd::decoding::StreamingDecoder::new(packed)
            .ok()
            .and_then(|mut reader| whole(&mut reader)),
        other => {
            let name = ["", "", "", "LZO", "Brotli", "LZ4", "", "LZ4"];
            let name = usize::try_from(other).ok().and_then(|i| name.get(i));
            return Err(format!(
                "is compressed with {}; write it with snappy, gzip or zstd",
                name.unwrap_or(&"an unknown method")
            ));
        }
    };
    match plain {
        Some(plain) if plain.len() == wanted => Ok([levels, &plain].concat()),
        _ => Err("has a damaged page".into()),
    }
}

/// A column's values on a page, those that are null as `None`; a value's level is `levels` where it is not.
///
/// # Errors
/// They are damaged, or written in an unknown encoding.
pub(super) fn values<T: Plain>(
    header: &Header,
    page: &[u8],
    levels: usize,
    dictionary: &[T],
) -> Result<Vec<Option<T>>, String> {
    let damaged = || "has a damaged page".to_owned();
    if header.values > MAX_VALUES {
        return Err(format!("has a page of more than {MAX_VALUES} values"));
    }
    let width = (usize::BITS - levels.leading_zeros()) as u8;
    let (bits, page) = match header.kind {
        Kind::Second { levels, .. } => page.split_at(levels),
        _ if levels > 0 => {
            let (length, rest) = page.split_first_chunk().ok_or_else(damaged)?;
            let length = u32::from_le_bytes(*length) as usize;
            rest.split_at_checked(length).ok_or_else(damaged)?
        }
        _ => (&[][..], page),
    };
    let there = runs(bits, width, header.values).ok_or_else(damaged)?;
    let there: Vec<bool> = there
        .into_iter()
        .map(|level| level as usize == levels)
        .collect();
    let count = there.iter().filter(|there| **there).count();
    let values = match header.encoding {
        0 => plain(page, count).ok_or_else(damaged)?,
        2 | 8 => {
            let places = match page.split_first() {
                None if count == 0 => vec![],
                None => return Err(damaged()),
                Some((&width, indices)) => runs(indices, width, count).ok_or_else(damaged)?,
            };
            let value = |place: &u32| dictionary.get(*place as usize).cloned();
            let values: Option<Vec<T>> = places.iter().map(value).collect();
            values.ok_or_else(damaged)?
        }
        other => {
            return Err(format!(
                "is written in encoding {other} of Parquet; write it with PLAIN or a dictionary"
            ));
        }
    };
    let mut values = values.into_iter();
    let value = |there: bool| if there { values.next() } else { None };
    Ok(there.into_iter().map(value).collect())
}

/// A type of values.
pub(super) trait Plain: Clone {
    /// Takes a value from the front of `bytes`.
    fn take(bytes: &mut &[u8]) -> Option<Self>;
}

impl Plain for Vec<u8> {
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *bytes = rest;
        Some(value.to_vec())
    }
}

macro_rules! plain_numbers {
    ($($number:ty),*) => {$(
        impl Plain for $number {
            fn take(bytes: &mut &[u8]) -> Option<Self> {
                let (value, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(<$number>::from_le_bytes(*value))
            }
        }
    )*};
}
plain_numbers!(i32, i64, f32, f64);

/// `count` values, one after another; `None` if there are fewer.
pub(super) fn plain<T: Plain>(mut bytes: &[u8], count: usize) -> Option<Vec<T>> {
    (0..count).map(|_| T::take(&mut bytes)).collect()
}

/// `count` numbers of `width` bits, in runs of equal ones and of packed ones; `None` if there are fewer.
fn runs(mut bytes: &[u8], width: u8, count: usize) -> Option<Vec<u32>> {
    if width > 32 {
        return None;
    }
    let mut numbers = Vec::new();
    if width == 0 {
        return Some(vec![0; count]);
    }
    while numbers.len() < count {
        let mut head = 0u64;
        for shift in (0..35).step_by(7) {
            let (&byte, rest) = bytes.split_first()?;
            bytes = rest;
            head |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let left = count - numbers.len();
        if head & 1 == 0 {
            let (value, rest) = bytes.split_at_checked(usize::from(width).div_ceil(8))?;
            bytes = rest;
            let value = value
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u32::from(byte));
            let length = usize::try_from(head >> 1).ok()?;
            if length == 0 {
                return None;
            }
            numbers.resize(numbers.len() + length.min(left), value);
        } else {
            // Groups of eight.
            let length = usize::try_from(head >> 1).ok()?.checked_mul(width.into())?;
            let (packed, rest) = bytes.split_at_checked(length)?;
            if length == 0 {
                return None;
            }
            bytes = rest;
            let mut bits = 0u64;
            let mut held = 0;
            let mut packed = packed.iter();
            for _ in 0..left.min(length / usize::from(width) * 8) {
                while held < width {
                    bits |= u64::from(*packed.next()?) << held;
                    held += 8;
                }
                numbers.push((bits & ((1u64 << width) - 1)) as u32);
                bits >>= width;
                held -= width;
            }
        }
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_both_kinds_are_read() {
        // Five times 1; then 0 to 7 in three bits (the format's own example).
        assert_eq!(runs(&[10, 1], 1, 5), Some(vec![1; 5]));
        let packed = [3, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        assert_eq!(runs(&packed, 3, 8), Some((0..8).collect()));
        assert_eq!(runs(&packed, 3, 6), Some((0..6).collect()));
        let both = [&[4, 9][..], &[3, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        assert_eq!(runs(&both, 8, 4), Some(vec![9, 9, 1, 2]));
        assert_eq!(runs(&[], 0, 3), Some(vec![0; 3]));
        for damaged in [&[][..], &[0, 1], &[1], &[10], &[0xff; 6]] {
            assert_eq!(runs(damaged, 1, 5), None, "{damaged:?}");
        }
        assert_eq!(runs(&[10, 1], 33, 5), None);
    }
}
