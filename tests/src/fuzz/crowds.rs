//! Inputs as large as they may be, with as many small parts as fit: what takes far more memory than
//! bytes, or time that grows faster than its input, shows itself only there.

use super::texts::CUT;
use evoring_protocol::codec::encode;
use evoring_protocol::peer::PeerMessage;

/// Bytes of most crowds: their parts outweigh every constant of a target.
const BYTES: usize = 1 << 20;

/// A crowd: target, what it has many of, and its bytes.
pub type Crowd = (&'static str, &'static str, Vec<u8>);

/// Every crowd.
pub fn all() -> Vec<Crowd> {
    let mut crowds = messages();
    crowds.extend(job_files());
    crowds.extend(files());
    crowds
}

/// As postcard writes a list of equal elements, and what stands before and after it.
fn list(before: &[u8], element: &[u8], after: &[u8]) -> Vec<u8> {
    let count = BYTES / element.len();
    let mut bytes = before.to_vec();
    bytes.extend(super::mutate::varint(count as u64));
    bytes.extend(element.repeat(count));
    bytes.extend(after);
    bytes
}

/// Numbers of variants are those of the wire, pinned in `protocol/tests/golden.rs`.
fn messages() -> Vec<Crowd> {
    // Job, demand, no items, worker "w", slot, term, number, expiry; the MAC.
    let lease = [&[1, 1, 0, 1, b'w', 0, 1, 1, 1][..], &[0xaa; 32]].concat();
    // Build, worker "w", incarnation, process, host, slots, class, no metrics.
    let hello = [0, 0, 1, b'w', 1, 1, 0, 1, 0, 0];
    let leased = list(&[&hello[..], &[1, 1, 1]].concat(), &[1, 1], &lease[3..]);
    // As many as a lease may have.
    let items = [&[0x80, 0x20][..], &[1, 1].repeat(4_096)].concat();
    // Job, demand, stage, kernel, payload, inputs.
    let assignment = [1, 1, 0, 0, 0, 0];
    let grant = [&[2][..], &lease, &assignment].concat();
    let view = [
        1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    // Name, connected, process, executors, host, slots, busy, class, metrics.
    let worker = [1, b'w', 1, 1, 0, 0, 1, 1, 0, 0];
    // The rank, then the roster's number.
    let roster = [3, 1, 1, 1, 1, 1, 1];
    // As long as a step's message, or a record, may be: entries without anything.
    let many = |part: &[u8]| part.repeat(60_000 / part.len());
    let framed = |before: &[u8], part: &[u8]| {
        let content = [before, &many(part)].concat();
        [&[1], &(content.len() as u16).to_le_bytes()[..], &content].concat()
    };
    // A message that appends after entry 1 of term 1.
    let entries = framed(&[8, 3, 40, 1, 48, 1], &[58, 0]);
    let logged = framed(&[0, 0, 0], &[0]);
    let network = [0, 1, 1, 1];
    vec![
        ("worker_report", "executors", list(&[1], &[1], &[])),
        ("worker_report", "leases", list(&hello, &lease, &[0])),
        ("worker_report", "leased items", [leased, vec![0]].concat()),
        (
            "worker_report",
            "items of many leases",
            list(&hello, &[&[1, 1], &items[..], &lease[3..]].concat(), &[0]),
        ),
        (
            "worker_report",
            "ranks",
            list(&[&hello[..], &[0]].concat(), &[1; 5], &[]),
        ),
        (
            "worker_report",
            "outcomes",
            list(&[&[2, 1], &lease[..]].concat(), &[1, 0, 0], &[]),
        ),
        ("worker_report", "lines", list(&[6, 1], &[0], &[])),
        ("worker_command", "items", list(&grant, &[0], &[])),
        ("client_reply", "sentences", list(&[3], &[0], &[])),
        ("client_reply", "events", list(&[6, 0], &[1, 1, 0, 2], &[])),
        ("client_reply", "jobs", list(&[1], &view, &[])),
        ("client_reply", "workers", list(&[7], &worker, &[])),
        (
            "client_reply",
            "members",
            list(&[13, 0, 0, 3, 1, 0, 1], &[1, 0, 0, 1, 0, 0, 0, 0], &[]),
        ),
        (
            "client_reply",
            "labels",
            list(&[&[2], &view[..20]].concat(), &[0, 0], &[]),
        ),
        (
            "worker_command",
            "leases",
            list(&[0, 1, 1, 0], &[1, 1], &[0]),
        ),
        (
            "worker_command",
            "ranks",
            list(&[0, 1, 1, 0, 0], &[1; 5], &[]),
        ),
        (
            "worker_command",
            "members",
            list(&roster, &[1, b'w', 1], &[]),
        ),
        ("peer_message", "messages", list(&[2], &[0], &[])),
        ("snapshot_pieces", "pieces", empty_pieces()),
        ("raft_message", "entries", entries),
        ("log_record", "entries", logged),
        (
            "executor_command",
            "inputs",
            list(&[&[0, 1], &assignment[..]].concat(), &[0], &[0]),
        ),
        (
            "executor_command",
            "items",
            list(&[&[0, 1], &assignment[..], &[0]].concat(), &[1, 0], &[]),
        ),
        (
            "executor_report",
            "outcomes",
            list(&[1, 1], &[1, 0, 0], &[]),
        ),
        ("executor_report", "blobs", list(&[5, 1, 0], &[0], &[])),
        ("call", "ranks", list(&[9], &[1], &[])),
        (
            "call",
            "layers",
            list(&[&[2], &network[..]].concat(), &[1], &[]),
        ),
    ]
}

/// A snapshot of nothing, in as many pieces as fit.
fn empty_pieces() -> Vec<u8> {
    let mut stream = super::seeds::of("snapshot_pieces")
        .into_iter()
        .find_map(|(name, bytes)| (name == "empty").then_some(bytes))
        .expect("a seed of that name");
    let piece = PeerMessage::SnapshotChunk(Vec::new());
    let piece = encode(&piece).expect("an empty piece fits into a frame");
    let count = BYTES / piece.len();
    stream.extend(piece.repeat(count));
    stream
}

fn job_files() -> Vec<Crowd> {
    let numbered =
        |line: fn(usize) -> String, count: usize| (0..count).map(line).collect::<String>();
    // As many words and signs as allowed, and more.
    let texts = [
        (
            "dotted keys",
            numbered(|n| format!("{n:x}.a.a.a.a.a.a.a.a=1\n"), 1_400),
        ),
        (
            "deep keys",
            numbered(|n| format!("{n:x}{}=1\n", ".a".repeat(60)), 250),
        ),
        (
            "deep tables",
            numbered(|n| format!("[{n:x}.a.a.a.a.a.a.a.a]\n"), 1_350),
        ),
        ("keys", numbered(|n| format!("{n:x}=1\n"), 5_000)),
        ("inline tables", format!("a=[{}]", "{a=1},".repeat(3_000))),
        ("arrays", format!("a={}", "[".repeat(16_000))),
        ("dots", ".".repeat(16_000)),
        ("many keys", numbered(|n| format!("{n:x}=1\n"), 100_000)),
        ("words", "a ".repeat(BYTES / 2)),
        ("lines", "\n".repeat(BYTES)),
        ("letters", format!("a=\"{}\"", "x".repeat(BYTES - 5))),
        ("escapes", format!("a=\"{}\"", "\\q".repeat(BYTES / 2 - 3))),
        ("control characters", "\u{1}".repeat(BYTES)),
    ];
    let crowd = |(what, text): (_, String)| ("job_file", what, text.into_bytes());
    texts.into_iter().map(crowd).collect()
}

fn files() -> Vec<Crowd> {
    let many = |part: &str| part.repeat(BYTES / part.len());
    let tensors: Vec<String> = (0..18_000)
        .map(|n| format!(r#""{n:x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let header = |text: String| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let tensors = header(format!("{{{}}}", tensors.join(",")));
    let sizes = format!(
        r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,0]}}}}"#,
        many("1,")
    );
    let individual = r#"{"correct":1,"total":1,"parameters":1,"fitness":1}"#;
    let individuals = format!("[{}{individual}]", many(&format!("{individual},")));
    let layer = r#"{"index":1,"kind":"","full_filters":9,"kept":[1]}"#;
    let model = format!(
        r#"{CUT}{CUT}{CUT}{{"name":"","parameters":1,"full_parameters":1,"layers":[{}{layer}]}}"#,
        many(&format!("{layer},"))
    );
    let recorded = format!(
        r#"{{"number":1,"time_ms":1,"kind":{{"items_recorded":{{"job":1,"demand":1,"stage":"","items":[{}1]}}}}}}"#,
        many("1,")
    );
    let names = format!(
        r#"{{"identity":"","coordinators":[{}""]}}"#,
        "\"\",".repeat(20_000)
    );
    let report = format!(
        r#"{{"format":"evoring-report/1","run":{{"files":[{}"a"]}}}}"#,
        many("\"a\",")
    );
    vec![
        ("event", "items", recorded.into()),
        ("event", "brackets", many("[").into()),
        ("cluster_file", "names", names.into()),
        ("report_file", "files", report.into()),
        ("report_file", "brackets", many("[").into()),
        (
            "population",
            "individuals",
            format!("{individuals}{CUT}[]").into(),
        ),
        (
            "pictures_of_results",
            "individuals",
            format!(r#"{{"generations":[{individuals}]}}"#).into(),
        ),
        (
            "pictures_of_results",
            "generations",
            format!(r#"{{"generations":[{}[]]}}"#, many("[],")).into(),
        ),
        ("pictures_of_results", "layers", model.into()),
        ("weights", "tensors", tensors.clone()),
        ("weights", "sizes", header(sizes)),
        ("checkpoint", "tensors", tensors),
        ("text", "genes", many("1").into()),
        ("text", "escapes", format!("file:///{}", many("%41")).into()),
        (
            "identity",
            "lines",
            format!(
                "-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n",
                many("AAAA\n")
            )
            .into(),
        ),
    ]
}
