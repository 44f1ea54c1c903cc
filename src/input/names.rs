//! The names of pictures.

use std::cmp::Ordering;
use std::path::Path;

/// A relative path as an id: its parts joined by `/`; bytes that are no UTF-8 as `%FF`.
pub(crate) fn id_of(path: &Path) -> String {
    let mut id = String::new();
    for part in path.components() {
        if !id.is_empty() {
            id.push('/');
        }
        for chunk in part.as_os_str().as_encoded_bytes().utf8_chunks() {
            id.push_str(chunk.valid());
            for byte in chunk.invalid() {
                id.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    id
}

/// The `n`-th name like `name`: `a/x~2.png` for `a/x.png`.
pub(crate) fn numbered(name: &str, n: usize) -> String {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].rfind('.') {
        Some(dot) if dot > 0 => {
            let (stem, extension) = name.split_at(file + dot);
            format!("{stem}~{n}{extension}")
        }
        _ => format!("{name}~{n}"),
    }
}

/// Compares ids in the order of folders and arrays: path part by path part, rows of arrays by number.
pub(crate) fn in_order(a: &str, b: &str) -> Ordering {
    let row = |id: &str| -> Option<(String, u64)> {
        let (array, row) = id.rsplit_once('#')?;
        Some((array.to_owned(), row.parse().ok()?))
    };
    match (row(a), row(b)) {
        (Some((a, i)), Some((b, j))) if a == b => i.cmp(&j),
        _ => a.split('/').cmp(b.split('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_before_the_extension() {
        assert_eq!(numbered("a/x.png", 2), "a/x~2.png");
        assert_eq!(numbered("v1.0/x", 3), "v1.0/x~3");
        assert_eq!(numbered(".hidden", 2), ".hidden~2");
    }

    #[cfg(unix)]
    #[test]
    fn ids_of_names_that_are_no_text_are_kept_apart() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a/\xff.png"));
        assert_eq!(id_of(path), "a/%FF.png");
    }
}
