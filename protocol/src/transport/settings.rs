//! Every limit of the transport. The library's defaults are made for the open internet: 65,536
//! pending handshakes, 100 MiB of early data, no limit for a connection's window.

use quinn::{IdleTimeout, TransportConfig, VarInt};
use std::time::Duration;

/// Version of this layer (names, greeting, close codes), part of the protocol name that both
/// sides must offer. Messages have their own in [`crate::version`].
pub(super) const TRANSPORT_VERSION: u8 = 1;

/// A connection without any sign of life ends after this.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The connecting side says that often that it lives; the answer tells it about the other.
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// A connection is complete, certificates checked on both sides, after this or not at all.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// [`IDLE_TIMEOUT`] of a connection for which there is a substitute: a frozen coordinator is left for
/// another after this, and what merely starved for a while is found again.
pub const WATCHED_IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// [`KEEP_ALIVE`] of such a connection; two may be lost.
const WATCHED_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Head start of one address before the next one is tried beside it.
pub(super) const HEAD_START: Duration = Duration::from_millis(crate::worker::HEAD_START_MS);
/// Longest wait for a close to reach the other side.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes in flight on one stream. Larger windows let lossy paths break the connection: the
/// library keeps at most 1,024 pieces of an interrupted stream.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// Bytes in flight on all streams of a connection, each way: the most that a peer which nobody
/// reads can make us hold.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Streams that a peer may have open at once; `open` waits beyond that.
const STREAMS: u32 = 64;
/// Bytes of handshake messages kept out of order; a certificate of ours has under 1,000.
const HANDSHAKE_BYTES: usize = 16 << 10;
/// First guess of a round trip, until measured: decides when a lost first packet is repeated.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);

/// Handshakes that are worked on at once; half of that makes newcomers prove their address.
pub(super) const HANDSHAKES: usize = 256;
/// First packets that wait for one of the above.
const PENDING_HANDSHAKES: usize = 1024;
/// Bytes kept for one that waits.
const PENDING_BYTES: u64 = 16 << 10;
/// Bytes kept for all that wait.
const PENDING_BYTES_TOTAL: u64 = 4 << 20;
/// Connections of one listener: 10,000 workers and as many people as will ever look.
pub(super) const CONNECTIONS: usize = 16_384;
/// Bytes that the system keeps for a listener's socket, each way.
pub(super) const SOCKET_BYTES: usize = 4 << 20;
/// Accepted connections that wait to be taken.
pub(super) const ACCEPTED_QUEUE: usize = 64;

/// Settings of a listening side. The one-way stream of the greeting goes from it only.
pub(super) fn listening() -> TransportConfig {
    common(0)
}

/// Settings of a connecting side.
pub(super) fn connecting() -> TransportConfig {
    let mut config = common(1);
    config.keep_alive_interval(Some(KEEP_ALIVE));
    config
}

/// Settings of a connecting side that can go elsewhere.
pub(super) fn watching() -> TransportConfig {
    let mut config = connecting();
    let idle = VarInt::from_u32(WATCHED_IDLE_TIMEOUT.as_millis() as u32);
    config
        .keep_alive_interval(Some(WATCHED_KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(idle)));
    config
}

fn common(one_way_streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(one_way_streams))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            IDLE_TIMEOUT.as_millis() as u32,
        ))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .crypto_buffer_size(HANDSHAKE_BYTES)
        .initial_rtt(FIRST_ROUND_TRIP)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0);
    config
}

/// Applies the limits for peers that are not known yet.
pub(super) fn limit_newcomers(config: &mut quinn::ServerConfig) {
    config
        .max_incoming(PENDING_HANDSHAKES)
        .incoming_buffer_size(PENDING_BYTES)
        .incoming_buffer_size_total(PENDING_BYTES_TOTAL);
}
