//! Parquet files with a column of encoded pictures, as Hugging Face's data sets have them: a struct with the field
//! `bytes`, or bytes alone, beside a column of labels.
//!
//! Only what such files need is read: columns of bytes and of integers that are not lists. A file is opened by its
//! footer and the headers of its pages; a page is unpacked when its first picture is asked for.

mod page;
mod thrift;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use self::page::{Header, Kind, Plain};
use self::thrift::Value;
use super::array_names::LABELS;
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::picture::{MAX_BYTES, Picture};

/// The longest footer that is read, in bytes.
const MAX_FOOTER: u64 = 16 << 20;
/// The longest header of a page, in bytes.
const MAX_HEADER: u64 = 1 << 20;
/// The most columns and structs of a file, and how deep they may lie in one another: a column's path has a name for
/// each, so that a footer of nothing but structs would take the square of its length.
const MAX_ELEMENTS: usize = 1 << 16;
const MAX_DEPTH: usize = 32;
/// The most rows of a file.
const MAX_ROWS: usize = 1 << 24;
/// What columns of pictures are called, where there are several of bytes.
const PICTURES: [&str; 4] = ["image", "img", "picture", "bytes"];

/// A Parquet file with a column of pictures; none is decoded yet.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    path: PathBuf,
    file: Mutex<Open>,
    chunks: Vec<Chunk>,
    pages: Vec<Page>,
    rows: usize,
    labels: Option<Vec<Option<u32>>>,
}

/// The pictures' bytes on a page; `None` where a row has none.
type Bytes = Vec<Option<Vec<u8>>>;

/// The file, and the pictures of the page that was read last.
#[derive(Debug)]
struct Open {
    file: File,
    latest: Option<(usize, Arc<Bytes>)>,
}

/// A column of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    /// Its place among the columns of a row group.
    index: usize,
    /// Parquet's number of its type.
    kind: i64,
    /// How many of it and the structs that it lies in may be null.
    levels: usize,
}

/// A column's part in a row group.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    codec: i64,
    levels: usize,
    dictionary: Option<(u64, Header)>,
}

/// A page of pictures.
#[derive(Clone, Copy, Debug)]
struct Page {
    chunk: usize,
    /// The row of its first picture.
    start: usize,
    /// Where its content starts in the file.
    at: u64,
    header: Header,
}

impl ParquetFile {
    /// Opens a Parquet file: the column of pictures is the only one of bytes, or of those the one called `image`,
    /// `img`, `picture` or `bytes`; labels are a column of whole numbers called `label`, `labels`, `y`, `target`,
    /// `targets` or `fine_label`, in which null and -1 mean none. A column of such a name that holds anything else is
    /// named in a warning and left.
    ///
    /// # Errors
    /// It is no Parquet file, is damaged or encrypted, has no such column of pictures, or more than 16 million rows;
    /// the labels are compressed or written in a way that is not read.
    pub(crate) fn open(path: &Path) -> Result<ParquetFile> {
        let refused = |message: &str| Error::file(path, message);
        let mut file = open_regular(path)?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let footer = footer(&mut file, length).map_err(|message| refused(&message))?;
        let damaged = || refused("is a damaged Parquet file");
        let (footer, _) = thrift::read(&footer).ok_or_else(damaged)?;
        let leaves = leaves(footer.list(2)).ok_or_else(damaged)?;
        let pictures = pictures(&leaves).map_err(|message| refused(&message))?;
        let called = |name: &str| {
            let named = |(path, _): &&(Vec<&str>, Leaf)| path[0].eq_ignore_ascii_case(name);
            leaves.iter().find(named)
        };
        let labels = LABELS
            .iter()
            .chain(&["fine_label"])
            .find_map(|name| called(name));
        let labels = labels.filter(|(column, leaf)| {
            let usable = column.len() == 1 && leaf.is_number();
            if !usable {
                let (path, column) = (path.display(), column[0]);
                log::warn!("{path}: its column {column} holds no whole numbers; it is not used");
            }
            usable
        });
        let mut opened = ParquetFile {
            path: path.to_owned(),
            file: Mutex::new(Open { file, latest: None }),
            chunks: Vec::new(),
            pages: Vec::new(),
            rows: 0,
            labels: labels.map(|_| Vec::new()),
        };
        for group in footer.list(4) {
            let before = opened.rows;
            opened.add_pictures(group, pictures)?;
            if let Some((_, leaf)) = labels {
                let labels = opened.read_labels(group, *leaf)?;
                if labels.len() != opened.rows - before {
                    return Err(damaged());
                }
                opened.labels.get_or_insert_default().extend(labels);
            }
        }
        match opened.rows {
            0 => Err(refused("has no rows")),
            _ => Ok(opened),
        }
    }

