//! Text that people write: UTF-8, in front of which programs for Windows put a byte order mark.

use std::io::{BufRead, Error, ErrorKind, Read, Result};

/// The byte order mark in UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads a whole text of at most `most` bytes, without its mark.
///
/// # Errors
/// The text cannot be read, is longer, or is not UTF-8.
pub(crate) fn read(reader: impl Read, most: u64) -> Result<String> {
    let refused = |message: String| Error::new(ErrorKind::InvalidData, message);
    let mut bytes = Vec::new();
    reader
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(refused(format!("is longer than {most} bytes")));
    }
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(refused("is UTF-16; save it as UTF-8".into()));
    }
    String::from_utf8(bytes).map_err(|_| refused("is not UTF-8".into()))
}

/// Reads a line of at most `most` bytes, without a mark in front of it: files that were joined have marks in the
/// middle. A longer line is cut there. False at the end.
///
/// # Errors
/// The line cannot be read.
pub(crate) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, most: u64) -> Result<bool> {
    line.clear();
    let some = reader.by_ref().take(most).read_until(b'\n', line)? > 0;
    if line.starts_with(MARK) {
        line.drain(..MARK.len());
        if !line.ends_with(b"\n") {
            let room = MARK.len() as u64;
            reader.by_ref().take(room).read_until(b'\n', line)?;
        }
    }
    Ok(some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_left_out_and_lengths_kept() {
        let text = |bytes: &[u8]| read(bytes, 8).map_err(|error| error.to_string());
        assert_eq!(text("\u{feff}a\u{feff}".as_bytes()), Ok("a\u{feff}".into()));
        assert_eq!(text(b""), Ok(String::new()));
        assert!(text(b"123456789").unwrap_err().contains("longer than 8"));
        assert!(text(b"\xff\xfea\0").unwrap_err().contains("UTF-16"));
        assert!(text(b"\xff").unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn lines_lose_their_mark_wherever_they_are() {
        let text = "\u{feff}one\n\u{feff}\n\u{feff}123456789\nlast";
        let mut reader = std::io::BufReader::with_capacity(1, text.as_bytes());
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut reader, &mut line, 8).unwrap() {
            lines.push(String::from_utf8(line.clone()).unwrap());
        }
        assert_eq!(lines, ["one\n", "\n", "12345678", "9\n", "last"]);
    }
}
