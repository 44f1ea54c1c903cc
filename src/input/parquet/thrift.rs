//! Thrift's compact protocol, in which Parquet writes its footer and the headers of its pages
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>).

/// How deep structs and lists may lie in one another; Parquet's lie five deep.
const MAX_DEPTH: usize = 16;

/// A value, without the names of its fields.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Integer(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    /// The fields that are there, by number.
    Struct(Vec<(i64, Value<'a>)>),
    /// A floating-point number, which nothing here is about.
    Float,
}

impl<'a> Value<'a> {
    /// A field of a struct.
    pub(super) fn field(&self, number: i64) -> Option<&Value<'a>> {
        let Value::Struct(fields) = self else {
            return None;
        };
        let found = fields.iter().find(|(its, _)| *its == number);
        found.map(|(_, value)| value)
    }

    /// An integer field of a struct; booleans are 0 and 1.
    pub(super) fn integer(&self, number: i64) -> Option<i64> {
        match self.field(number) {
            Some(&Value::Integer(value)) => Some(value),
            _ => None,
        }
    }

    /// A list field of a struct; empty where it is not there.
    pub(super) fn list(&self, number: i64) -> &[Value<'a>] {
        match self.field(number) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// A text field of a struct.
    pub(super) fn text(&self, number: i64) -> Option<&'a str> {
        match self.field(number)? {
            Value::Bytes(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Reads a struct from the start of `bytes`; gives how many it takes. `None` if it is damaged or cut short.
///
/// A value takes at least a byte, so that what is allocated is bounded by the length of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Option<(Value<'_>, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.structure(0)?;
    Some((value, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn structure(&mut self, depth: usize) -> Option<Value<'a>> {
        let mut fields = Vec::new();
        let mut number = 0i64;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == 0 {
                return Some(Value::Struct(fields));
            }
            number = match head >> 4 {
                0 => self.integer()?,
                step => number.checked_add(step.into())?,
            };
            let value = match kind {
                1 => Value::Integer(1),
                2 => Value::Integer(0),
                kind => self.value(kind, depth + 1)?,
            };
            fields.push((number, value));
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<Value<'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match kind {
            // A boolean in a list, and a byte.
            1..=3 => Value::Integer((self.byte()? as i8).into()),
            4..=6 => Value::Integer(self.integer()?),
            7 => {
                self.take(8)?;
                Value::Float
            }
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            9 | 10 => {
                let head = self.byte()?;
                let length = match head >> 4 {
                    15 => usize::try_from(self.varint()?).ok()?,
                    short => short.into(),
                };
                if length > self.bytes.len() - self.at {
                    return None;
                }
                let items = (0..length).map(|_| self.value(head & 0x0f, depth + 1));
                Value::List(items.collect::<Option<_>>()?)
            }
            12 => self.structure(depth)?,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_read_and_damaged_ones_are_none() {
        // 1: i32 150, 2: "ab", 3: [1, -1], 20: true, 21: {1: 7}
        let bytes = [
            0x15, 0xac, 0x02, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 1, 0x01, 40, 0x1c, 0x15, 14, 0, 0,
        ];
        let (value, length) = read(&bytes).unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(value.integer(1), Some(150));
        assert_eq!(value.text(2), Some("ab"));
        assert_eq!(value.list(3), [Value::Integer(1), Value::Integer(-1)]);
        assert_eq!(value.integer(20), Some(1));
        assert_eq!(value.field(21).and_then(|inner| inner.integer(1)), Some(7));
        assert_eq!(value.field(4), None);
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), None);
        }
        // Structs in structs without end, and a list of more than there is.
        assert_eq!(read(&[0x1c; 64]), None);
        assert_eq!(read(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]), None);
    }
}
