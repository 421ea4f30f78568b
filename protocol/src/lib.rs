//! What Evoring's processes say to each other: typed ids, messages, the frame codec, limits and
//! versions. Nothing here decides anything.
//!
//! Start with [`worker`] (agent and coordinator), [`client`] (command line and coordinator) and
//! [`executor`] (agent and executor). [`codec`] turns messages into frames whose size is checked
//! before anything is allocated; [`limits`] holds every bound. The QUIC transport with mutual TLS
//! is in `transport`, behind the feature of that name.

pub mod bounded;
pub mod client;
pub mod codec;
pub mod digest;
pub mod error;
pub mod event;
pub mod executor;
pub mod file_url;
pub mod ids;
pub mod limits;
pub mod numerics;
pub mod peer;
#[cfg(evoring_plants)]
pub mod plants;
#[cfg(feature = "transport")]
pub mod transport;
pub mod version;
pub mod work;
pub mod worker;

/// Exit status of a process that would end in the same way if it were started again: what is
/// missing or refused has to be seen to first (`EX_CONFIG` of BSD's `sysexits.h`).
pub const EXIT_HOPELESS: u8 = 78;

/// Exit status of a coordinator that was removed from its group: with what it has it can never take
/// part again, so it is left alone.
pub const EXIT_REMOVED: u8 = 79;

pub use digest::Digest;
pub use error::{ErrorCode, RemoteError};
pub use ids::*;
