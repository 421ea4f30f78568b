//! Frames from a careless or hostile sender: every limit, every cut, every wrong byte.

use evoring_protocol::client::{
    ClientReply, ClientRequest, ClusterView, JobStatus, JobView, LogLine, MemberRole, MemberView,
    WorkerView,
};
use evoring_protocol::codec::{
    self, CodecError, FRAME_VERSION, FrameKind, HEADER_BYTES, Message, OLDEST_FRAME, WRITTEN_FRAME,
    decode_body, decode_header, encode, read_frame, write_frame,
};
use evoring_protocol::event::{Event, EventKind};
use evoring_protocol::executor::{ExecutorCommand, ExecutorReport};
use evoring_protocol::numerics::NumericsClass;
use evoring_protocol::peer::{PeerMessage, PeerReply, RAFT_MESSAGES};
use evoring_protocol::work::{
    Assignment, FailureCause, HeldRank, ItemOutcome, Kernel, Lease, LeasedItem, Member, Roster,
    WorkError,
};
use evoring_protocol::worker::{Hello, WorkerCommand, WorkerReport};
use evoring_protocol::{
    Attempt, DemandId, Digest, ItemIndex, JobId, Rank, RosterNumber, SlotIndex, Term, WorkerId,
    limits,
};
use proptest::prelude::*;
use std::io::{self, Cursor, ErrorKind};

/// A lease of these items.
fn lease(items: Vec<LeasedItem>) -> Lease {
    Lease {
        job: JobId(1),
        demand: DemandId(1),
        items,
        worker: WorkerId::new("w").expect("a valid name"),
        slot: SlotIndex(0),
        term: Term(1),
        number: 1,
        expiry_ms: 0,
        mac: [0; 32],
    }
}

fn header(bytes: u32, kind: u8, version: u8) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = bytes.to_le_bytes();
    [a, b, c, d, kind, version]
}

/// Claim: a body of exactly the limit is announced, one byte more is refused.
/// Method: for each kind, the header at both sides of its limit.
#[test]
fn limits_of_announced_bodies() {
    fn check<M: Message>() {
        let limit = M::KIND.limit_bytes();
        let kind = M::KIND as u8;
        assert_eq!(
            decode_header::<M>(header(limit as u32, kind, FRAME_VERSION)),
            Ok(limit)
        );
        for got in [limit + 1, u32::MAX as usize] {
            assert_eq!(
                decode_header::<M>(header(got as u32, kind, FRAME_VERSION)),
                Err(CodecError::TooLarge {
                    kind: M::KIND,
                    limit,
                    got
                })
            );
        }
    }
    check::<WorkerReport>();
    check::<WorkerCommand>();
    check::<ClientRequest>();
    check::<ClientReply>();
    check::<ExecutorCommand>();
    check::<ExecutorReport>();
    check::<PeerMessage>();
    check::<PeerReply>();
}

/// Claim: what a sender may send is what a receiver takes, to the byte.
/// Method: a message whose body is exactly the limit, and one a byte longer.
#[test]
fn limits_of_sent_bodies() {
    let limit = FrameKind::ClientReply.limit_bytes();
    // The variant's number and the length of this many bytes take 1 and 4 bytes.
    let longest = ClientReply::BlobChunk(vec![7; limit - 5]);
    let frame = encode(&longest).unwrap();
    assert_eq!(frame.len(), HEADER_BYTES + limit);
    assert!(read_frame(&mut Cursor::new(frame)).unwrap() == Some(longest));
    let error = encode(&ClientReply::BlobChunk(vec![7; limit - 4])).unwrap_err();
    assert_eq!(
        error,
        CodecError::TooLarge {
            kind: FrameKind::ClientReply,
            limit,
            got: limit + 1
        }
    );
}

/// Claim: the largest useful messages fit: a whole job file, a whole piece of a blob, an item of
/// the largest size.
/// Method: encode them.
#[test]
fn largest_useful_messages_fit() {
    let submit = ClientRequest::Submit {
        key: evoring_protocol::SubmissionKey([0xff; 16]),
        file: "f".repeat(limits::TEXT_BYTES),
        text: "t".repeat(limits::JOB_FILE_BYTES),
        refuse_unless_fits: true,
    };
    encode(&submit).unwrap();
    encode(&ClientReply::BlobChunk(vec![0; limits::BLOB_CHUNK_BYTES])).unwrap();
}

