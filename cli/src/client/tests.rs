//! A client among several coordinators, which this test plays over the real transport.

use super::*;
use evoring_protocol::client::{ClusterView, LeaderHint, MemberRole, MemberView};
use evoring_protocol::transport::{Authority, Listener};
use evoring_protocol::{ClusterId, ErrorCode, RemoteError};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::watch;

/// Far longer than any of these tests may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a coordinator answers; a number of requests comes with it.
type Answer = Arc<dyn Fn(usize, &ClientRequest) -> Option<ClientReply> + Send + Sync>;

/// Some coordinators, and a client of all of them.
struct Group {
    folder: tempfile::TempDir,
    authority: Authority,
    count: usize,
}

impl Group {
    fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(ClusterId([7; 8]), SystemTime::now()).unwrap();
        let identity = folder.path().join("client");
        authority
            .issue(Role::Submitter, "client", SystemTime::now())
            .and_then(|issued| issued.save(&identity))
            .unwrap();
        Self {
            folder,
            authority,
            count,
        }
    }

    /// Starts number `index`, which announces itself.
    fn start(&self, index: usize, answer: Answer) -> SocketAddr {
        let name = format!("c{index}");
        let identity = self
            .authority
            .issue(Role::Coordinator, &name, SystemTime::now())
            .unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
        let address = listener.local_addr();
        announce(self.folder.path(), index, address);
        tokio::spawn(listen(listener, answer));
        address
    }

    fn client(&self) -> Client {
        let file = ClusterFile {
            announce: (0..self.count)
                .map(|index| format!("c{index}.json").into())
                .collect(),
            identity: "client".into(),
            ..ClusterFile::default()
        };
        let path = self.folder.path().join("cluster.json");
        std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        Client::new(Access::from_file(&path).unwrap(), PATIENCE)
    }
}

fn announce(folder: &Path, index: usize, address: SocketAddr) {
    let text = serde_json::json!({ "listen": address, "process": index });
    let path = folder.join(format!("c{index}.json"));
    std::fs::write(path.with_extension("part"), text.to_string()).unwrap();
    std::fs::rename(path.with_extension("part"), path).unwrap();
}

async fn listen(mut listener: Listener, answer: Answer) {
    let count = Arc::new(AtomicUsize::new(0));
    while let Some(accepted) = listener.accept().await {
        // A client that has its answer elsewhere gives up half-made connections.
        let Ok(connection) = accepted else { continue };
        let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
        tokio::spawn(serve(connection, answer, count));
    }
}

async fn serve(
    connection: Connection,
    answer: Answer,
    count: Arc<AtomicUsize>,
) -> Result<(), TransportError> {
    loop {
        let (mut sender, mut receiver) = connection.accept().await?;
        let Some(request) = receiver.receive::<ClientRequest>().await? else {
            continue;
        };
        match answer(count.fetch_add(1, Ordering::SeqCst), &request) {
            Some(reply) => sender.send(&reply).await?,
            // As one that dies.
            None => connection.close("dying"),
        }
        sender.finish();
    }
}

fn leads() -> Answer {
    Arc::new(|_, _| Some(ClientReply::Done))
}

fn not_leader(address: Option<SocketAddr>) -> ClientReply {
    let leader = address.map(|address| LeaderHint {
        name: "leader".to_owned(),
        address: address.to_string(),
    });
    ClientReply::NotLeader { leader }
}

fn member(id: u64, address: String) -> MemberView {
    MemberView {
        id,
        name: format!("c{id}"),
        address,
        role: MemberRole::Voter,
        matched: None,
        health: None,
        heard_ms: None,
        problem: None,
    }
}

/// The group at which `c{answered_by}` answers and `c{leader}` leads, which listens at `address`.
fn led_by(answered_by: u64, leader: u64, address: SocketAddr) -> ClientReply {
    let members = [answered_by, leader].map(|id| match id == leader {
        true => member(id, address.to_string()),
        false => member(id, no_address().to_string()),
    });
    ClientReply::Cluster(Box::new(ClusterView {
        answered_by: format!("c{answered_by}"),
        group: "g".to_owned(),
        version: 3,
        term: 4,
        leader: Some(leader),
        commit: 5,
        members: members.to_vec(),
    }))
}

