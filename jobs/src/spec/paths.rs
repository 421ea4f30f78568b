//! Relative paths of a job file.

use super::{SpecError, excess};
use std::path::Path;
use toml_edit::{DocumentMut, value};

/// Fields of `[data]` that hold paths.
const PATH_FIELDS: [&str; 3] = ["idx", "folder", "npz"];

/// The same job file with the paths of `[data]` looked up in `folder`, the absolute folder of the
/// job file. Lines keep their numbers. Text that is not TOML is an error, as in [`super::parse`];
/// other defects are left for it.
pub fn with_absolute_paths(file: &str, text: &str, folder: &str) -> Result<String, SpecError> {
    // Reports what is no TOML, or too large, in the usual form.
    if excess(text).is_some() || toml_edit::Document::parse(text).is_err() {
        super::parse(file, text)?;
    }
    let refuse = |message: String| SpecError {
        messages: vec![message],
    };
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e| refuse(format!("{file}:1: not TOML: {e}")))?;
    let Some(data) = document
        .get_mut("data")
        .and_then(|item| item.as_table_like_mut())
    else {
        return Ok(text.to_owned());
    };
    let mut is_changed = false;
    for field in PATH_FIELDS {
        let Some(item) = data.get_mut(field) else {
            continue;
        };
        let Some(path) = item
            .as_str()
            .filter(|path| !path.is_empty() && Path::new(path).is_relative())
        else {
            continue;
        };
        let joined = Path::new(folder).join(path);
        let Some(joined) = joined.to_str() else {
            return Err(refuse(format!(
                "{file}:1: data.{field}: expected a path in UTF-8, got {joined:?}"
            )));
        };
        *item = value(joined);
        is_changed = true;
    }
    Ok(if is_changed {
        document.to_string()
    } else {
        text.to_owned()
    })
}
