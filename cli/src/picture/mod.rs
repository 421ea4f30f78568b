//! Pictures of a job, as SVG: `fitness`, `front`, `filters`.

mod filters;
mod fitness;
mod front;
mod style;

use crate::args::PictureKind;
use crate::artifacts::files::{Individual, ModelFile, ResultFile};
use crate::exit::{Exit, Failure};
use std::fmt::Display;

/// What pictures are made of.
#[derive(Debug, Clone, Default)]
pub struct PictureData {
    /// Name of the job.
    pub title: String,
    /// Every individual of every generation.
    pub generations: Vec<Vec<Individual>>,
    /// Rows and final pick, once there are any.
    pub result: Option<ResultFile>,
    /// The small net, once there is one.
    pub model: Option<ModelFile>,
}

/// Every picture that the data allow, by file name.
pub fn all(data: &PictureData) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut pictures = Vec::new();
    if !data.generations.is_empty() {
        pictures.push(("fitness.svg", draw(data, PictureKind::Fitness)?));
        pictures.push(("front.svg", draw(data, PictureKind::Front)?));
    }
    if data.model.is_some() {
        pictures.push(("filters.svg", draw(data, PictureKind::Filters)?));
    }
    Ok(pictures)
}

/// One picture, or what is missing for it.
pub fn draw(data: &PictureData, kind: PictureKind) -> Result<String, Failure> {
    let missing = |what: &str| Failure::new(Exit::Refused, format!("{}: {what}", data.title));
    match kind {
        PictureKind::Fitness | PictureKind::Front if data.generations.iter().all(Vec::is_empty) => {
            Err(missing(
                "no generation has been evaluated yet, or the job has no search",
            ))
        }
        PictureKind::Fitness => fitness::draw(data).map_err(failed),
        PictureKind::Front => front::draw(data).map_err(failed),
        PictureKind::Filters => match &data.model {
            Some(model) => filters::draw(&data.title, model).map_err(failed),
            None => Err(missing(
                "the compressed net is not there yet, or the job has none",
            )),
        },
    }
}

fn failed(error: impl Display) -> Failure {
    Failure::local("picture", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::files::{ModelLayer, ResultRow, Winner};

    /// A population as a search makes it: sizes shrink, accuracies spread, fitness grows.
    fn data(generations: u32) -> PictureData {
        let individual = |generation: u32, index: u32| {
            let noise = f64::from((generation * 131 + index * 71) % 97) / 97.0;
            let progress = f64::from(generation) / f64::from(generations.max(2) - 1);
            let parameters = if generation == 0 && index == 0 {
                431_080
            } else {
                (431_080.0 * (1.0 - 0.88 * progress) * (0.35 + 0.6 * noise)) as u64
            };
            let correct = (2_000.0
                * (0.915 - 0.25 * (1.0 - progress) * noise * noise - 0.03 * progress * noise))
                as u64;
            let fitness = correct as f64 / 2_000.0 + 0.3 * (1.0 - parameters as f64 / 431_080.0);
            Individual {
                correct,
                total: 2_000,
                parameters,
                fitness,
            }
        };
        let layer = |index: u64, kind: &str, filters: u32, every: u32| ModelLayer {
            index,
            kind: kind.to_owned(),
            full_filters: Some(filters),
            kept: Some(
                (0..filters)
                    .filter(|filter| (filter * 37 + filter / 3) % every == 0)
                    .collect(),
            ),
        };
        PictureData {
            title: "prune-fashion".to_owned(),
            generations: (0..generations)
                .map(|generation| (0..32).map(|index| individual(generation, index)).collect())
                .collect(),
            result: Some(ResultFile {
                rows: Vec::<ResultRow>::new(),
                winner: Winner {
                    parameters: 48_212,
                    fitness_correct: 1_797,
                    fitness_total: 2_000,
                },
            }),
            model: Some(ModelFile {
                name: "lenet".to_owned(),
                parameters: 48_212,
                full_parameters: 431_080,
                layers: vec![
                    layer(0, "conv", 20, 2),
                    layer(2, "conv", 50, 3),
                    layer(5, "dense", 500, 4),
                ],
            }),
        }
    }

    // Claim: every picture has its title, its axes and its legend, and is small enough to mail.
    // Method: draws a population like a real one. With EVORING_PICTURES=DIR the pictures are also
    // written there, to be looked at.
    #[test]
    fn pictures_are_complete() {
        let pictures = all(&data(51)).unwrap();
        let expected: [(&str, &[&str]); 3] = [
            (
                "fitness.svg",
                &[
                    "prune-fashion: fitness",
                    "generation",
                    "best of the generation",
                    "mean of the generation",
                ],
            ),
            (
                "front.svg",
                &[
                    "size and accuracy",
                    "parameters (logarithmic)",
                    "accuracy in %",
                    "Pareto front",
                    "full net",
                    "final pick",
                    "48,212 parameters",
                ],
            ),
            (
                "filters.svg",
                &[
                    "prune-fashion: filters",
                    "layer 3, dense:",
                    "of 500 units kept",
                    "removed",
                ],
            ),
        ];
        assert_eq!(pictures.len(), expected.len());
        for ((name, svg), (expected_name, texts)) in pictures.iter().zip(expected) {
            assert_eq!(*name, expected_name);
            assert!(
                svg.starts_with("<svg")
                    && svg.trim_end().ends_with("</svg>")
                    && svg.len() < 1 << 20,
                "{name}: {} bytes",
                svg.len()
            );
            for text in texts {
                assert!(svg.contains(text), "{name} lacks {text:?}");
            }
            if let Some(folder) = std::env::var_os("EVORING_PICTURES") {
                std::fs::write(std::path::Path::new(&folder).join(name), svg).unwrap();
            }
        }
    }

    // Claim: odd populations are drawn too. Method: one generation; one net for ever; fitness that
    // is no number; nothing at all is refused.
    #[test]
    fn odd_populations() {
        let one = data(1);
        assert_eq!(all(&one).unwrap().len(), 3);
        let mut still = data(3);
        still.generations.iter_mut().flatten().for_each(|net| {
            *net = Individual {
                correct: 0,
                total: 0,
                parameters: 0,
                fitness: f64::NAN,
            }
        });
        assert_eq!(all(&still).unwrap().len(), 3);
        assert!(draw(&PictureData::default(), PictureKind::Fitness).is_err());
        assert!(draw(&PictureData::default(), PictureKind::Filters).is_err());
        assert!(all(&PictureData::default()).unwrap().is_empty());
    }
}
