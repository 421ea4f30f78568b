//! What a job leaves behind: fetched, checked, put together, drawn.

pub mod download;
pub mod files;
pub mod folder;
pub mod population;
pub mod report;

use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::table::Table;
use crate::picture::{self, PictureData};
use evoring_protocol::Digest;
use evoring_protocol::client::JobView;
use evoring_protocol::limits::{BLOB_BYTES, DRIVER_BLOB_BYTES};
use files::{MeasuredFile, ModelFile, ResultFile};
use folder::REPORT;
use population::{PopulationWriter, generation_number};
use report::RunFacts;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

/// Longest name of an artifact.
const NAME_BYTES: usize = 128;

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// Names of the files, in the order for people.
    pub files: Vec<String>,
    /// The final table and what its columns mean, for jobs that have one.
    pub table: Option<(Table, String)>,
}

/// Fetches everything that a finished job made into the folder `to`, which is empty.
pub async fn fetch(
    client: &mut Client,
    view: &JobView,
    facts: &RunFacts,
    to: &Path,
) -> Result<Written, Failure> {
    check_names(view)?;
    let mut written = vec![REPORT.to_owned()];
    let result = fetch_small(client, view, "result.json").await?;
    let measured_text = fetch_small(client, view, "measured.json").await?;
    let mut data = PictureData {
        title: view.name.clone(),
        ..PictureData::default()
    };
    if let Some(generations) = fetch_population(client, view, to).await? {
        written.push("population.json".to_owned());
        data.generations = generations;
    }
    for (name, digest) in others(view) {
        let path = to.join(name);
        let error = |error| Failure::local(path.display(), error);
        fs::create_dir_all(path.parent().unwrap_or(to)).map_err(error)?;
        let mut file = File::create(&path).map_err(error)?;
        download::blob(client, name, digest, BLOB_BYTES, &mut file).await?;
        file.sync_all().map_err(error)?;
        written.push(name.to_owned());
    }
    data.model = read_json::<ModelFile>(to, "model.json")?;
    data.result = result
        .as_deref()
        .map(|bytes| parse::<ResultFile>("result.json", bytes))
        .transpose()?;
    let measured = measured_text
        .as_deref()
        .map(|bytes| parse::<MeasuredFile>("measured.json", bytes))
        .transpose()?;
    for (name, svg) in picture::all(&data)? {
        save(to, name, svg.as_bytes())?;
        written.push(name.to_owned());
    }
    let report = report::report(
        view,
        result.as_deref().unwrap_or(b"null"),
        measured_text.as_deref(),
        facts,
        &written,
    )?;
    save(to, REPORT, &report)?;
    let table = data.result.as_ref().map(|result| {
        (
            report::table(result, measured.as_ref()),
            report::table_note(result),
        )
    });
    Ok(Written {
        files: written,
        table,
    })
}

/// What pictures need of a job, which may still run.
pub async fn picture_data(client: &mut Client, view: &JobView) -> Result<PictureData, Failure> {
    check_names(view)?;
    let mut data = PictureData {
        title: view.name.clone(),
        ..PictureData::default()
    };
    let mut writer = population_writer(std::io::sink())?;
    for (name, digest) in generations(view)? {
        writer.add(&fetch_memory(client, name, digest).await?)?;
    }
    data.generations = writer
        .finish()
        .map_err(|error| Failure::local("population", error))?;
    let result = fetch_small(client, view, "result.json").await?;
    data.result = result
        .map(|bytes| parse("result.json", &bytes))
        .transpose()?;
    let model = fetch_small(client, view, "model.json").await?;
    data.model = model.map(|bytes| parse("model.json", &bytes)).transpose()?;
    Ok(data)
}

/// The same from a folder that [`fetch`] filled.
pub fn picture_data_of_folder(folder: &Path) -> Result<PictureData, Failure> {
    #[derive(serde::Deserialize)]
    struct Report {
        result: Option<ResultFile>,
        run: Run,
    }
    #[derive(serde::Deserialize)]
    struct Run {
        name: String,
    }
    let report: Report = read_json(folder, REPORT)?.ok_or_else(|| {
        Failure::usage(format!(
            "{}: expected a folder written by `run` or `fetch`, found no report.json",
            folder.display()
        ))
    })?;
    let population: Option<files::PopulationFile> = read_json(folder, "population.json")?;
    Ok(PictureData {
        title: report.run.name,
        generations: population.map(|file| file.generations).unwrap_or_default(),
        result: report.result,
        model: read_json(folder, "model.json")?,
    })
}

/// Names become paths, so only plain ones are let through.
fn check_names(view: &JobView) -> Result<(), Failure> {
    match view.artifacts.iter().find(|(name, _)| !is_plain(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let shown: String = name.chars().take(80).collect();
            Err(Failure::new(
                Exit::Local,
                format!("artifact {shown:?}: expected letters, digits, '.', '_', '-' and '/'"),
            ))
        }
    }
}

