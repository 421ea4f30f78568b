//! `population.json`, put together from the job's `population/NNN.json`: the same bytes for the
//! same job, whoever fetches it.

use super::files::Individual;
use crate::exit::{Exit, Failure};
use std::io::Write;

/// Name of the format.
const FORMAT: &str = "evoring-population/1";

/// Number of a generation's file; `None` for other artifacts.
pub fn generation_number(artifact: &str) -> Option<u32> {
    artifact
        .strip_prefix("population/")?
        .strip_suffix(".json")?
        .parse()
        .ok()
}

/// Writes generation after generation.
#[derive(Debug)]
pub struct PopulationWriter<W: Write> {
    writer: W,
    generations: Vec<Vec<Individual>>,
}

impl<W: Write> PopulationWriter<W> {
    /// Begins the file.
    pub fn new(mut writer: W) -> std::io::Result<Self> {
        write!(writer, "{{\n\"format\": \"{FORMAT}\",\n\"generations\": [")?;
        Ok(Self {
            writer,
            generations: Vec::new(),
        })
    }

    /// Adds the next generation, the text of its file.
    pub fn add(&mut self, text: &[u8]) -> Result<(), Failure> {
        let number = self.generations.len();
        let wrong =
            |reason: String| Failure::new(Exit::Local, format!("generation {number}: {reason}"));
        let individuals: Vec<Individual> =
            serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
        let separator: &[u8] = if number == 0 { b"\n" } else { b",\n" };
        self.writer
            .write_all(separator)
            .and_then(|()| self.writer.write_all(text.trim_ascii()))
            .map_err(|error| Failure::local("population.json", error))?;
        self.generations.push(individuals);
        Ok(())
    }

    /// Ends the file and hands out what was in it.
    pub fn finish(mut self) -> std::io::Result<Vec<Vec<Individual>>> {
        self.writer.write_all(b"\n]\n}\n")?;
        self.writer.flush()?;
        Ok(self.generations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::files::PopulationFile;

    // Claim: the file is JSON with every generation verbatim. Method: two generations, parsed.
    #[test]
    fn file_holds_generations_verbatim() {
        let line = |fitness: f64| {
            format!(
                r#"{{"genome":"101","correct":9,"total":10,"parameters":7,"fitness":{fitness:?},"parents":[],"operator":"initial"}}"#
            )
        };
        let texts = [
            format!("[\n{},\n{}\n]\n", line(0.5), line(0.25)),
            format!("[\n{}\n]\n", line(1.0)),
        ];
        let mut bytes = Vec::new();
        let mut writer = PopulationWriter::new(&mut bytes).unwrap();
        for text in &texts {
            writer.add(text.as_bytes()).unwrap();
        }
        let generations = writer.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let parsed: PopulationFile = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed.generations, generations);
        assert_eq!(generations.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert!(texts.iter().all(|part| text.contains(part.trim())));
        assert!(text.contains(r#""operator":"initial""#));
    }

    // Claim: only files of generations count. Method: names around the pattern.
    #[test]
    fn names() {
        assert_eq!(generation_number("population/007.json"), Some(7));
        assert_eq!(generation_number("population/1000.json"), Some(1000));
        for other in [
            "population.json",
            "population/x.json",
            "population/7",
            "model.json",
        ] {
            assert_eq!(generation_number(other), None);
        }
    }
}
