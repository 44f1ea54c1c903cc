//! `--shard i/n`: one of n parts of a data set, each for a process of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// One of the parts that a data set is split into by a hash of its pictures' ids.
///
/// The split depends on the ids only: not on the order of the list, the machine or the version. Shards are
/// numbered from 0, like `SLURM_ARRAY_TASK_ID` with `--array=0-7`, and like `JOB_COMPLETION_INDEX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard {
    /// Number of this shard, from 0 and below `of`.
    pub index: u32,
    /// Number of shards, at least 1.
    pub of: u32,
}

impl Shard {
    /// Whether the picture called `id` belongs to this shard.
    pub fn holds(self, id: &str) -> bool {
        xxh3_64(id.as_bytes()) % u64::from(self.of) == u64::from(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        let Some((index, of)) = numbers else {
            return Err("write i/n, such as 0/8 for the first of 8 shards".into());
        };
        match of {
            0 => Err("there must be at least 1 shard".into()),
            _ if index >= of => Err(format!("the {of} shards are numbered from 0 to {}", of - 1)),
            _ => Ok(Shard { index, of }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_from_0_on() {
        assert_eq!("0/1".parse(), Ok(Shard { index: 0, of: 1 }));
        assert_eq!("7/8".parse::<Shard>().unwrap().to_string(), "7/8");
        for wrong in ["", "1", "0/0", "/4", "4/", "-1/4", "0/x", "0/99999999999"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
        let error = "8/8".parse::<Shard>().unwrap_err();
        assert!(error.contains("from 0 to 7"), "{error}");
    }

    #[test]
    fn every_picture_is_in_one_shard_and_shards_are_even() {
        let of = 8;
        let mut sizes = vec![0; of as usize];
        for i in 0..8000 {
            let id = format!("n{:03}/{i}.png", i % 17);
            let holders: Vec<u32> = (0..of)
                .filter(|&index| Shard { index, of }.holds(&id))
                .collect();
            let [holder] = holders[..] else {
                panic!("{id}: {holders:?}");
            };
            sizes[holder as usize] += 1;
        }
        assert!(
            sizes.iter().all(|size| (850..1150).contains(size)),
            "{sizes:?}"
        );
    }

    #[test]
    fn the_split_never_changes() {
        // Shards of one dataset may be computed by different versions on different machines.
        let shard = |id| (0..16).find(|&index| Shard { index, of: 16 }.holds(id));
        let ids = ["a.png", "n01440764/b.JPEG", "batch.npy#17"];
        let xxh3 = ids.map(|id| (xxh3_64(id.as_bytes()) % 16) as u32);
        assert_eq!(ids.map(shard), xxh3.map(Some));
    }
}