/// Whether a name stays inside the folder that it is looked up in.
fn is_plain(name: &str) -> bool {
    let parts_are_plain = name.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    });
    name.len() <= NAME_BYTES && parts_are_plain
}

/// Artifacts that become files of the same name.
fn others(view: &JobView) -> impl Iterator<Item = (&str, Digest)> {
    let is_other = |name: &str| {
        generation_number(name).is_none() && !["result.json", "measured.json"].contains(&name)
    };
    view.artifacts
        .iter()
        .filter(move |(name, _)| is_other(name))
        .map(|(name, digest)| (name.as_str(), *digest))
}

/// Files of the generations in their order; a gap is an error.
fn generations(view: &JobView) -> Result<Vec<(&str, Digest)>, Failure> {
    let numbered = view
        .artifacts
        .iter()
        .filter_map(|(name, digest)| Some((generation_number(name)?, (name.as_str(), *digest))));
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort_unstable_by_key(|(number, _)| *number);
    for (expected, (number, _)) in numbered.iter().enumerate() {
        if *number as usize != expected {
            return Err(Failure::new(
                Exit::Local,
                format!(
                    "job {}: generation {expected} is missing among its artifacts",
                    view.job
                ),
            ));
        }
    }
    Ok(numbered.into_iter().map(|(_, artifact)| artifact).collect())
}

async fn fetch_population(
    client: &mut Client,
    view: &JobView,
    to: &Path,
) -> Result<Option<Vec<Vec<files::Individual>>>, Failure> {
    let generations = generations(view)?;
    if generations.is_empty() {
        return Ok(None);
    }
    let path = to.join("population.json");
    let error = |error| Failure::local(path.display(), error);
    let mut writer = population_writer(BufWriter::new(File::create(&path).map_err(error)?))?;
    for (name, digest) in generations {
        writer.add(&fetch_memory(client, name, digest).await?)?;
    }
    writer.finish().map(Some).map_err(error)
}

fn population_writer<W: std::io::Write>(writer: W) -> Result<PopulationWriter<W>, Failure> {
    PopulationWriter::new(writer).map_err(|error| Failure::local("population.json", error))
}

/// An artifact that a driver wrote, if the job has it.
async fn fetch_small(
    client: &mut Client,
    view: &JobView,
    name: &str,
) -> Result<Option<Vec<u8>>, Failure> {
    match view.artifacts.iter().find(|(other, _)| other == name) {
        Some((_, digest)) => fetch_memory(client, name, *digest).await.map(Some),
        None => Ok(None),
    }
}

async fn fetch_memory(client: &mut Client, name: &str, digest: Digest) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    download::blob(client, name, digest, DRIVER_BLOB_BYTES as u64, &mut bytes).await?;
    Ok(bytes)
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::new(Exit::Local, format!("{name}: {error}")))
}

/// Reads a file of a folder of results; `None` if there is none.
fn read_json<T: serde::de::DeserializeOwned>(
    folder: &Path,
    name: &str,
) -> Result<Option<T>, Failure> {
    let path = folder.join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::local(path.display(), error)),
    };
    let parsed = serde_json::from_reader(std::io::BufReader::new(file));
    parsed
        .map(Some)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn save(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let path = folder.join(name);
    fs::write(&path, bytes).map_err(|error| Failure::local(path.display(), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::tests::view;

    fn with(names: &[&str]) -> JobView {
        JobView {
            artifacts: names
                .iter()
                .map(|name| ((*name).to_owned(), Digest([0; 32])))
                .collect(),
            ..view()
        }
    }

    // Claim: no artifact can leave the folder. Method: names that try.
    #[test]
    fn names_stay_inside() {
        for name in [
            "../x",
            "/etc/x",
            "a/../b",
            "a//b",
            ".ssh",
            "a\0b",
            "a\\b",
            "",
            "ü",
            &"x".repeat(200),
        ] {
            assert!(check_names(&with(&[name])).is_err(), "{name:?}");
        }
        check_names(&with(&["model.safetensors", "population/000.json"])).unwrap();
    }

    // Claim: generations come in the order of their numbers and none may be missing.
    #[test]
    fn generations_are_complete() {
        let view = with(&["population/010.json", "model.json"]);
        assert!(
            generations(&view)
                .unwrap_err()
                .message
                .contains("generation 0 is missing")
        );
        let names: Vec<String> = (0..1001)
            .rev()
            .map(|number| format!("population/{number:03}.json"))
            .collect();
        let view = with(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let ordered: Vec<&str> = generations(&view)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            (ordered[0], ordered[1000]),
            ("population/000.json", "population/1000.json")
        );
        assert_eq!(
            others(&with(&["population/000.json", "result.json", "model.json"])).count(),
            1
        );
    }
}