    /// Number of pictures.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// A picture's true label, if the file has it.
    pub(crate) fn label(&self, row: usize) -> Option<usize> {
        self.labels.as_ref()?[row].map(|label| label as usize)
    }

    /// Decodes a picture.
    ///
    /// # Errors
    /// The row has no picture, or it is damaged.
    pub(crate) fn load(&self, row: usize) -> Result<Picture> {
        let refused = |message: String| Error::file(&self.path, format!("row {row} {message}"));
        let page = self.pages.partition_point(|page| page.start <= row) - 1;
        let mut open = self.file.lock().expect("no thread panics with the file");
        let pictures = match &open.latest {
            Some((its, pictures)) if *its == page => pictures.clone(),
            _ => {
                let pictures = Arc::new(self.read_page(&mut open.file, page).map_err(refused)?);
                open.latest = Some((page, pictures.clone()));
                pictures
            }
        };
        drop(open);
        let bytes = pictures.get(row - self.pages[page].start);
        match bytes.and_then(Option::as_ref) {
            Some(bytes) => Picture::decode(bytes).map_err(refused),
            None => Err(refused("has no bytes of a picture".into())
                .hint("embed the pictures, where the rows only name files")),
        }
    }

    /// Lists the pages of a row group's column of pictures.
    fn add_pictures(&mut self, group: &Value<'_>, leaf: Leaf) -> Result<()> {
        let Open { file, .. } = self.file.get_mut().expect("no thread panics with the file");
        let (chunk, pages) =
            walk(file, group, leaf).map_err(|message| Error::file(&self.path, message))?;
        for (at, header) in pages {
            self.pages.push(Page {
                chunk: self.chunks.len(),
                start: self.rows,
                at,
                header,
            });
            self.rows += header.values;
            if self.rows > MAX_ROWS {
                let message = format!("has more than {MAX_ROWS} rows");
                return Err(Error::file(&self.path, message).hint("write it in parts"));
            }
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// The labels of a row group.
    fn read_labels(&mut self, group: &Value<'_>, leaf: Leaf) -> Result<Vec<Option<u32>>> {
        let refused = |message: String| Error::file(&self.path, format!("its labels: {message}"));
        let Open { file, .. } = self.file.get_mut().expect("no thread panics with the file");
        let labels = match leaf.kind {
            INT32 => numbers::<i32>(file, group, leaf),
            INT64 => numbers::<i64>(file, group, leaf),
            FLOAT => numbers::<f32>(file, group, leaf),
            _ => numbers::<f64>(file, group, leaf),
        };
        let labels = labels.map_err(refused)?;
        let label = |label: Option<f64>| match label {
            None | Some(-1.0) => Ok(None),
            Some(label) if label.is_nan() => Ok(None),
            Some(label) if label.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&label) => {
                Ok(Some(label as u32))
            }
            Some(label) => Err(refused(format!(
                "{label} is none; labels are integers from 0"
            ))),
        };
        labels.into_iter().map(label).collect()
    }

    /// The pictures' bytes on a page.
    fn read_page(&self, file: &mut File, page: usize) -> Result<Bytes, String> {
        let Page {
            chunk, at, header, ..
        } = self.pages[page];
        let chunk = self.chunks[chunk];
        let dictionary = chunk.dictionary(file)?;
        chunk.values(file, at, &header, &dictionary)
    }
}

impl Leaf {
    fn is_number(&self) -> bool {
        matches!(self.kind, INT32 | INT64 | FLOAT | DOUBLE)
    }
}

impl Chunk {
    /// The values that the column's pages name by number; none where it has no such page.
    fn dictionary<T: Plain>(&self, file: &mut File) -> Result<Vec<T>, String> {
        let Some((at, header)) = self.dictionary else {
            return Ok(Vec::new());
        };
        let bytes = page::unpack(self.codec, &header, &read(file, at, header.packed)?)?;
        page::plain(&bytes, header.values).ok_or_else(|| "has a damaged page".into())
    }