/// For one whose address does not matter.
fn no_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

/// A coordinator that answers nothing before it is told to, and everything from then on.
struct Slow {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<ClientRequest>>>,
    answers: watch::Sender<bool>,
}

impl Slow {
    fn start(group: &Group, index: usize) -> Self {
        let name = format!("c{index}");
        let identity = group
            .authority
            .issue(Role::Coordinator, &name, SystemTime::now())
            .unwrap();
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
        let address = listener.local_addr();
        announce(group.folder.path(), index, address);
        let (answers, may_answer) = watch::channel(false);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(accepted) = listener.accept().await {
                let (noted, mut may_answer) = (Arc::clone(&noted), may_answer.clone());
                let connection = accepted.unwrap();
                tokio::spawn(async move {
                    loop {
                        let (mut sender, mut receiver) = connection.accept().await?;
                        if let Some(request) = receiver.receive::<ClientRequest>().await? {
                            noted.lock().unwrap().push(request);
                        }
                        if may_answer.wait_for(|may| *may).await.is_ok() {
                            sender.send(&ClientReply::Done).await?;
                        }
                    }
                    #[expect(unreachable_code, reason = "names the type of errors")]
                    Ok::<(), TransportError>(())
                });
            }
        });
        Self {
            address,
            asked,
            answers,
        }
    }
}

/// A socket at which nobody answers.
fn silent() -> std::net::UdpSocket {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap()
}

const REQUEST: ClientRequest = ClientRequest::Jobs;

// CLIENT-3. Claim: the leader is found wherever it is and whatever the others say, and remembered.
// Method: followers without a hint, with a right one, and with one to a dead process, before the
// leader, which is not in the cluster file in the second case.
#[tokio::test]
async fn the_leader_is_found() {
    let group = Group::new(3);
    for index in 0..2 {
        group.start(index, Arc::new(|_, _| Some(not_leader(None))));
    }
    group.start(2, leads());
    assert_eq!(
        group.client().ask(&REQUEST).await.unwrap(),
        ClientReply::Done
    );

    let other = Group::new(1);
    let leader = other.start(7, leads());
    other.start(0, Arc::new(move |_, _| Some(not_leader(Some(leader)))));
    let mut client = other.client();
    assert_eq!(client.ask(&REQUEST).await.unwrap(), ClientReply::Done);
    assert_eq!(client.address(), Some(leader));

    let dead = silent();
    let dead_address = dead.local_addr().unwrap();
    let group = Group::new(3);
    announce(group.folder.path(), 0, dead_address);
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    // It learns late that it leads itself.
    let elected: Answer = Arc::new(move |number, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        Some(match number {
            0..2 => not_leader(Some(dead_address)),
            _ => ClientReply::Done,
        })
    });
    group.start(
        1,
        Arc::new(move |_, _| Some(not_leader(Some(dead_address)))),
    );
    let leader = group.start(2, elected);
    let mut client = group.client();
    for _ in 0..3 {
        assert_eq!(client.ask(&REQUEST).await.unwrap(), ClientReply::Done);
    }
    assert_eq!(client.address(), Some(leader));
    assert_eq!(asked.load(Ordering::SeqCst), 5);
}