/// Claim: kinds have the documented numbers, each its own.
/// Method: the table, written out a second time.
#[test]
fn kinds_keep_their_numbers() {
    let numbers = [
        (FrameKind::WorkerReport, 1),
        (FrameKind::WorkerCommand, 2),
        (FrameKind::ClientRequest, 3),
        (FrameKind::ClientReply, 4),
        (FrameKind::ExecutorCommand, 5),
        (FrameKind::ExecutorReport, 6),
        (FrameKind::PeerMessage, 7),
        (FrameKind::PeerReply, 8),
    ];
    for (kind, number) in numbers {
        assert_eq!(kind as u8, number);
    }
}

/// Claim: bytes after a message are an error, not ignored.
/// Method: a whole message and one byte.
#[test]
fn trailing_bytes_are_an_error() {
    let mut body = encode(&ClientRequest::Jobs)
        .unwrap()
        .split_off(HEADER_BYTES);
    body.push(0);
    let error = decode_body::<ClientRequest>(&body).unwrap_err();
    assert_eq!(
        error.to_string(),
        "body of a ClientRequest (2 bytes): 1 bytes left over"
    );
}

/// Claim: a stream that ends between frames ends; one that ends inside of a frame fails.
/// Method: every prefix of two frames.
#[test]
fn every_cut_of_a_stream() {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &ClientRequest::Show { job: JobId(7) }).unwrap();
    let first = bytes.len();
    write_frame(&mut bytes, &ClientRequest::Jobs).unwrap();
    for cut in 0..=bytes.len() {
        let mut stream = Cursor::new(&bytes[..cut]);
        let mut received = 0;
        let end = loop {
            match read_frame::<ClientRequest>(&mut stream) {
                Ok(Some(_)) => received += 1,
                Ok(None) => break None,
                Err(error) => break Some(error.kind()),
            }
        };
        let whole = cut == 0 || cut == first || cut == bytes.len();
        let expected = if whole {
            None
        } else {
            Some(ErrorKind::UnexpectedEof)
        };
        assert_eq!(end, expected, "cut at {cut}");
        assert_eq!(
            received,
            usize::from(cut >= first) + usize::from(cut == bytes.len())
        );
    }
}

/// Gives one byte at a time, and an interruption before each.
struct Trickle<'a>(&'a [u8], bool);

impl io::Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(ErrorKind::Interrupted.into());
        }
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(0);
        };
        buffer[0] = *first;
        self.0 = rest;
        Ok(1)
    }
}

/// Claim: how the bytes arrive does not matter.
/// Method: a reader that gives single bytes and is interrupted in between.
#[test]
fn slow_and_interrupted_reader() {
    let mut bytes = Vec::new();
    let request = ClientRequest::Explain {
        job: JobId(u64::MAX),
    };
    write_frame(&mut bytes, &request).unwrap();
    let mut reader = Trickle(&bytes, false);
    assert_eq!(read_frame(&mut reader).unwrap(), Some(request));
    assert_eq!(read_frame::<ClientRequest>(&mut reader).unwrap(), None);
}

/// Claim: a length inside of a body that is larger than the body takes no memory of that size.
/// Method: vectors, texts and maps of 2^64-1 elements; were memory taken, this would abort.
#[test]
fn huge_inner_lengths_are_errors() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for variant in 0..=16u8 {
        for padding in 0..8 {
            let body = [&[variant][..], &vec![1; padding], &huge].concat();
            refuse_or_understand::<WorkerReport>(&body);
            refuse_or_understand::<WorkerCommand>(&body);
            refuse_or_understand::<ClientRequest>(&body);
            refuse_or_understand::<ClientReply>(&body);
            refuse_or_understand::<ExecutorCommand>(&body);
            refuse_or_understand::<ExecutorReport>(&body);
            refuse_or_understand::<PeerMessage>(&body);
            refuse_or_understand::<PeerReply>(&body);
        }
    }
}

