//! Paths that begin with `~`. Only shells know what that is, and not everywhere (`--out=~/x`,
//! configuration files): taken literally, a folder called `~` would be made or looked for.

use std::path::{Component, Path};

/// Refuses such a path, with what to write instead.
pub fn refuse_tilde(path: &Path) -> Result<(), String> {
    if path.components().next() != Some(Component::Normal("~".as_ref())) {
        return Ok(());
    }
    Err(format!(
        "expected a path without `~`, got {:?}: only a shell puts your home folder there; write the whole path (or ./~ for a folder of that name)",
        path.display().to_string()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: only what a shell would expand is refused. Method: paths around the pattern.
    #[test]
    fn only_a_leading_tilde_counts() {
        for path in ["~", "~/x", "~/"] {
            let message = refuse_tilde(Path::new(path)).unwrap_err();
            assert!(message.contains("the whole path"), "{message}");
        }
        for path in ["./~/x", "/~/x", "x/~", "~x", "backup~", ""] {
            refuse_tilde(Path::new(path)).unwrap();
        }
    }
}
