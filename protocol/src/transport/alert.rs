//! TLS alerts (RFC 8446, section 6) as QUIC carries them: error codes 0x100 and above.

use quinn::TransportErrorCode;

/// The signature under a certificate is not the authority's.
pub(super) const DECRYPT_ERROR: u8 = 51;
/// A certificate is outside of its lifetime.
pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
/// A certificate was made by another authority.
pub(super) const UNKNOWN_CA: u8 = 48;
/// No certificate was presented.
pub(super) const CERTIFICATE_REQUIRED: u8 = 116;
/// Both sides offer different protocol names: another cluster, or another transport version.
pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;

/// The alert in an error code, if it is one.
pub(super) fn of(code: TransportErrorCode) -> Option<u8> {
    u64::from(code)
        .checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
}
