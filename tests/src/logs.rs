//! What may stand in the log of the binary under test.

use std::path::Path;

/// Lines that no test may see: broken invariants.
const NEVER: &[&str] = &["panicked at", "stack backtrace", "fatal runtime error", "memory allocation of"];

/// Checks a log: nothing that is [`NEVER`] right, and no warning or error but those that contain
/// one of `expected`.
pub fn complaints(log: &str, expected: &[String]) -> Vec<String> {
    log.lines()
        .filter(|line| {
            let never = NEVER.iter().any(|text| line.contains(text));
            never || (is_loud(line) && !expected.iter().any(|text| line.contains(text)))
        })
        .map(str::to_owned)
        .collect()
}

/// Whether a line, JSON or text, is a warning or an error.
fn is_loud(line: &str) -> bool {
    let plain = without_colours(line);
    let head: String = plain.chars().take(80).collect();
    ["WARN", "ERROR"].iter().any(|level| {
        head.contains(&format!("\"level\":\"{level}\""))
            || head.split_whitespace().take(3).any(|word| word == *level)
    })
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The last `count` lines of the file at `path`.
pub fn tail(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Where logs of failed tests are kept, if `SLUICE_LOGS` says so.
pub fn keep(path: &Path) {
    let Some(logs) = std::env::var_os("SLUICE_LOGS") else { return };
    let test = std::thread::current().name().unwrap_or("unnamed").replace("::", ".");
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let target = Path::new(&logs).join("failed");
    let _ = std::fs::create_dir_all(&target);
    let _ = std::fs::copy(path, target.join(format!("{test}.{name}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_and_errors_are_found_in_both_forms() {
        let log = "2026-11-21T12:00:00Z  WARN sluice: broker is away\n\
            {\"timestamp\":\"t\",\"level\":\"ERROR\",\"fields\":{}}\n\
            2026-11-21T12:00:00Z  INFO sluice: no WARNING here, WARN\n\
            \u{1b}[33m WARN\u{1b}[0m coloured\n\
            thread 'main' panicked at src/main.rs\n";
        assert_eq!(complaints(log, &[]).len(), 4);
        assert_eq!(complaints(log, &["broker is away".into(), "level".into()]).len(), 2);
    }
}
