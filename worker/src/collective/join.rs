//! Joining a gang: the first rank makes the shared memory and lets the others in.

use super::CollectiveError;
use super::layout::{self, Layout};
use super::mapping::Header;
use super::meeting::{self, HELLO_BYTES, PROOF_BYTES};
use super::shm::Settings;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest wait before the stop flag is looked at.
const SLICE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Pause before asking again whether the first rank is there.
const RETRY: Duration = Duration::from_millis(10);
/// Time for a connection to say its hello.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// Connections beyond the members that may be open without having said hello.
const STRANGERS: usize = 64;

/// The memory of a gang and the connections to its members: those of the first rank to all
/// others, those of another rank to the first.
#[derive(Debug)]
pub struct Joined {
    /// The memfd.
    pub file: OwnedFd,
    /// Its header.
    pub header: Header,
    /// Members by rank.
    pub connections: Vec<(u32, UnixStream)>,
}

/// Gives up when told to stop or when the time is over.
struct Waiting<'a> {
    settings: &'a Settings,
    begin: Instant,
}

impl Waiting<'_> {
    fn look(&self, what: &str) -> Result<(), CollectiveError> {
        if self.settings.stop.load(Ordering::Acquire) {
            return Err(CollectiveError::Aborted {
                reason: "told to stop".to_owned(),
            });
        }
        let waited = self.begin.elapsed();
        if waited >= self.settings.join_time {
            return Err(CollectiveError::TimedOut {
                what: what.to_owned(),
                waited,
            });
        }
        Ok(())
    }
}

/// Joins the gang of `settings`.
pub fn join(settings: &Settings, layout: &Layout) -> Result<Joined, CollectiveError> {
    let waiting = Waiting {
        settings,
        begin: Instant::now(),
    };
    if settings.rank > 0 {
        return join_first_rank(&waiting, layout);
    }
    let (file, header) = create(layout)?;
    let connections = if layout.world_size > 1 {
        admit_members(&waiting, &file)?
    } else {
        Vec::new()
    };
    Ok(Joined {
        file,
        header,
        connections,
    })
}

/// Makes the memory. It cannot change its size afterwards, so that no access of a member fails.
fn create(layout: &Layout) -> Result<(OwnedFd, Header), CollectiveError> {
    let what = "make the gang's shared memory";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file =
        rustix::fs::memfd_create("evoring-gang", flags).map_err(CollectiveError::io(what))?;
    rustix::fs::ftruncate(&file, layout.bytes() as u64).map_err(CollectiveError::io(what))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(CollectiveError::io(what))?;
    let header = Header::map(&file, layout)?;
    for (index, value) in header_words(layout) {
        header.word(index).store(value, Ordering::Release);
    }
    Ok((file, header))
}

/// What the header says about the gang.
fn header_words(layout: &Layout) -> [(usize, u32); 5] {
    [
        (layout::WORD_MAGIC, layout::MAGIC),
        (layout::WORD_WORLD_SIZE, layout.world_size),
        (layout::WORD_SHARDS, layout.shards),
        (layout::WORD_LENGTH, layout.length as u32),
        (layout::WORD_LENGTH + 1, (layout.length as u64 >> 32) as u32),
    ]
}

/// Lets members in until all are there.
fn admit_members(
    waiting: &Waiting<'_>,
    file: &OwnedFd,
) -> Result<Vec<(u32, UnixStream)>, CollectiveError> {
    let listener = listen(waiting)?;
    let mut door = Door {
        listener,
        strangers: Vec::new(),
        members: Vec::new(),
    };
    let others = waiting.settings.world_size as usize - 1;
    while door.members.len() < others {
        let present: Vec<u32> = door.members.iter().map(|(rank, _)| *rank).collect();
        waiting.look(&format!(
            "{} other members; ranks {present:?} are here",
            others
        ))?;
        door.wait()?;
        door.accept(others + STRANGERS)?;
        door.greet(waiting.settings, file);
        if let Some(rank) = door.gone() {
            return Err(CollectiveError::Aborted {
                reason: format!("rank {rank} is gone"),
            });
        }
    }
    door.members.sort_unstable_by_key(|(rank, _)| *rank);
    Ok(door.members)
}

fn listen(waiting: &Waiting<'_>) -> Result<UnixListener, CollectiveError> {
    let address = meeting::address(&waiting.settings.secret)?;
    let what = "open the gang's meeting point";
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                listener
                    .set_nonblocking(true)
                    .map_err(CollectiveError::io(what))?;
                return Ok(listener);
            }
            // An earlier process of this rank may be about to end.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                waiting.look("the gang's meeting point to be free")?
            }
            Err(error) => return Err(CollectiveError::io(what)(error)),
        }
        std::thread::sleep(RETRY);
    }
}

/// The first rank's listening socket and who has come.
struct Door {
    listener: UnixListener,
    strangers: Vec<Stranger>,
    members: Vec<(u32, UnixStream)>,
}

/// A connection that has not yet proved to be a member's.
struct Stranger {
    stream: UnixStream,
    since: Instant,
    hello: [u8; HELLO_BYTES],
    filled: usize,
}

impl Door {
    /// Waits until something happens, for at most [`SLICE`].
    fn wait(&self) -> Result<(), CollectiveError> {
        let strangers = self.strangers.iter().map(|stranger| &stranger.stream);
        let streams = strangers.chain(self.members.iter().map(|(_, stream)| stream));
        let mut files = vec![PollFd::new(&self.listener, PollFlags::IN)];
        files.extend(streams.map(|stream| PollFd::new(stream, PollFlags::IN)));
        match poll(&mut files, Some(&SLICE)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(CollectiveError::io("wait for the gang's members")(error)),
        }
    }

