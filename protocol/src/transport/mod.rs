//! QUIC with mutual TLS: the only way by which processes of a cluster talk over a network.
//!
//! # Who is who
//!
//! An [`Authority`] makes an [`Identity`] (certificate, private key, the authority's certificate)
//! for every process and person; [`Identity::save`] and [`Identity::load`] keep it in a folder.
//! A certificate names a [`Role`], a name and the cluster in DNS names:
//! `ROLE.NAME.CLUSTER.evoring` and `CLUSTER.evoring`; the authority's name constraint allows
//! nothing else. There is no mode without certificates.
//!
//! # Connections
//!
//! A [`Listener`] (coordinator or worker) accepts every role of its own cluster, so its owner
//! looks at [`Connection::peer`] before acting. A [`Connector`] says which role it expects and
//! gets its [`Connection`] once **both** sides have accepted each other. Everybody else is
//! refused, and both sides' [`TransportError`] says why and what to do
//! ([`TransportError::can_retry`] tells whether to try again).
//!
//! # Messages
//!
//! A [`Connection`] carries streams; each has a [`Sender`] and a [`Receiver`] for the
//! [`Message`](crate::codec::Message)s of its protocol. Remember:
//!
//! - The other side sees a new stream with its first message: who opens must send first.
//! - `send` and `receive` are **not cancel-safe**, never put them into `select!`. One task owns
//!   each half; [`Receiver::into_queue`] and [`Sender::into_queue`] start that task. `accept`,
//!   `open`, `closed` and the queues are cancel-safe.
//! - That `send` returned does not mean that anything arrived, and [`Connection::close`] drops what
//!   is on its way: answer in the protocol, or use [`Sender::finish_and_wait`].
//! - A dead peer is noticed after [`IDLE_TIMEOUT`]; heartbeats in the protocol are faster.
//!
//! # Example
//!
//! ```no_run
//! use evoring_protocol::ClusterId;
//! use evoring_protocol::client::{ClientReply, ClientRequest};
//! use evoring_protocol::transport::{Authority, Connection, Connector, Identity, Listener, Role, TransportError};
//! use std::net::{Ipv4Addr, SocketAddr};
//! use std::path::Path;
//! use std::time::SystemTime;
//!
//! /// `evoring local` makes a throw-away authority and one identity for each process.
//! fn make_identities(directory: &Path, random: [u8; 8]) -> Result<(), TransportError> {
//!     let now = SystemTime::now();
//!     let authority = Authority::create(ClusterId(random), now)?;
//!     authority.issue(Role::Coordinator, "c1", now)?.save(&directory.join("c1"))?;
//!     authority.issue(Role::Worker, "w1", now)?.save(&directory.join("w1"))?;
//!     authority.issue(Role::Submitter, "me", now)?.save(&directory.join("me"))?;
//!     Ok(())
//! }
//!
//! /// The coordinator's shell.
//! async fn listen(identity: &Identity) -> Result<(), TransportError> {
//!     let mut listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), identity)?;
//!     println!("listening at {}", listener.local_addr());
//!     while let Some(accepted) = listener.accept().await {
//!         match accepted {
//!             Ok(connection) if connection.peer().role == Role::Submitter => {
//!                 tokio::spawn(async move { answer(&connection).await });
//!             }
//!             Ok(connection) => connection.close("only submitters are served in this example"),
//!             Err(refusal) => eprintln!("{refusal}"),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! async fn answer(connection: &Connection) -> Result<(), TransportError> {
//!     loop {
//!         let (mut sender, mut receiver) = connection.accept().await?;
//!         if let Some(ClientRequest::Jobs) = receiver.receive().await? {
//!             sender.send(&ClientReply::Jobs(Vec::new())).await?;
//!         }
//!         sender.finish();
//!     }
//! }
//!
//! /// A client: one stream for each request.
//! async fn ask(identity: &Identity, coordinator: SocketAddr) -> Result<Option<ClientReply>, TransportError> {
//!     let connection = Connector::new(identity)?.connect(coordinator, Role::Coordinator).await?;
//!     let (mut sender, mut receiver) = connection.open().await?;
//!     sender.send(&ClientRequest::Jobs).await?;
//!     sender.finish();
//!     let reply = receiver.receive().await?;
//!     connection.close_and_wait("done").await;
//!     Ok(reply)
//! }
//!
//! /// An agent: one long stream, read by its own task so that the agent can `select!`.
//! async fn work(connection: &Connection) -> Result<(), TransportError> {
//!     use evoring_protocol::worker::{WorkerCommand, WorkerReport};
//!     let (mut sender, receiver) = connection.open().await?;
//!     sender.send(&WorkerReport::Heartbeat { executors: vec![1] }).await?;
//!     let mut commands = receiver.into_queue::<WorkerCommand>(16);
//!     let (reports, _writer) = sender.into_queue::<WorkerReport>(16);
//!     loop {
//!         tokio::select! {
//!             biased;
//!             command = commands.recv() => match command {
//!                 Some(command) => println!("{:?}", command?),
//!                 None => return Ok(()),
//!             },
//!             _ = reports.closed() => return Err(connection.closed().await),
//!         }
//!     }
//! }
//! ```

mod alert;
mod announcement;
mod authority;
mod connection;
mod connector;
mod error;
mod identity;
mod listener;
mod look_up;
mod peer;
mod search;
mod settings;
mod stream;
mod tls;

pub use announcement::{Announcement, small_file};
pub use authority::{Authority, BACKDATING, LIFETIME};
pub use connection::Connection;
pub use connector::Connector;
pub use error::{IdentityError, TransportError};
pub use identity::{AUTHORITY_FILE, CERTIFICATE_FILE, Identity, IdentityPart, KEY_FILE};
pub use listener::Listener;
pub use look_up::look_up;
pub use peer::{Peer, Remote, Role};
pub use search::Search;
pub use settings::{CONNECT_TIMEOUT, IDLE_TIMEOUT, KEEP_ALIVE, WATCHED_IDLE_TIMEOUT};
pub use stream::{Receiver, Sender};

#[cfg(test)]
mod tests;