    /// The values of a page whose content starts at `at`.
    fn values<T: Plain>(
        &self,
        file: &mut File,
        at: u64,
        header: &Header,
        dictionary: &[T],
    ) -> Result<Vec<Option<T>>, String> {
        let bytes = page::unpack(self.codec, header, &read(file, at, header.packed)?)?;
        page::values(header, &bytes, self.levels, dictionary)
    }
}

/// Parquet's numbers of types.
const INT32: i64 = 1;
const INT64: i64 = 2;
const FLOAT: i64 = 4;
const DOUBLE: i64 = 5;
const BYTE_ARRAY: i64 = 6;
/// What is neither a number nor bytes here: text, lists, and all other types.
const UNREAD: i64 = -1;

/// The footer of a file of `length` bytes.
fn footer(file: &mut File, length: u64) -> Result<Vec<u8>, String> {
    let no_parquet = || "is no Parquet file, or is cut short".to_owned();
    let end = length.checked_sub(8).ok_or_else(no_parquet)?;
    let tail = read(file, end, 8)?;
    let (size, magic) = tail.split_first_chunk().ok_or_else(no_parquet)?;
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err("is an encrypted Parquet file; write it without".into()),
        _ => return Err(no_parquet()),
    }
    let size = u64::from(u32::from_le_bytes(*size));
    if size > MAX_FOOTER {
        return Err(format!("has a footer of more than {MAX_FOOTER} bytes"));
    }
    let start = end.checked_sub(size).ok_or_else(no_parquet)?;
    read(file, start, size as usize)
}

/// `count` bytes of the file from `at` on.
fn read(file: &mut File, at: u64, count: usize) -> Result<Vec<u8>, String> {
    let cut = || "is cut short".to_owned();
    if count > MAX_BYTES {
        return Err("has a page of more than 1 GiB".into());
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at)).map_err(|_| cut())?;
    let mut part = file.take(count as u64);
    part.read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    match bytes.len() == count {
        true => Ok(bytes),
        false => Err(cut()),
    }
}

/// The columns of a schema with their paths. `None` if the schema is damaged.
fn leaves<'a>(schema: &[Value<'a>]) -> Option<Vec<(Vec<&'a str>, Leaf)>> {
    /// A group whose children come next: how many are left, its name, and what it means for its columns.
    struct Group<'a> {
        left: usize,
        name: &'a str,
        nullable: usize,
        repeated: bool,
    }
    let (root, elements) = schema.split_first()?;
    if elements.len() > MAX_ELEMENTS {
        return None;
    }
    let children = |element: &Value<'_>| match element.integer(5) {
        Some(count) => usize::try_from(count).ok(),
        None => Some(0),
    };
    let mut groups = vec![Group {
        left: children(root)?,
        name: "",
        nullable: 0,
        repeated: false,
    }];
    let mut leaves = Vec::new();
    for element in elements {
        while groups.last()?.left == 0 {
            groups.pop();
        }
        let group = groups.last_mut()?;
        group.left -= 1;
        let name = element.text(4)?;
        let repetition = element.integer(3).unwrap_or(0);
        let nullable = group.nullable + usize::from(repetition != 0);
        let repeated = group.repeated || repetition == 2;
        match (children(element)?, element.integer(1)) {
            (0, Some(kind)) => {
                // Text, dates and decimals have a converted type; whole numbers of other widths have theirs.
                let plain = matches!(element.integer(6), None | Some(11..=18));
                let read = plain && !repeated && nullable <= page::MAX_LEVEL;
                let outer = groups[1..].iter().map(|group| group.name);
                let leaf = Leaf {
                    index: leaves.len(),
                    kind: if read { kind } else { UNREAD },
                    levels: nullable,
                };
                leaves.push((outer.chain([name]).collect(), leaf));
            }
            (0, None) => return None,
            _ if groups.len() == MAX_DEPTH => return None,
            (left, _) => groups.push(Group {
                left,
                name,
                nullable,
                repeated,
            }),
        }
    }
    Some(leaves)
}

/// The column of pictures.
fn pictures(leaves: &[(Vec<&str>, Leaf)]) -> Result<Leaf, String> {
    let columns: Vec<(&str, Leaf)> = leaves
        .iter()
        .filter(|(_, leaf)| leaf.kind == BYTE_ARRAY)
        .filter_map(|(path, leaf)| match path[..] {
            [name] | [name, "bytes"] => Some((name, *leaf)),
            _ => None,
        })
        .collect();
    let called = PICTURES
        .iter()
        .find_map(|name| columns.iter().find(|(its, _)| its == name));
    match (called, &columns[..]) {
        (Some((_, leaf)), _) | (None, [(_, leaf)]) => Ok(*leaf),
        (None, []) => Err("has no column of pictures: bytes, or a struct with bytes".into()),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|(name, _)| *name).collect();
            Err(format!(
                "has several columns of bytes ({}); call that of the pictures image",
                names.join(", ")
            ))
        }
    }
}