/// Any bytes: an error, or a message that survives another round.
fn refuse_or_understand<M: Message>(body: &[u8]) {
    if let Ok(message) = decode_body::<M>(body) {
        let again = encode(&message).expect("a decoded message fits into a frame");
        let decoded =
            decode_body::<M>(&again[HEADER_BYTES..]).expect("what was encoded can be decoded");
        // Not the messages: a NaN is not equal to itself.
        assert_eq!(encode(&decoded), Ok(again));
    }
}

proptest! {
    /// Claim: a header is accepted exactly if kind, version and size are right.
    /// Method: any six bytes, often with right kind and version, against the rule said again.
    #[test]
    fn headers(
        bytes in any::<u32>(),
        kind in prop_oneof![Just(FrameKind::ClientRequest as u8), any::<u8>()],
        version in prop_oneof![OLDEST_FRAME..=FRAME_VERSION, any::<u8>()],
        shift in 0..32u32,
    ) {
        let bytes = bytes >> shift;
        let decoded = decode_header::<ClientRequest>(header(bytes, kind, version));
        let fits = bytes as usize <= limits::CLIENT_REQUEST_BYTES;
        let is_read = (OLDEST_FRAME..=FRAME_VERSION).contains(&version);
        let right = kind == FrameKind::ClientRequest as u8 && is_read && fits;
        prop_assert_eq!(decoded.ok(), right.then_some(bytes as usize));
    }

    /// Claim: no body panics, whatever its bytes.
    /// Method: any bytes, as every kind.
    #[test]
    fn hostile_bodies(body in proptest::collection::vec(any::<u8>(), 0..512)) {
        refuse_or_understand::<WorkerReport>(&body);
        refuse_or_understand::<WorkerCommand>(&body);
        refuse_or_understand::<ClientRequest>(&body);
        refuse_or_understand::<ClientReply>(&body);
        refuse_or_understand::<ExecutorCommand>(&body);
        refuse_or_understand::<ExecutorReport>(&body);
        refuse_or_understand::<PeerMessage>(&body);
        refuse_or_understand::<PeerReply>(&body);
    }

    /// Claim: no stream panics the blocking reader.
    /// Method: any bytes, often behind a right header.
    #[test]
    fn hostile_streams(
        body in proptest::collection::vec(any::<u8>(), 0..64),
        announced in 0..80u32,
        begin in any::<bool>(),
    ) {
        let mut stream = Vec::new();
        if begin {
            stream.extend(header(announced, FrameKind::WorkerReport as u8, FRAME_VERSION));
        }
        stream.extend(body);
        let mut stream = Cursor::new(stream);
        while let Ok(Some(_)) = read_frame::<WorkerReport>(&mut stream) {}
    }

    /// Claim: a name that no worker may have does not get in by a message either.
    /// Method: any text as the name in a message, against the rule said again.
    #[test]
    fn worker_names(name in prop_oneof!["[a-z0-9-]{0,66}", ".{0,8}"]) {
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let is_inner = !name.starts_with('-') && !name.ends_with('-');
        let valid = (1..=63).contains(&name.len()) && is_inner && name.chars().all(allowed);
        prop_assert_eq!(WorkerId::new(&name).is_ok(), valid);
        let bytes = postcard::to_allocvec(&name).unwrap();
        prop_assert_eq!(postcard::from_bytes::<WorkerId>(&bytes).is_ok(), valid);
    }

    /// Claim: digests survive as text, and nothing else is read as one.
    /// Method: any digest there and back; any text against the rule said again.
    #[test]
    fn digests_as_text(bytes in any::<[u8; 32]>(), text in prop_oneof!["[0-9a-fA-F]{62,66}", ".{0,66}"]) {
        let digest = Digest(bytes);
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        prop_assert_eq!(text.parse::<Digest>().is_ok(), valid);
    }
}

