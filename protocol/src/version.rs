//! What two processes must have in common before they talk.

/// Version of the messages in this crate; raised by any change of a message.
pub const PROTOCOL_VERSION: u16 = 2;

/// Identity of a build: processes of another build refuse each other and say what to run.
pub fn build_id() -> String {
    format!(
        "{}+protocol.{}",
        env!("CARGO_PKG_VERSION"),
        PROTOCOL_VERSION
    )
}
