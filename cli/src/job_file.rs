//! A job file: read, checked, and described before anything is started.

use crate::exit::Failure;
use crate::follow::Facts;
use crate::tilde::refuse_tilde;
use evoring_jobs::data::DataSource;
use evoring_jobs::driver::JobDriver;
use evoring_jobs::spec::{self, JobSpec, SpecError};
use evoring_protocol::limits::JOB_FILE_BYTES;
use std::io::Read;
use std::path::Path;

/// A valid job file.
#[derive(Debug)]
pub struct JobFile {
    /// Name for messages.
    pub file: String,
    /// What is submitted.
    pub text: String,
    /// What it says.
    pub spec: JobSpec,
}

impl JobFile {
    /// Reads and checks `path`; nothing larger than the limit is read.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let file = path.display().to_string();
        let text =
            read_text(path).map_err(|error| Failure::usage(format!("job file {file}: {error}")))?;
        let wrong = |error: SpecError| Failure::usage(error.to_string());
        // Workers run elsewhere, and paths are meant beside the job file.
        let folder = folder_of(path)?;
        let written = text;
        let text = spec::with_absolute_paths(&file, &written, &folder).map_err(wrong)?;
        let spec = spec::parse(&file, &text).map_err(wrong)?;
        refuse_tilde_in(&file, &written, &spec)?;
        Ok(Self { file, text, spec })
    }

    /// What the views need.
    pub fn facts(&self) -> Facts {
        match &self.spec.driver {
            JobDriver::PruneV1(driver) => Facts {
                train_batch: Some(driver.job().train.recipe.batch),
                finetune_batch: Some(driver.job().finetune.recipe.batch),
            },
        }
    }
}

/// Refuses a path of `[data]` that begins with `~` in `text`, the job file as it was written.
fn refuse_tilde_in(file: &str, text: &str, spec: &JobSpec) -> Result<(), Failure> {
    let JobDriver::PruneV1(driver) = &spec.driver;
    let (field, path) = match &driver.job().data.source {
        DataSource::Named(_) => return Ok(()),
        DataSource::Idx(path) => ("idx", path),
        DataSource::Folder(path) => ("folder", path),
        DataSource::Npz(path) => ("npz", path),
    };
    // Relative paths have been made absolute, so what was written is an end of the path.
    let Some(at) = path.rfind("/~/") else {
        return Ok(());
    };
    let written = &path[at + 1..];
    let quoted = [format!("\"{written}\""), format!("'{written}'")];
    let is_it = |line: &str| quoted.iter().any(|quoted| line.contains(quoted));
    match (
        text.lines().position(is_it),
        refuse_tilde(Path::new(written)),
    ) {
        (Some(line), Err(reason)) => Err(Failure::usage(format!(
            "{file}:{}: data.{field}: {reason}",
            line + 1
        ))),
        _ => Ok(()),
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(JOB_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > JOB_FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "expected at most {JOB_FILE_BYTES} bytes"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        std::io::Error::other(format!("line {line}: expected UTF-8 text"))
    })
}

/// Absolute path of the folder that holds the job file.
fn folder_of(path: &Path) -> Result<String, Failure> {
    let absolute =
        std::path::absolute(path).map_err(|error| Failure::local(path.display(), error))?;
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    let text = folder.to_str().ok_or_else(|| {
        Failure::usage(format!(
            "job file {}: expected a path in UTF-8",
            path.display()
        ))
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Result<JobFile, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.toml");
        let text = format!(
            "name = \"x\"\nkind = \"evolve.prune\"\n[data]\n{source}\n[network]\nname = \"lenet\"\n"
        );
        std::fs::write(&path, text).unwrap();
        JobFile::read(&path)
    }

    // Claim: a path of a job file that only a shell could read is refused with file, line and
    // field; others are not. Method: each field, both quotes, and paths that only look like it.
    #[test]
    fn tilde_is_refused() {
        for (field, quote) in [("idx", '"'), ("folder", '"'), ("npz", '\'')] {
            let failure = read(&format!("{field} = {quote}~/images{quote}")).unwrap_err();
            assert!(
                failure.message.contains(&format!(
                    "job.toml:4: data.{field}: expected a path without `~`, got \"~/images\""
                )),
                "{failure}"
            );
        }
        for path in ["images", "images~", "./~/images", "/data/~/images"] {
            read(&format!("folder = \"{path}\"")).unwrap();
        }
    }
}