// CLIENT-1, CLIENT-3. Claim: a leader that dies while it is asked is left for another, and what must
// not be done twice is not asked again. Method: a leader that closes the connection at the first
// request, and one that takes over.
#[tokio::test]
async fn a_dying_leader_is_left() {
    let group = Group::new(2);
    group.start(0, Arc::new(|_, _| None));
    let heir = group.start(1, leads());
    let mut client = group.client();
    assert_eq!(client.ask(&REQUEST).await.unwrap(), ClientReply::Done);
    assert_eq!(client.address(), Some(heir));

    let requests = Arc::new(Mutex::new(0));
    let group = Group::new(2);
    let count = Arc::clone(&requests);
    group.start(
        0,
        Arc::new(move |_, _| {
            *count.lock().unwrap() += 1;
            None
        }),
    );
    let count = Arc::clone(&requests);
    group.start(
        1,
        Arc::new(move |_, _| {
            *count.lock().unwrap() += 1;
            Some(ClientReply::Done)
        }),
    );
    let request = ClientRequest::TransferLeadership;
    let outcome = group.client().ask_unrepeated(&request).await.unwrap();
    assert_eq!((outcome, *requests.lock().unwrap()), (None, 1));
    // One that does not lead has done nothing.
    let group = Group::new(2);
    let leader = group.start(1, leads());
    group.start(0, Arc::new(move |_, _| Some(not_leader(Some(leader)))));
    let outcome = group.client().ask_unrepeated(&request).await.unwrap();
    assert_eq!(outcome, Some(ClientReply::Done));
}

// CLIENT-3. Claim: a stream goes on with the next leader, whether the old one ends it, says that it does
// not lead any more, or dies. Method: three coordinators in turn, each of which tells one piece.
#[tokio::test]
async fn streams_go_on_with_the_next_leader() {
    let group = Group::new(3);
    let piece = |number: u64| ClientReply::BlobStart { bytes: number };
    let last = group.start(2, Arc::new(move |_, _| Some(piece(3))));
    group.start(
        1,
        Arc::new(move |number, _| match number {
            0 => Some(piece(2)),
            _ => None,
        }),
    );
    group.start(
        0,
        Arc::new(move |number, _| {
            Some(match number {
                0 => piece(1),
                _ => not_leader(None),
            })
        }),
    );
    let mut client = group.client();
    let mut pieces = Vec::new();
    while pieces.len() < 3 {
        let mut replies = client.open(&REQUEST).await.unwrap();
        let setback = loop {
            match replies.next().await {
                Ok(Some(reply)) => pieces.push(reply),
                Ok(None) => break Setback::unreachable("the stream ended"),
                Err(setback) => break setback,
            }
        };
        let began = Instant::now();
        client.wait_or_fail(setback, began).await.unwrap();
    }
    assert_eq!(pieces, [piece(1), piece(2), piece(3)]);
    assert_eq!(client.address(), Some(last));
}