/// Claim: a report cannot make the reader take much more memory than its frame has bytes.
/// Method: as many lines and outcomes as allowed, and one more of each.
#[test]
fn reports_are_bounded() {
    let fits = |report: WorkerReport| {
        let body = postcard::to_allocvec(&report).unwrap();
        codec::decode_body::<WorkerReport>(&body).is_ok()
    };
    let log = |lines: usize| WorkerReport::Log {
        job: JobId(1),
        lines: vec![String::new(); lines],
    };
    let outcome = ItemOutcome {
        index: ItemIndex(0),
        result: Ok(Vec::new()),
    };
    let lease = lease(Vec::new());
    let results = |outcomes: usize| WorkerReport::Results {
        sequence: 1,
        lease: lease.clone(),
        outcomes: vec![outcome.clone(); outcomes],
    };
    assert!(fits(log(limits::REPORT_LINES)) && !fits(log(limits::REPORT_LINES + 1)));
    assert!(fits(results(limits::LEASE_ITEMS)) && !fits(results(limits::LEASE_ITEMS + 1)));
    let raft = |messages: usize| {
        let body = postcard::to_allocvec(&PeerMessage::Raft(vec![Vec::new(); messages])).unwrap();
        codec::decode_body::<PeerMessage>(&body).is_ok()
    };
    assert!(raft(RAFT_MESSAGES) && !raft(RAFT_MESSAGES + 1));
}

/// Claim: an executor cannot make its agent take much more memory than its frame has bytes, nor the
/// other way round.
/// Method: as many items, outcomes and files as allowed, and one more of each.
#[test]
fn executor_frames_are_bounded() {
    fn fits<M: Message>(message: &M) -> bool {
        decode_body::<M>(&postcard::to_allocvec(message).unwrap()).is_ok()
    }
    let assignment = Assignment {
        job: JobId(1),
        demand: DemandId(1),
        stage: String::new(),
        kernel: Kernel::PruneEvaluate,
        payload: Vec::new(),
        inputs: Vec::new(),
    };
    let outcome = ItemOutcome {
        index: ItemIndex(0),
        result: Ok(Vec::new()),
    };
    let run = |inputs: usize, items: usize| ExecutorCommand::RunItems {
        task: 1,
        assignment: assignment.clone(),
        inputs: vec!["/a".into(); inputs],
        items: vec![(ItemIndex(0), Vec::new()); items],
    };
    let rank = |inputs: usize| ExecutorCommand::RunRank {
        task: 1,
        assignment: assignment.clone(),
        inputs: vec!["/a".into(); inputs],
        rank: Rank(0),
        world_size: 1,
        secret: [0; 32],
        resume: None,
    };
    let items = |outcomes: usize| ExecutorReport::Items {
        task: 1,
        outcomes: vec![outcome.clone(); outcomes],
    };
    let finished = |blobs: usize| ExecutorReport::RankFinished {
        task: 1,
        result: Vec::new(),
        blobs: vec!["/a".into(); blobs],
    };
    let (files, most) = (limits::INPUTS, limits::LEASE_ITEMS);
    assert!(fits(&run(files, most)) && fits(&rank(files)));
    assert!(!fits(&run(files + 1, most)) && !fits(&run(files, most + 1)));
    assert!(!fits(&rank(files + 1)));
    assert!(fits(&items(most)) && !fits(&items(most + 1)));
    assert!(fits(&finished(files)) && !fits(&finished(files + 1)));
}