    fn accept(&mut self, most: usize) -> Result<(), CollectiveError> {
        let what = "let a member of the gang in";
        while self.strangers.len() < most {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream
                        .set_nonblocking(true)
                        .map_err(CollectiveError::io(what))?;
                    let since = Instant::now();
                    self.strangers.push(Stranger {
                        stream,
                        since,
                        hello: [0; HELLO_BYTES],
                        filled: 0,
                    });
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(CollectiveError::io(what)(error)),
            }
        }
        Ok(())
    }

    /// Reads hellos; lets in who proves to be a member that is not here yet, closes on all others.
    fn greet(&mut self, settings: &Settings, file: &OwnedFd) {
        for mut stranger in std::mem::take(&mut self.strangers) {
            match stranger.read() {
                Ok(false) if stranger.since.elapsed() < HELLO_TIME => self.strangers.push(stranger),
                Ok(true) => {
                    let rank = meeting::read_hello(&settings.secret, &stranger.hello);
                    let is_missing = |rank: &u32| {
                        (1..settings.world_size).contains(rank)
                            && self.members.iter().all(|(here, _)| here != rank)
                    };
                    if let Some(rank) = rank.filter(is_missing)
                        && meeting::send_answer(&stranger.stream, &settings.secret, file.as_fd())
                            .is_ok()
                    {
                        self.members.push((rank, stranger.stream));
                    }
                }
                _ => {}
            }
        }
    }

    /// A member that has gone again.
    fn gone(&self) -> Option<u32> {
        let is_gone = |(_, stream): &&(u32, UnixStream)| {
            let mut files = [PollFd::new(stream, PollFlags::IN)];
            poll(
                &mut files,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                }),
            )
            .is_ok_and(|ready| ready > 0)
        };
        // Members say nothing after their hello: whatever comes is the end.
        self.members.iter().find(is_gone).map(|(rank, _)| *rank)
    }
}

impl Stranger {
    /// Reads on; whether the hello is complete.
    fn read(&mut self) -> std::io::Result<bool> {
        while self.filled < HELLO_BYTES {
            match self.stream.read(&mut self.hello[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn join_first_rank(waiting: &Waiting<'_>, layout: &Layout) -> Result<Joined, CollectiveError> {
    let (secret, rank) = (&waiting.settings.secret, waiting.settings.rank);
    let mut stream = connect(waiting)?;
    stream
        .write_all(&meeting::hello(secret, rank))
        .map_err(CollectiveError::io("greet the gang's first rank"))?;
    let file = receive(waiting, &stream)?;
    let header = check(&file, layout)?;
    Ok(Joined {
        file,
        header,
        connections: vec![(0, stream)],
    })
}

fn connect(waiting: &Waiting<'_>) -> Result<UnixStream, CollectiveError> {
    let address = meeting::address(&waiting.settings.secret)?;
    loop {
        match UnixStream::connect_addr(&address) {
            Ok(stream) => return Ok(stream),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused
                        | ErrorKind::NotFound
                        | ErrorKind::Interrupted
                        | ErrorKind::WouldBlock
                ) =>
            {
                waiting.look("the gang's first rank")?;
            }
            Err(error) => {
                return Err(CollectiveError::io("connect to the gang's first rank")(
                    error,
                ));
            }
        }
        std::thread::sleep(RETRY);
    }
}

/// The memfd, from somebody who knows the secret.
fn receive(waiting: &Waiting<'_>, stream: &UnixStream) -> Result<OwnedFd, CollectiveError> {
    let what = "receive the gang's shared memory";
    let (mut proof, mut filled, mut file) = ([0; PROOF_BYTES], 0, None);
    while filled < PROOF_BYTES {
        waiting.look("the first rank's answer")?;
        let mut files = [PollFd::new(stream, PollFlags::IN)];
        match poll(&mut files, Some(&SLICE)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(CollectiveError::io(what)(error)),
        }
        let received = meeting::receive_answer(stream, &mut proof[filled..])
            .map_err(CollectiveError::io(what))?;
        let Some((count, sent)) = received else {
            let reason = "rank 0 is gone, or refused this member".to_owned();
            return Err(CollectiveError::Aborted { reason });
        };
        filled += count;
        file = file.or(sent);
    }
    if !meeting::is_equal(&proof, &meeting::answer(&waiting.settings.secret)) {
        return Err(CollectiveError::Refused(
            "whoever holds the gang's meeting point does not know its secret".to_owned(),
        ));
    }
    file.ok_or_else(|| CollectiveError::Refused("the first rank sent no shared memory".to_owned()))
}

/// Whether the memory is what this member expects; returns its header.
fn check(file: &OwnedFd, layout: &Layout) -> Result<Header, CollectiveError> {
    let what = "look at the gang's shared memory";
    let bytes = rustix::fs::fstat(file)
        .map_err(CollectiveError::io(what))?
        .st_size;
    let seals = rustix::fs::fcntl_get_seals(file).map_err(CollectiveError::io(what))?;
    if usize::try_from(bytes).ok() != Some(layout.bytes()) || !seals.contains(SealFlags::SHRINK) {
        let message = format!(
            "the gang's shared memory has {bytes} bytes: expected {} for {layout}",
            layout.bytes()
        );
        return Err(CollectiveError::Refused(message));
    }
    let header = Header::map(file, layout)?;
    match header_words(layout)
        .iter()
        .find(|(index, value)| header.word(*index).load(Ordering::Acquire) != *value)
    {
        None => Ok(header),
        Some((index, expected)) => {
            let got = header.word(*index).load(Ordering::Acquire);
            let message = format!(
                "the gang's header: word {index} is {got}, expected {expected} for {layout}"
            );
            Err(CollectiveError::Refused(message))
        }
    }
}
