//! Why executors die, and when they are started again.

use std::time::Duration;

/// The line by which the system's loader tells that the program lacks a library; whoever starts the
/// program again gets it again.
pub fn missing_library(last_lines: &str) -> Option<&str> {
    let is_loader = |line: &&str| {
        line.contains("error while loading shared libraries")
            && line.contains("cannot open shared object file")
    };
    last_lines.lines().find(is_loader)
}

/// What to say about an executor's end.
pub fn describe_exit(status: &str, last_lines: &str) -> String {
    if let Some(line) = missing_library(last_lines) {
        // Behind the program's own path, which may hold such a name.
        let library = line.rsplit("shared libraries:").next().unwrap_or(line);
        let is_libtorch = ["libtorch", "libc10", "libgomp"]
            .iter()
            .any(|name| library.contains(name));
        let what_to_do = match is_libtorch {
            true => "A library of libtorch is missing: run `make setup`, which fetches it",
            false => "Install the system's package that has this library",
        };
        return format!("{status}: {line}. {what_to_do}");
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
        let text = describe_exit("exit status: 127", &line.replace("torch_cpu", "ssl"));
        assert!(
            text.contains("libssl.so") && !text.contains("make setup"),
            "{text}"
        );
        assert_eq!(
            missing_library("panic: cannot open shared object file"),
            None
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
