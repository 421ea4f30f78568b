//! Why executors die, and when they are started again.

use std::time::Duration;

/// What to say about an executor's end.
pub fn describe_exit(status: &str, last_lines: &str) -> String {
    let is_library_missing = last_lines.contains("cannot open shared object file");
    if is_library_missing {
        let line = last_lines
            .lines()
            .find(|line| line.contains("cannot open shared object file"))
            .unwrap_or_default();
        return format!(
            "{status}: {line}. A library of libtorch is missing: run `make setup`, which fetches it"
        );
    }
    match last_lines.lines().last() {
        Some(line) => format!("{status}: {line}"),
        None => status.to_owned(),
    }
}

/// Pause before the start after the `deaths`-th death within a minute: 0, 0.5, 1, 2 s …
pub fn restart_wait(deaths: usize) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(500) * 2u32.pow((more - 2).min(6) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claim: a missing libtorch is named, with what to do about it.
    #[test]
    fn a_missing_library_is_explained() {
        let line = "evoring-executor: error while loading shared libraries: libtorch_cpu.so: cannot open shared object file: No such file";
        let text = describe_exit("exit status: 127", line);
        assert!(
            text.contains("libtorch_cpu.so") && text.contains("make setup"),
            "{text}"
        );
        assert_eq!(
            describe_exit("signal: 9 (SIGKILL)", ""),
            "signal: 9 (SIGKILL)"
        );
    }

    /// Claim: the first restart is immediate, later ones wait longer, up to a bound.
    #[test]
    fn waits_grow() {
        let waits: Vec<u64> = [1, 2, 3, 4, 100]
            .map(|deaths| restart_wait(deaths).as_millis() as u64)
            .to_vec();
        assert_eq!(waits, [0, 500, 1000, 2000, 32_000]);
    }
}
