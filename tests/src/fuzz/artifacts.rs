//! Files that the command line reads: the cluster file, and results that a job made.

use super::texts::parts;
use evoring::artifacts::files::{MeasuredFile, ModelFile, PopulationFile, ResultFile};
use evoring::artifacts::population::PopulationWriter;
use evoring::artifacts::report;
use evoring::client::ClusterFile;
use evoring::picture::{self, PictureData};
use evoring_protocol::transport::Announcement;
use std::path::{Component, Path};

/// A cluster file, and the same bytes as an announcement.
pub fn cluster_file(data: &[u8]) {
    if let Ok(file) = serde_json::from_slice::<ClusterFile>(data) {
        let text = serde_json::to_vec(&file).expect("a cluster file is written as JSON");
        let again: ClusterFile = serde_json::from_slice(&text).expect("what was written is read");
        assert_eq!(again, file);
    }
    if let Ok(announcement) = serde_json::from_slice::<Announcement>(data) {
        assert_eq!(
            Ok(announcement.listen),
            announcement.listen.to_string().parse()
        );
    }
}

/// A `report.json` in the folder for results: the files that it names are replaced.
pub fn report_file(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("report.json");
    std::fs::write(&path, data).expect("a file is written");
    for name in report::files_of(&path).unwrap_or_default() {
        let is_inside = |component| matches!(component, Component::Normal(_));
        assert!(
            Path::new(&name).components().all(is_inside),
            "{name:?} leads out"
        );
    }
}

/// Two generations of a search, cut apart; what is put together of them has both.
pub fn population(data: &[u8]) {
    let texts: [String; 2] = parts(data);
    let mut bytes = Vec::new();
    let mut writer = PopulationWriter::new(&mut bytes).expect("memory takes it");
    for text in texts {
        if writer.add(text.as_bytes()).is_err() {
            return;
        }
    }
    let generations = writer.finish().expect("memory takes it");
    let file: PopulationFile = serde_json::from_slice(&bytes).expect("it is JSON");
    assert_eq!(file.generations, generations);
}

/// `population.json`, `result.json`, `measured.json` and `model.json` of a job, cut apart: read, put
/// into the table and drawn.
pub fn pictures_of_results(data: &[u8]) {
    let [population, result, measured, model]: [String; 4] = parts(data);
    let population: Option<PopulationFile> = serde_json::from_str(&population).ok();
    let result: Option<ResultFile> = serde_json::from_str(&result).ok();
    let measured: Option<MeasuredFile> = serde_json::from_str(&measured).ok();
    let model: Option<ModelFile> = serde_json::from_str(&model).ok();
    if let Some(result) = &result {
        assert!(report::table_note(result).ends_with('\n'));
        drop(report::table(result, measured.as_ref()));
    }
    let data = PictureData {
        title: "job".to_owned(),
        generations: population.map(|file| file.generations).unwrap_or_default(),
        result,
        model,
    };
    for (name, svg) in picture::all(&data).unwrap_or_default() {
        assert!(svg.trim_end().ends_with("</svg>"), "{name} is cut off");
    }
}
