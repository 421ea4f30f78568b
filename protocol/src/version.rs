//! What two processes must have in common before they talk.
//!
//! VERSION-1: within [`OLDEST_PROTOCOL`]`..=`[`PROTOCOL_VERSION`] enum variants are only appended, and
//! fields of what exists never change: a message means the same to every build that knows it. A
//! change that is none of that raises both ends of the range, and the frame's
//! ([`crate::codec::FRAME_VERSION`]).
//! VERSION-2: nobody is sent what it cannot know. A leader sends a worker what the protocol in the
//! worker's hello has, and uses what the other coordinators must understand only once the version of
//! the replicated records says that all of them do. A command does not know whom it asks: a coordinator
//! that does not know a request says so.

/// Version of the messages in this crate; raised by any change of a message. 4 brought
/// [`crate::client::ClientRequest::LabelOnce`].
pub const PROTOCOL_VERSION: u16 = 4;
/// Oldest version that this build still talks to.
pub const OLDEST_PROTOCOL: u16 = 3;

/// Between a build's version and the number of its protocol.
const SEPARATOR: &str = "+protocol.";
/// Most bytes of a build's version.
const VERSION_BYTES: usize = 64;

/// Identity of a build, as processes tell it to each other.
pub fn build_id() -> String {
    format!("{}{SEPARATOR}{PROTOCOL_VERSION}", env!("CARGO_PKG_VERSION"))
}

/// Why this build does not talk to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The text is no identity of a build.
    #[error("`{0}` names no build: expected VERSION{SEPARATOR}NUMBER, as `{example}`", example = build_id())]
    Malformed(String),
    /// The other one is too old.
    #[error("build {build} is too old: it speaks protocol {got}, build {own} speaks {OLDEST_PROTOCOL} to {PROTOCOL_VERSION}", own = build_id())]
    TooOld {
        /// Whom.
        build: String,
        /// Its protocol.
        got: u16,
    },
    /// The other one is too new.
    #[error("build {build} is too new: it speaks protocol {got}, build {own} speaks {OLDEST_PROTOCOL} to {PROTOCOL_VERSION}", own = build_id())]
    TooNew {
        /// Whom.
        build: String,
        /// Its protocol.
        got: u16,
    },
}

/// The protocol of the build of this [identity](build_id), if this build speaks it.
pub fn spoken_with(build: &str) -> Result<u16, BuildError> {
    let got = protocol_of(build)
        .ok_or_else(|| BuildError::Malformed(build.escape_debug().take(80).collect()))?;
    let build = build.to_owned();
    match got {
        OLDEST_PROTOCOL..=PROTOCOL_VERSION => Ok(got),
        ..OLDEST_PROTOCOL => Err(BuildError::TooOld { build, got }),
        _ => Err(BuildError::TooNew { build, got }),
    }
}

/// Takes an identity apart: one that is written otherwise than [`build_id`] writes it is none.
fn protocol_of(build: &str) -> Option<u16> {
    let (version, number) = build.split_once(SEPARATOR)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    let is_version = (1..=VERSION_BYTES).contains(&version.len()) && version.bytes().all(allowed);
    let protocol: u16 = number.parse().ok()?;
    (is_version && protocol.to_string() == number).then_some(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    // VERSION-1. Claim: builds are told apart by their protocol, not by their own version, and what
    // names no build is said to. Method: this build, others in and out of the range, and texts that
    // are nearly one.
    #[test]
    fn builds_are_told_apart_by_their_protocol() {
        assert_eq!(spoken_with(&build_id()), Ok(PROTOCOL_VERSION));
        let other = |protocol: u16| format!("9.8.7-rc.1+protocol.{protocol}");
        for protocol in OLDEST_PROTOCOL..=PROTOCOL_VERSION {
            assert_eq!(spoken_with(&other(protocol)), Ok(protocol));
        }
        let error = spoken_with(&other(PROTOCOL_VERSION + 1)).unwrap_err();
        assert!(
            error.to_string().contains("9.8.7-rc.1+protocol."),
            "{error}"
        );
        assert!(matches!(error, BuildError::TooNew { .. }), "{error}");
        let error = spoken_with(&other(OLDEST_PROTOCOL - 1)).unwrap_err();
        assert!(matches!(error, BuildError::TooOld { .. }), "{error}");
        let long = format!("{}+protocol.{PROTOCOL_VERSION}", "1".repeat(65));
        for text in [
            "",
            "0.1.0",
            "+protocol.2",
            "0.1.0+protocol.",
            "0.1.0+protocol.+2",
            "0.1.0+protocol.02",
            "0.1.0+protocol.2 ",
            "0.1.0+protocol.65536",
            "0.1.0\n+protocol.2",
            "0.1.0+protocol.2+protocol.2",
            &long,
        ] {
            let error = spoken_with(text).unwrap_err();
            assert!(matches!(error, BuildError::Malformed(_)), "{text:?}");
            assert!(!error.to_string().contains('\n') && error.to_string().len() < 250);
        }
    }
}
