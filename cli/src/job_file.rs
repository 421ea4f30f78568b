//! A job file: read, checked, and described before anything is started.

use crate::exit::Failure;
use crate::follow::Facts;
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
        let text = spec::with_absolute_paths(&file, &text, &folder_of(path)?).map_err(wrong)?;
        let spec = spec::parse(&file, &text).map_err(wrong)?;
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
