//! Bearer keys.

use std::path::Path;

use axum::http::{HeaderMap, StatusCode, header};
use backstitch::{Error, Result};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::refusal::Refusal;

/// The keys that requests may show.
pub struct Keys(Vec<Vec<u8>>);

impl Keys {
    /// Reads a file of keys, one a line; empty lines are left out.
    ///
    /// # Errors
    /// The file cannot be read, or has no key.
    pub fn open(path: &Path) -> Result<Keys> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let keys = text.lines().map(str::trim).filter(|key| !key.is_empty());
        let keys: Vec<Vec<u8>> = keys.map(|key| key.as_bytes().to_vec()).collect();
        match keys.is_empty() {
            true => Err(Error::file(path, "has no key: write one a line")),
            false => Ok(Keys(keys)),
        }
    }

    /// The number of the key that a request shows. How long it takes depends on the keys' lengths alone, not on what
    /// they have in common.
    ///
    /// # Errors
    /// It shows none of them.
    pub fn check(&self, request: &HeaderMap) -> Result<usize, Refusal> {
        let shown = request
            .get(header::AUTHORIZATION)
            .map(|value| value.as_bytes());
        let (scheme, shown) = shown
            .and_then(|value| value.split_at_checked(7))
            .unwrap_or_default();
        let mut found = u64::MAX;
        for (number, key) in self.0.iter().enumerate() {
            let same: Choice = key.as_slice().ct_eq(shown);
            found.conditional_assign(&(number as u64), same);
        }
        if !scheme.eq_ignore_ascii_case(b"bearer ") || found == u64::MAX {
            let how = "show a key of the service: Authorization: Bearer KEY";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, how));
        }
        Ok(found as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert!(Keys::open(file.path()).is_err());
        file.write_all(b"first-key\n\n second-key \n").unwrap();
        let keys = Keys::open(file.path()).unwrap();
        let check = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            keys.check(&headers)
                .map_err(|refusal| refusal.status.as_u16())
        };
        assert_eq!(check("Bearer first-key"), Ok(0));
        assert_eq!(check("bearer second-key"), Ok(1));
        for wrong in [
            "Bearer ",
            "Bearer first",
            "Bearer first-key2",
            "Basic first-key",
            "x",
            "",
        ] {
            assert_eq!(check(wrong), Err(401), "{wrong}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
    }
}
