//! CPU time and memory of processes, as Linux counts them.

use anyhow::{Context, Result};

/// What `/proc` counts in: always a hundredth of a second (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process, of all its threads.
pub(super) fn of_process(id: u32) -> Result<f64> {
    seconds(&format!("/proc/{id}/stat"), 0)
}

/// CPU seconds of this process and of those that it waited for.
pub(super) fn of_us() -> Result<f64> {
    Ok(seconds("/proc/self/stat", 0)? + of_children()?)
}

/// CPU seconds of all the processes that this one started and waited for, and of theirs.
pub(super) fn of_children() -> Result<f64> {
    seconds("/proc/self/stat", 2)
}

/// The sum of `utime` and `stime` (skip 0), or of `cutime` and `cstime` (skip 2).
fn seconds(path: &str, skip: usize) -> Result<f64> {
    let stat = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    // The name in parentheses may hold anything; what follows are numbers, utime the twelfth.
    let (_, fields) = stat.rsplit_once(')').with_context(|| format!("{path} is not as expected"))?;
    let ticks = fields.split_whitespace().skip(11 + skip).take(2);
    Ok(ticks.map(|field| field.parse::<f64>()).sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

/// The load averages of the last 1, 5 and 15 minutes: who else was at work tells what a rate is worth.
pub(super) fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

/// The most memory that a process ever had resident, in MiB, its own code among it.
pub(super) fn peak_mib(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(kib.with_context(|| format!("no VmHWM in {path}"))?.trim().parse::<f64>()? / 1024.0)
}