/// A column's part in a row group, and where its pages' contents start.
fn walk(
    file: &mut File,
    group: &Value<'_>,
    leaf: Leaf,
) -> Result<(Chunk, Vec<(u64, Header)>), String> {
    let damaged = || "is a damaged Parquet file".to_owned();
    let about = group
        .list(1)
        .get(leaf.index)
        .and_then(|column| column.field(3))
        .filter(|about| about.integer(1) == Some(leaf.kind))
        .ok_or_else(damaged)?;
    let number = |field| {
        about
            .integer(field)
            .and_then(|value| u64::try_from(value).ok())
    };
    let wanted = number(5).filter(|&count| count <= MAX_ROWS as u64);
    let (wanted, bytes) = wanted.zip(number(7)).ok_or_else(damaged)?;
    let start = number(9).ok_or_else(damaged)?;
    let start = number(11)
        .filter(|&dictionary| dictionary > 0)
        .map_or(start, |d| d.min(start));
    let end = start.checked_add(bytes).ok_or_else(damaged)?;
    let mut chunk = Chunk {
        codec: about.integer(4).ok_or_else(damaged)?,
        levels: leaf.levels,
        dictionary: None,
    };
    let (mut at, mut seen) = (start, 0);
    let mut pages = Vec::new();
    while seen < wanted {
        let most = end.saturating_sub(at).min(MAX_HEADER);
        // A header has some twenty bytes; what is longer has statistics.
        let mut header = |most: u64| -> Result<_, String> {
            let bytes = read(file, at, most as usize)?;
            let read = thrift::read(&bytes);
            Ok(read.map(|(value, length)| (Header::of(&value), length)))
        };
        let found = match header(most.min(512))? {
            None if most > 512 => header(most)?,
            found => found,
        };
        let (header, length) = found.ok_or_else(damaged)?;
        let header = header.ok_or_else(damaged)?;
        let content = at + length as u64;
        match header.kind {
            Kind::Dictionary => chunk.dictionary = Some((content, header)),
            Kind::Other => {}
            Kind::First | Kind::Second { .. } => {
                seen += header.values as u64;
                pages.push((content, header));
            }
        }
        at = content + header.packed as u64;
        if at > end {
            return Err(damaged());
        }
    }
    match seen == wanted {
        true => Ok((chunk, pages)),
        false => Err(damaged()),
    }
}

/// All numbers of a column in a row group.
fn numbers<T: Plain + Number>(
    file: &mut File,
    group: &Value<'_>,
    leaf: Leaf,
) -> Result<Vec<Option<f64>>, String> {
    let values = column::<T>(file, group, leaf)?;
    Ok(values.into_iter().map(|value| value.map(T::wide)).collect())
}

/// A number of any type; labels are far below 2^53, up to which integers are exact.
trait Number {
    fn wide(self) -> f64;
}

impl Number for i32 {
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Number for i64 {
    fn wide(self) -> f64 {
        self as f64
    }
}

impl Number for f32 {
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Number for f64 {
    fn wide(self) -> f64 {
        self
    }
}

/// All values of a column in a row group.
fn column<T: Plain>(
    file: &mut File,
    group: &Value<'_>,
    leaf: Leaf,
) -> Result<Vec<Option<T>>, String> {
    let (chunk, pages) = walk(file, group, leaf)?;
    let dictionary = chunk.dictionary(file)?;
    let mut values = Vec::new();
    for (at, header) in pages {
        values.extend(chunk.values(file, at, &header, &dictionary)?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema's element; a column if it has no children.
    fn element(children: i64) -> Value<'static> {
        let mut fields = vec![(4, Value::Bytes(b"x")), (5, Value::Integer(children))];
        if children == 0 {
            fields.push((1, Value::Integer(INT32)));
        }
        Value::Struct(fields)
    }

    #[test]
    fn schemas_without_bound_are_refused() {
        let nested = |depth: usize| -> Vec<Value<'_>> {
            let groups = std::iter::repeat_n(element(1), depth);
            groups.chain([element(0)]).collect()
        };
        let deep = nested(MAX_DEPTH);
        assert_eq!(leaves(&deep).unwrap()[0].0.len(), MAX_DEPTH);
        assert!(leaves(&nested(MAX_DEPTH + 1)).is_none());
        let wide = |columns: usize| -> Vec<Value<'_>> {
            let all = std::iter::repeat_n(element(0), columns);
            [element(columns as i64)].into_iter().chain(all).collect()
        };
        assert_eq!(leaves(&wide(MAX_ELEMENTS)).unwrap().len(), MAX_ELEMENTS);
        assert!(leaves(&wide(MAX_ELEMENTS + 1)).is_none());
        // A root that promises more than there is, and a struct of nothing.
        assert_eq!(leaves(&[element(3), element(0)]).unwrap().len(), 1);
        assert!(leaves(&[]).is_none());
    }
}
