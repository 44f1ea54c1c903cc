//! The machine's own memory.

/// Bytes that programs can still have without swapping; `None` where the system does not say (Linux
/// does, in `/proc/meminfo`).
pub(super) fn free_bytes() -> Option<u64> {
    available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read_and_nothing_else() {
        let meminfo = "MemTotal:       24666876 kB\nMemFree: 7 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(available(meminfo), Some(20_480_000_000));
        for unknown in ["", "MemFree: 7 kB", "MemAvailable: 7", "MemAvailable: x kB"] {
            assert_eq!(available(unknown), None, "{unknown}");
        }
    }
}