// CLIENT-1, CLIENT-3. Claim: a leader of a group whose disk takes no writes is asked on, until another
// leads, and the same request is carried out there; one that is alone says so at once.
// Method: a leader that refuses twice and then leads no more; one without a group that refuses for ever.
#[tokio::test]
async fn a_leader_that_only_reads_gives_way() {
    let refusal = || {
        let error = RemoteError::new(ErrorCode::ReadOnly, "the disk is full");
        Some(ClientReply::Error(error))
    };
    let group = Group::new(2);
    let refused = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&refused);
    let heir: Answer = Arc::new(move |_, _| match seen.load(Ordering::SeqCst) {
        0..2 => Some(not_leader(None)),
        _ => Some(ClientReply::Done),
    });
    let count = Arc::clone(&refused);
    let full: Answer = Arc::new(move |number, _| match number {
        0..2 => {
            count.fetch_add(1, Ordering::SeqCst);
            refusal()
        }
        _ => Some(not_leader(None)),
    });
    group.start(0, full);
    group.start(1, heir);
    let reply = group.client().ask(&REQUEST).await;
    assert_eq!(reply.unwrap(), ClientReply::Done);
    assert_eq!(refused.load(Ordering::SeqCst), 2);

    let alone = Group::new(1);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    alone.start(
        0,
        Arc::new(move |number, _| {
            count.store(number + 1, Ordering::SeqCst);
            refusal()
        }),
    );
    let failure = alone.client().ask(&REQUEST).await.unwrap_err();
    assert!(failure.message.contains("the disk is full"), "{failure}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

// CLIENT-2. Claim: a coordinator that announces itself elsewhere is noticed although its old
// connection stands, with several announcements, too. Method: the second of two holds an answer back
// and moves.
#[tokio::test]
async fn a_coordinator_that_moved_is_noticed() {
    let group = Group::new(2);
    let first = silent();
    announce(group.folder.path(), 0, first.local_addr().unwrap());
    let identity = group
        .authority
        .issue(Role::Coordinator, "c1", SystemTime::now())
        .unwrap();
    let mut holding = Listener::bind("127.0.0.1:0".parse().unwrap(), &identity).unwrap();
    announce(group.folder.path(), 1, holding.local_addr());
    let mut client = group.client();
    let work = async { client.ask(&REQUEST).await };
    let moves = async {
        let connection = holding.accept().await.unwrap().unwrap();
        let held = connection.accept().await.unwrap();
        let heir = group.start(1, leads());
        (connection, held, heir)
    };
    let (reply, (_, _, heir)) = tokio::join!(work, moves);
    assert_eq!(reply.unwrap(), ClientReply::Done);
    assert_eq!(client.address(), Some(heir));
}

// CLIENT-3. Claim: a group without a leader is told of as that, once patience is over, and the
// coordinator that answers can still be asked about the group. Method: two followers without a hint,
// and a client without patience for elections.
#[tokio::test]
async fn no_leader_is_told() {
    let group = Group::new(2);
    let view = |term| ClusterView {
        answered_by: "c1".to_owned(),
        group: "g".to_owned(),
        version: 3,
        term,
        leader: None,
        commit: 5,
        members: vec![member(1, "127.0.0.1:1".to_owned())],
    };
    for index in 0..2 {
        let view = view(4 + index as u64);
        group.start(
            index,
            Arc::new(move |_, request| {
                Some(match request {
                    ClientRequest::Cluster => ClientReply::Cluster(Box::new(view.clone())),
                    _ => not_leader(None),
                })
            }),
        );
    }
    let mut client = group.client();
    // The one that knows more counts.
    assert_eq!(client.cluster().await.unwrap(), view(5));
    let setback = client.try_ask(&REQUEST).await.unwrap_err();
    client.set_patience(Duration::ZERO);
    let Some(long_ago) = Instant::now().checked_sub(GROUP_PATIENCE) else {
        // A machine that was started a moment ago.
        return;
    };
    let failure = client.wait_or_fail(setback, long_ago).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(
        failure.message.contains("no coordinator leads"),
        "{failure}"
    );
}

// Claim: the leader is asked about the group, whoever answers first. Method: a follower that knows
// the leader's address.
#[tokio::test]
async fn the_leader_tells_about_the_group() {
    let group = Group::new(2);
    let view = |answered_by: &str, leader: String| ClusterView {
        answered_by: answered_by.to_owned(),
        group: "g".to_owned(),
        version: 3,
        term: 4,
        leader: Some(2),
        commit: 5,
        members: vec![member(1, String::new()), member(2, leader)],
    };
    let leader = group.start(
        1,
        Arc::new(move |_, _| {
            let view = view("c2", String::new());
            Some(ClientReply::Cluster(Box::new(view)))
        }),
    );
    group.start(
        0,
        Arc::new(move |_, _| {
            let view = view("c1", leader.to_string());
            Some(ClientReply::Cluster(Box::new(view)))
        }),
    );
    let view = group.client().cluster().await.unwrap();
    assert!(is_told_by_leader(&view), "{view:?}");
}

// CLIENT-1, CLIENT-4. Claim: while the coordinator that was asked is silent, the request goes to
// another one that leads, under the same key, be that one in the cluster file or only known to the
// others; a rumour is not enough. Method: a coordinator that holds its connection and never answers,
// a follower that names a third, and one that nobody listed but leads.
#[tokio::test]
async fn a_silent_coordinator_is_asked_beside_another() {
    let submit = ClientRequest::Submit {
        key: evoring_protocol::SubmissionKey([9; 16]),
        file: "a.toml".to_owned(),
        text: String::new(),
        refuse_unless_fits: false,
    };
    let got = Arc::new(Mutex::new(Vec::new()));
    let leading = |group: &Group, index: usize| {
        let got = Arc::clone(&got);
        let answer: Answer = Arc::new(move |_, request| {
            Some(match request {
                ClientRequest::Cluster => led_by(index as u64, index as u64, no_address()),
                _ => {
                    got.lock().unwrap().push(request.clone());
                    ClientReply::Done
                }
            })
        });
        group.start(index, answer)
    };
    let group = Group::new(2);
    let silent = Slow::start(&group, 0);
    let leader = leading(&group, 7);
    group.start(1, Arc::new(move |_, _| Some(led_by(1, 7, leader))));
    let mut client = group.client();
    assert_eq!(client.ask(&submit).await.unwrap(), ClientReply::Done);
    assert_eq!(client.address(), Some(leader));
    assert_eq!(*silent.asked.lock().unwrap(), std::slice::from_ref(&submit));
    // The next one goes to the new leader alone.
    assert_eq!(client.ask(&REQUEST).await.unwrap(), ClientReply::Done);
    assert_eq!(*got.lock().unwrap(), [submit.clone(), REQUEST]);
    assert_eq!(*silent.asked.lock().unwrap(), [submit]);
}

// CLIENT-4. Claim: a leader that is merely slow is waited for: nothing is sent to those who know no
// other, or who lose their office before they answer. Method: a leader that answers once the others
// were asked who leads several times; one knows that it does, one names it, one believes to lead
// itself and does not.
#[tokio::test]
async fn a_slow_leader_is_waited_for() {
    let group = Group::new(3);
    let slow = Slow::start(&group, 0);
    let address = slow.address;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let rounds = Arc::new(AtomicUsize::new(0));
    for index in 1..3_u64 {
        let (asked, rounds) = (Arc::clone(&asked), Arc::clone(&rounds));
        let answers = slow.answers.clone();
        let answer: Answer = Arc::new(move |_, request| {
            Some(match (request, index) {
                (ClientRequest::Cluster, 1) => {
                    if rounds.fetch_add(1, Ordering::SeqCst) == 2 {
                        answers.send_replace(true);
                    }
                    led_by(1, 0, address)
                }
                (ClientRequest::Cluster, _) => led_by(index, index, no_address()),
                _ => {
                    asked.lock().unwrap().push(index);
                    not_leader(Some(address))
                }
            })
        });
        group.start(index as usize, answer);
    }
    let mut client = group.client();
    assert_eq!(client.ask(&REQUEST).await.unwrap(), ClientReply::Done);
    assert_eq!(client.address(), Some(slow.address));
    assert_eq!(slow.asked.lock().unwrap().len(), 1);
    assert!(asked.lock().unwrap().iter().all(|index| *index == 2));
}

// CLIENT-1, CLIENT-4. Claim: what must not be done twice is not sent to another while the first is
// silent. Method: a slow leader, another that claims to lead, and twice the silence that would send
// the request there.
#[tokio::test]
async fn what_must_not_be_repeated_is_not_asked_beside() {
    let group = Group::new(2);
    let slow = Slow::start(&group, 0);
    let others = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&others);
    group.start(
        1,
        Arc::new(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            Some(led_by(1, 1, no_address()))
        }),
    );
    let mut client = group.client();
    let answers = async {
        tokio::time::sleep(2 * beside::SILENCE).await;
        slow.answers.send_replace(true);
    };
    let request = ClientRequest::TransferLeadership;
    let (outcome, ()) = tokio::join!(client.ask_unrepeated(&request), answers);
    assert_eq!(outcome.unwrap(), Some(ClientReply::Done));
    assert_eq!(slow.asked.lock().unwrap().len(), 1);
    assert_eq!(others.load(Ordering::SeqCst), 0);
}
