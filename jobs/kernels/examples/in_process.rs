//! Runs a job file without a cluster: the driver and the kernels in one process on one thread.
//!
//! For choosing hyper-parameters and for measurements. What it writes has the same bytes as the
//! artifacts of a cluster of this numerics class, but for the times in `measured.json`: the program
//! starts itself again in the environment of executors.
//!
//! ```text
//! cargo run --release -p evoring-kernels --example in_process -- JOB.toml DIR
//! ```
//! `DIR` keeps weights, so that a job that differs only in its search does not train again.

use evoring_jobs::driver::DriverAction;
use evoring_kernels::local::{Answers, Local, Runner, Work, drive, enter_executor_environment};
use evoring_protocol::work::TrainingProgress;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

struct Printer {
    local: Local,
    folder: PathBuf,
}

impl Printer {
    /// Where an artifact goes.
    fn artifact(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(path)
    }
}

impl Runner for Printer {
    type Error = Box<dyn Error>;

    fn gang(&mut self, work: Work<'_>) -> Result<Vec<u8>, Self::Error> {
        let begin = Instant::now();
        let result = self.local.gang(work)?;
        println!("{}: {:.2} s", work.title, begin.elapsed().as_secs_f64());
        Ok(result)
    }

    fn map(&mut self, work: Work<'_>, items: &[Vec<u8>]) -> Result<Answers, Self::Error> {
        let begin = Instant::now();
        let answers = self.local.map(work, items)?;
        println!("{}: {:.2} s", work.title, begin.elapsed().as_secs_f64());
        Ok(answers)
    }

    fn hear(&mut self, action: DriverAction) -> Result<ControlFlow<()>, Self::Error> {
        match action {
            DriverAction::Store { name, bytes } => std::fs::write(self.artifact(&name)?, bytes)?,
            DriverAction::Artifact { name, digest } => {
                std::fs::copy(self.local.blob(&digest), self.artifact(&name)?)?;
            }
            DriverAction::Generation(summary) => println!("{summary:?}"),
            DriverAction::Finish { summary } => println!("{summary}"),
            DriverAction::Fail { error } => return Err(error.into()),
            other => println!("{other:?}"),
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn print(progress: &TrainingProgress) {
    let TrainingProgress { step, steps, loss } = progress;
    if step.is_multiple_of(200) {
        println!("  step {step}/{steps} loss {loss:.4}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    enter_executor_environment()?;
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, folder] = arguments.as_slice() else {
        return Err("usage: in_process JOB.toml DIR".into());
    };
    let spec = evoring_jobs::spec::parse(file, &std::fs::read_to_string(file)?)?;
    let folder = Path::new(folder);
    let mut printer = Printer {
        local: Local::new(folder, print)?,
        folder: folder.to_owned(),
    };
    let mut driver = spec.driver;
    // Nothing stops the job but its end.
    let _ = drive(&mut driver, &mut printer)?;
    Ok(())
}