/// Claim: a reply or a command cannot make its reader take much more memory than its frame has bytes.
/// Method: as many elements of each list as allowed, and one more.
#[test]
fn lists_of_the_coordinator_are_bounded() {
    fn fits<M: Message>(message: &M) -> bool {
        decode_body::<M>(&postcard::to_allocvec(message).unwrap()).is_ok()
    }
    fn bound<M: Message>(what: &str, most: usize, message: impl Fn(usize) -> M) {
        assert!(fits(&message(most)), "{most} {what}");
        assert!(!fits(&message(most + 1)), "{most} {what} and one more");
    }
    let view = |stages: usize, artifacts: usize, labels: usize| JobView {
        job: JobId(1),
        name: String::new(),
        kind: String::new(),
        status: JobStatus::Queued,
        stage: String::new(),
        stages: vec![String::new(); stages],
        submitted_ms: 1,
        started_ms: None,
        ended_ms: None,
        error: None,
        slots: 0,
        items: (0, 0),
        evaluated: 0,
        cache_hits: 0,
        retries: 0,
        training: None,
        generation: None,
        summary: None,
        artifacts: vec![(String::new(), Digest([0; 32])); artifacts],
        labels: vec![(String::new(), String::new()); labels],
    };
    let job = |view: JobView| ClientReply::Job(Box::new(view));
    bound("jobs", limits::LISTED_JOBS, |count| {
        ClientReply::Jobs(vec![view(0, 0, 0); count])
    });
    bound("stages", limits::STAGES, |count| job(view(count, 0, 0)));
    bound("artifacts", limits::ARTIFACTS, |count| {
        job(view(0, count, 0))
    });
    bound("labels", limits::LABELS, |count| job(view(0, 0, count)));
    bound("sentences", limits::SENTENCES, |count| {
        ClientReply::Explanation(vec![String::new(); count])
    });
    let line = LogLine {
        time_ms: 1,
        worker: None,
        text: String::new(),
    };
    bound("lines", limits::PAGE_ITEMS, |count| {
        ClientReply::LogLines(vec![line.clone(); count])
    });
    let event = Event {
        number: 1,
        time_ms: 1,
        entry: None,
        kind: EventKind::CoordinatorWritable,
    };
    bound("events", limits::PAGE_ITEMS, |count| ClientReply::Events {
        coordinator: String::new(),
        events: vec![event.clone(); count],
    });
    let worker = WorkerView {
        worker: WorkerId::new("w").unwrap(),
        connected: true,
        process: 1,
        executors: Vec::new(),
        host: String::new(),
        slots: 1,
        busy: 0,
        numerics: String::new(),
        metrics: None,
    };
    bound("workers", limits::LISTED_WORKERS, |count| {
        ClientReply::Workers(vec![worker.clone(); count])
    });
    let member = MemberView {
        id: 1,
        name: String::new(),
        address: String::new(),
        role: MemberRole::Voter,
        matched: None,
        health: None,
        heard_ms: None,
        problem: None,
    };
    bound("coordinators", limits::LISTED_MEMBERS, |count| {
        ClientReply::Cluster(Box::new(ClusterView {
            answered_by: String::new(),
            group: String::new(),
            version: 2,
            term: 1,
            leader: None,
            commit: 1,
            members: vec![member.clone(); count],
        }))
    });
    let held = HeldRank {
        job: JobId(1),
        demand: DemandId(1),
        roster: RosterNumber(1),
        rank: Rank(0),
        slot: SlotIndex(0),
    };
    let welcome = |leases: usize, ranks: usize| WorkerCommand::Welcome {
        term: Term(1),
        heartbeat_ms: 1,
        blobs: String::new(),
        leases_to_keep: vec![(Term(1), 1); leases],
        ranks_to_keep: vec![held.clone(); ranks],
    };
    bound("leases to keep", limits::HELLO_LEASES, |count| {
        welcome(count, 0)
    });
    bound("ranks to keep", limits::HELLO_RANKS, |count| {
        welcome(0, count)
    });
    let lease = lease(Vec::new());
    let assignment = |inputs: usize| Assignment {
        job: JobId(1),
        demand: DemandId(1),
        stage: String::new(),
        kernel: Kernel::PruneEvaluate,
        payload: Vec::new(),
        inputs: vec![Digest([0; 32]); inputs],
    };
    let grant = |items: usize, inputs: usize| WorkerCommand::Grant {
        lease: lease.clone(),
        assignment: assignment(inputs),
        items: vec![Vec::new(); items],
    };
    bound("items", limits::LEASE_ITEMS, |count| grant(count, 0));
    bound("inputs", limits::INPUTS, |count| grant(0, count));
    let member = Member {
        worker: WorkerId::new("w").unwrap(),
        slot: SlotIndex(0),
    };
    bound("ranks of a gang", limits::GANG_RANKS as usize, |count| {
        WorkerCommand::StartRank {
            held: held.clone(),
            roster: Roster {
                number: RosterNumber(1),
                members: vec![member.clone(); count],
                secret: [0; 32],
                resume: None,
            },
            assignment: assignment(0),
        }
    });
    let hello = |leases: usize, ranks: usize| {
        WorkerReport::Hello(Hello {
            build: String::new(),
            worker: WorkerId::new("w").unwrap(),
            incarnation: 1,
            process: 1,
            host: String::new(),
            slots: 1,
            numerics: NumericsClass(String::new()),
            metrics: None,
            leases: vec![lease.clone(); leases],
            ranks: vec![held.clone(); ranks],
        })
    };
    bound("leases", limits::HELLO_LEASES, |count| hello(count, 0));
    bound("ranks", limits::HELLO_RANKS, |count| hello(0, count));
}

