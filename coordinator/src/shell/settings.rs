//! The command line, checked.

use clap::Parser;
use evoring_protocol::client::is_address;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The Evoring coordinator: keeps jobs, decides who computes what.
#[derive(Debug, Clone, Parser)]
#[command(name = "evoring-coordinator", version)]
pub struct Settings {
    /// Folder of the log, the event file and the lock; made if absent. One process at a time.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Folder with this coordinator's certificate, key and authority.
    #[arg(long, value_name = "DIR")]
    pub identity: PathBuf,
    /// Address for workers and clients (QUIC, UDP); port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Address for /metrics, /healthz and /readyz (HTTP, read-only); port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub http: SocketAddr,
    /// URL of the blob store, the same for all workers: file:///DIR
    #[arg(long, value_name = "URL")]
    pub blobs: String,
    /// File to write, once ready, as JSON: {"listen", "http", "process"}.
    #[arg(long, value_name = "FILE")]
    pub announce: PathBuf,
    /// Address under which other coordinators and workers reach this one, if it is not the one of
    /// --listen: HOST:PORT
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub advertise: Option<String>,
    /// Make an empty folder a new group with this coordinator as its only member. Without it, a
    /// coordinator with an empty folder waits to be taken into a group (`evoring cluster add`).
    #[arg(long)]
    pub create: bool,
    /// Read and write records up to this version only, so that the group can go back to an older
    /// build; for the time of an upgrade.
    #[arg(long, value_name = "N")]
    pub hold_version: Option<u16>,
    /// Inherited pipe at whose end of file the coordinator stops.
    #[arg(long, value_name = "N")]
    pub lifeline_fd: Option<u32>,
}

fn address(text: &str) -> Result<String, String> {
    match is_address(text) {
        true => Ok(text.to_owned()),
        false => Err("expected HOST:PORT or [IPV6]:PORT".to_owned()),
    }
}
