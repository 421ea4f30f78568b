//! `report.json` and the final table.

use super::files::{MeasuredFile, ResultFile};
use super::is_plain;
use crate::exit::{Exit, Failure};
use crate::output::json::WorkerJson;
use crate::output::table::{Align, Table, thousands};
use crate::output::time::rfc3339;
use evoring_protocol::client::{JobView, WorkerView};
use evoring_protocol::limits::DRIVER_BLOB_BYTES;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Name of the format.
pub const FORMAT: &str = "evoring-report/1";
/// Most bytes of a `report.json`: two blobs of a driver, and what is known about the run.
const REPORT_BYTES: u64 = 3 * DRIVER_BLOB_BYTES as u64;

/// What is known about a run beside its result: everything that may differ between two runs of
/// the same job.
#[derive(Debug, Clone, Default)]
pub struct RunFacts {
    /// Workers at the end of the job.
    pub workers: Vec<WorkerView>,
    /// Processes that a local cluster started again; `None` for other clusters.
    pub restarts: Option<u64>,
    /// From the command's start to the job's end, where the command waited for it.
    pub wall_ms: Option<u64>,
}

/// The text of `report.json`: `result` is the driver's `result.json` byte for byte, `files` are all
/// that are written beside it.
pub fn report(
    view: &JobView,
    result: &[u8],
    measured: Option<&[u8]>,
    facts: &RunFacts,
    files: &[String],
) -> Result<Vec<u8>, Failure> {
    let check = |name: &str, bytes: &[u8]| {
        let parsed: Result<Value, _> = serde_json::from_slice(bytes);
        parsed.map_err(|error| Failure::new(Exit::Local, format!("artifact {name}: {error}")))
    };
    check("result.json", result)?;
    let measured = measured
        .map(|bytes| check("measured.json", bytes))
        .transpose()?;
    let run = serde_json::to_string_pretty(&run(view, measured, facts, files))
        .map_err(|error| Failure::local("report.json", error))?;
    let mut text = format!("{{\n\"format\": \"{FORMAT}\",\n\"result\": ").into_bytes();
    text.extend_from_slice(result.trim_ascii());
    text.extend_from_slice(b",\n\"run\": ");
    text.extend_from_slice(run.as_bytes());
    text.extend_from_slice(b"\n}\n");
    Ok(text)
}

/// Files that were written with the `report.json` at `path`; `None` if it is not one of ours.
pub fn files_of(path: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Report {
        format: String,
        run: Run,
    }
    #[derive(Deserialize)]
    struct Run {
        files: Vec<String>,
    }
    let reader = BufReader::new(File::open(path).ok()?.take(REPORT_BYTES));
    let report: Report = serde_json::from_reader(reader).ok()?;
    let files = report.run.files;
    (report.format == FORMAT && files.iter().all(|name| is_plain(name))).then_some(files)
}