/// Claim: as many executors and leased items as a worker may have are read, and not one more: neither of
/// one lease nor of all leases of a hello together, each of which is small enough.
/// Method: the most of each, and one more.
#[test]
fn what_workers_list_is_bounded() {
    fn fits<M: Message>(message: &M) -> bool {
        decode_body::<M>(&postcard::to_allocvec(message).unwrap()).is_ok()
    }
    let heartbeat = |executors: usize| WorkerReport::Heartbeat {
        executors: vec![1; executors],
    };
    let slots = limits::WORKER_SLOTS as usize;
    assert!(fits(&heartbeat(slots)) && !fits(&heartbeat(slots + 1)));
    let item = LeasedItem {
        index: ItemIndex(0),
        attempt: Attempt(1),
    };
    let lease = |items: usize| lease(vec![item.clone(); items]);
    let results = |items: usize| WorkerReport::Results {
        sequence: 1,
        lease: lease(items),
        outcomes: Vec::new(),
    };
    let most = limits::LEASE_ITEMS;
    assert!(fits(&results(most)) && !fits(&results(most + 1)));
    let hello = |items: usize| {
        let whole = items / most;
        let mut leases = vec![lease(most); whole];
        leases.push(lease(items % most));
        WorkerReport::Hello(Hello {
            build: String::new(),
            worker: WorkerId::new("w").unwrap(),
            incarnation: 1,
            process: 1,
            host: String::new(),
            slots: 1,
            numerics: NumericsClass(String::new()),
            metrics: None,
            leases,
            ranks: Vec::new(),
        })
    };
    assert!(fits(&hello(limits::HELLO_ITEMS)) && !fits(&hello(limits::HELLO_ITEMS + 1)));
}

/// Claim: a header alone takes no memory for the body that it announces, and a body that ends early
/// is an error.
/// Method: a reader that is asked for far less than what is announced.
#[test]
fn bodies_are_read_as_they_come() {
    struct Short {
        rest: Cursor<Vec<u8>>,
        most_asked: usize,
    }
    impl std::io::Read for Short {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            self.most_asked = self.most_asked.max(out.len());
            self.rest.read(out)
        }
    }
    let announced = limits::WORKER_REPORT_BYTES as u32;
    let mut stream = header(announced, FrameKind::WorkerReport as u8, FRAME_VERSION).to_vec();
    stream.extend([0; 10]);
    let mut short = Short {
        rest: Cursor::new(stream),
        most_asked: 0,
    };
    let error = read_frame::<WorkerReport>(&mut short).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(short.most_asked < 64 << 10, "{}", short.most_asked);
}

/// Claim: what is written is read, by this build and by the oldest that it talks to, and the ends of the
/// range are its ends. Method: the constants, and a header of each version around them.
#[test]
fn versions_of_frames() {
    let kind = FrameKind::ClientRequest as u8;
    let written = codec::encode(&ClientRequest::Status).unwrap()[5];
    assert_eq!(written, WRITTEN_FRAME);
    for version in 0..=u8::MAX {
        let is_read = decode_header::<ClientRequest>(header(1, kind, version)).is_ok();
        assert_eq!(is_read, (OLDEST_FRAME..=FRAME_VERSION).contains(&version));
        assert!(is_read || version != written);
    }
}

/// Claim: errors name what came and what was expected.
/// Method: their texts.
#[test]
fn errors_say_what_to_do() {
    let wrong = |kind, version| {
        decode_header::<WorkerCommand>(header(1, kind, version))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        wrong(9, FRAME_VERSION),
        "frame of kind 9: expected WorkerCommand (2)"
    );
    assert_eq!(
        wrong(2, FRAME_VERSION + 1),
        "frame of version 4: this build reads 3 to 3; run builds of Evoring that speak one protocol"
    );
    let error = WorkError {
        message: "train-images: offset 16: truncated".to_owned(),
        cause: FailureCause::Final,
    };
    assert_eq!(error.to_string(), error.message);
    assert!(
        codec::decode_body::<ClientReply>(&[])
            .unwrap_err()
            .to_string()
            .starts_with("body of a ClientReply (0 bytes)")
    );
}