fn run(view: &JobView, measured: Option<Value>, facts: &RunFacts, files: &[String]) -> Value {
    let seconds =
        |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?) as f64 / 1_000.0);
    json!({
        "job": view.job.0,
        "name": view.name,
        "kind": view.kind,
        "build": evoring_protocol::version::build_id(),
        "submitted": rfc3339(view.submitted_ms),
        "started": view.started_ms.map(rfc3339),
        "ended": view.ended_ms.map(rfc3339),
        "job_seconds": seconds(view.started_ms, view.ended_ms),
        "wall_seconds": facts.wall_ms.map(|wall| wall as f64 / 1_000.0),
        "evaluated": view.evaluated,
        "cache_hits": view.cache_hits,
        "retries": view.retries,
        "restarts": facts.restarts,
        "workers": facts.workers.iter().map(WorkerJson::from).collect::<Vec<_>>(),
        "files": files,
        "measured": measured,
        "artifacts": view.artifacts.iter().map(|(name, digest)| (name.clone(), digest.to_string())).collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// A row's name for people. A fine-tuned net stands below the same net before fine-tuning; a name
/// that this build does not know is shown as it is.
fn title(name: &str) -> &str {
    match name {
        "full" => "full net",
        "full_extra" => "full, extra epochs",
        "compressed_before" => "evolved",
        "l1_widths_before" => "L1, same widths",
        "l1_best_before" => "L1, best widths",
        "random_before" => "random search",
        "compressed_after" | "l1_widths_after" | "l1_best_after" | "random_after" => "  fine-tuned",
        other => other,
    }
}

/// The final table, narrow enough for 80 characters.
pub fn table(result: &ResultFile, measured: Option<&MeasuredFile>) -> Table {
    let mut table = Table::new(vec![
        ("net", Align::Left),
        ("params", Align::Right),
        ("smaller", Align::Right),
        ("mults", Align::Right),
        ("bytes", Align::Right),
        ("ms/image", Align::Right),
        ("accuracy", Align::Right),
    ]);
    for row in &result.rows {
        let rows = measured.map_or(&[][..], |file| &file.rows);
        let time = rows.iter().find(|measured| measured.name == row.name);
        table.row(vec![
            title(&row.name).to_owned(),
            thousands(row.parameters),
            format!("{:.1} x", row.compression),
            thousands(row.multiplications),
            thousands(row.bytes),
            time.map_or_else(
                || "-".to_owned(),
                |time| format!("{:.4}", time.nanoseconds_per_image as f64 / 1e6),
            ),
            format!(
                "{:.2} %",
                100.0 * row.correct as f64 / row.total.max(1) as f64
            ),
        ]);
    }
    table
}

/// What the columns mean.
pub fn table_note(result: &ResultFile) -> String {
    let images = thousands(result.rows.first().map_or(0, |row| row.total));
    format!(
        "params: parameters; mults: multiplications for one image; ms/image: processor\ntime of one thread, fastest of several batches; accuracy: on {images} test images\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::files::{MeasuredRow, ResultRow, Winner};
    use crate::follow::tests::view;

    // Claim: `result` is the driver's text byte for byte, the whole is JSON, and says which files
    // belong to it. Method: a text with its own spacing and order of fields; the list, read back.
    #[test]
    fn result_is_verbatim() {
        let result = b"{\n  \"z\": 1.50,\n  \"a\": [ ]\n}\n";
        let text = report(
            &view(),
            result,
            Some(b"{\"rows\":[]}"),
            &RunFacts {
                restarts: Some(2),
                ..RunFacts::default()
            },
            &["report.json".to_owned(), "deep/model.json".to_owned()],
        )
        .unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let files = files_of(file.path()).unwrap();
        assert_eq!(files, ["report.json", "deep/model.json"]);
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("\"result\": {\n  \"z\": 1.50,\n  \"a\": [ ]\n},\n"),
            "{text}"
        );
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["run"]["restarts"], 2);
        assert_eq!(value["run"]["measured"]["rows"], json!([]));
        assert!(report(&view(), b"{", None, &RunFacts::default(), &[]).is_err());
    }

    // Claim: the table names every row for people and shows what was measured for it.
    #[test]
    fn table_has_titles() {
        let row = |name: &str| ResultRow {
            name: name.to_owned(),
            parameters: 431_080,
            multiplications: 2_293_000,
            bytes: 1_724_320,
            correct: 9_012,
            total: 10_000,
            compression: 8.04,
        };
        let result = ResultFile {
            rows: vec![
                row("full"),
                row("l1_best_before"),
                row("l1_best_after"),
                row("later"),
            ],
            winner: Winner {
                parameters: 1,
                fitness_correct: 1,
                fitness_total: 1,
            },
        };
        let measured = MeasuredFile {
            rows: vec![MeasuredRow {
                name: "full".to_owned(),
                nanoseconds_per_image: 123_400,
            }],
        };
        let text = table(&result, Some(&measured)).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("full net ")
                && lines[1].ends_with("1,724,320    0.1234   90.12 %"),
            "{text}"
        );
        assert!(
            lines[2].starts_with("L1, best widths ") && lines[3].starts_with("  fine-tuned "),
            "{text}"
        );
        assert!(lines[4].starts_with("later "), "{text}");
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let note = table_note(&result);
        assert!(note.contains("10,000 test images"));
        assert!(
            note.lines().all(|line| line.chars().count() <= 80),
            "{note}"
        );
    }
}
