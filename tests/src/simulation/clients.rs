//! Clients: they submit, cancel, label and look at jobs, and remember what they were told. The last
//! one is the operator, who adds and removes members.

use super::counters::Sometimes;
use super::invariants::{Checked, Violation};
use super::made_up;
use super::network::Place;
use super::process::Input;
use super::world::{Happening, MS, SECOND, World};
use evoring_coordinator::leader::{self, Answer, Denial, Question, Ticket};
use evoring_coordinator::state::{Command, Outcome};
use evoring_protocol::client::JobView;
use evoring_protocol::{ErrorCode, JobId, RemoteError};
use std::collections::VecDeque;

/// How long clients hurry, once they do …
const HURRY_US: u64 = 1_500 * MS;
/// … the pause between two requests then …
const HURRIED_PAUSE_US: (u64, u64) = (MS, 20 * MS);
/// … and the chance, in millionths, that the next one goes to anybody.
const HURRIED_ELSEWHERE: u64 = 400_000;
/// Share of a run in which jobs are submitted, in percent.
const SUBMITTING_PERCENT: u64 = 50;
/// Version of the records that tells copies of a request for a label.
const REQUEST_KEYS: u16 = 4;
/// Name of the one label that clients set.
const LABEL: &str = "note";

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Submit { key: u64 },
    Cancel { job: JobId, key: u64 },
    Label { job: JobId, value: u64 },
    Show { job: JobId, key: u64 },
    AddMember { host: usize },
    RemoveMember { id: u64 },
}

/// What a client is told.
#[derive(Debug)]
pub(super) enum Response {
    Done(Result<Outcome, Denial>),
    Answer(Result<Box<JobView>, Denial>),
}

/// A client.
pub(super) struct Client {
    /// What it asks now, as the invariant of its history knows it.
    pub asking: Option<(Request, usize)>,
    /// When it asked first for what it asks now.
    pub since_us: u64,
    /// Whether its first task was asked for before.
    asks_again: bool,
    /// Whether what it asks now may be sent to more than one coordinator.
    may_copy: bool,
    /// Whether what it asks now was sent to more than one coordinator.
    has_copies: bool,
    /// Counts its attempts: answers to older ones come too late.
    number: u64,
    target: usize,
    /// What it must do, one after the other.
    pub tasks: VecDeque<Request>,
}

/// A job that somebody was told of.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownJob {
    pub key: u64,
    pub job: JobId,
}

impl World {
    pub(super) fn make_clients(&mut self) {
        // One more: the operator.
        for index in 0..=self.plan.clients as usize {
            self.clients.push(Client {
                asking: None,
                since_us: 0,
                asks_again: false,
                may_copy: false,
                has_copies: false,
                number: 0,
                target: index % self.hosts.len().max(1),
                tasks: VecDeque::new(),
            });
            let delay = self.dice.between(SECOND / 2, 3 * SECOND);
            self.after(delay, Happening::ClientWakes(index));
        }
    }

    /// The client that adds and removes members.
    pub(super) fn operator(&mut self) -> Option<&mut Client> {
        self.clients.last_mut()
    }

    pub(super) fn client_wakes(&mut self, index: usize) {
        if self.clients[index].asking.is_some() {
            return;
        }
        let is_operator = index + 1 == self.clients.len();
        let is_again = std::mem::take(&mut self.clients[index].asks_again);
        let request = match self.clients[index].tasks.pop_front() {
            None if !is_operator => self.wish(),
            task => task,
        };
        let Some(request) = request else {
            self.after(500 * MS, Happening::ClientWakes(index));
            return;
        };
        if !is_again {
            self.clients[index].since_us = self.now;
        }
        let operation = self.watch.history.asks(index, &request, self.now);
        self.clients[index].asking = Some((request, operation));
        // Before, a label is written without the key of its request.
        let knows_keys = self.watch.log.reference().version() >= REQUEST_KEYS;
        self.clients[index].may_copy = knows_keys;
        self.clients[index].has_copies = false;
        self.attempts(index);
    }

    /// What a client wants next.
    fn wish(&mut self) -> Option<Request> {
        let jobs = self.submitted;
        let may_submit = self.now < self.plan.end_us / 100 * SUBMITTING_PERCENT;
        if may_submit && jobs < self.plan.jobs && self.dice.chance(250_000) {
            self.submitted += 1;
            return Some(Request::Submit { key: jobs });
        }
        // Somebody submits again what is known, or may be.
        if may_submit && jobs > 0 && self.dice.chance(80_000) {
            let key = self.dice.below(jobs);
            return Some(Request::Submit { key });
        }
        let index = self.dice.below(self.known_jobs.len() as u64) as usize;
        let KnownJob { key, job } = *self.known_jobs.get(index)?;
        let cancels = if self.hurries() {
            0
        } else {
            self.plan.load.cancels
        };
        Some(match self.dice.below(1_000) {
            choice if choice < cancels => Request::Cancel { job, key },
            ..=310 => {
                self.labels += 1;
                Request::Label {
                    job,
                    value: self.labels,
                }
            }
            _ => Request::Show { job, key },
        })
    }

    /// Sends the request once more.
    fn attempts(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some((request, _)) = client.asking.clone() else {
            return;
        };
        client.number += 1;
        let (number, host) = (client.number, client.target);
        self.after(self.plan.patience_us, Happening::Impatience(index, number));
        let (from, to) = (Place::client(index), Place::host(host));
        let [time, _] = self
            .network
            .route(from, to, &mut self.dice, &mut self.watch.counters);
        if let Some(time) = time {
            self.after(time, Happening::Request(host, index, number, request));
        }
    }

    pub(super) fn impatient(&mut self, index: usize, number: u64) {
        let hosts = self.hosts.len();
        let client = &mut self.clients[index];
        if client.number != number || client.asking.is_none() {
            return;
        }
        client.target = (client.target + 1) % hosts.max(1);
        self.watch.counters.hit(Sometimes::RequestTimedOut);
        let is_label = matches!(client.asking, Some((Request::Label { .. }, _)));
        if is_label && client.may_copy && self.dice.chance(700_000) {
            // The same request, as commands do: whichever copy comes first counts.
            self.clients[index].has_copies = true;
            self.watch.counters.hit(Sometimes::LabelSentAgain);
            return self.attempts(index);
        }
        self.gives_up(index);
    }

    /// Nobody knows what became of the request. What must be done is tried again.
    fn gives_up(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some((request, operation)) = client.asking.take() else {
            return;
        };
        client.number += 1;
        let must = matches!(
            request,
            Request::AddMember { .. } | Request::RemoveMember { .. } | Request::Submit { .. }
        );
        if must {
            let client = &mut self.clients[index];
            client.tasks.push_front(request);
            client.asks_again = true;
        }
        self.watch.history.unknown(operation);
        self.thinks(index);
    }

    /// Something fails: in some seeds all clients ask and label as fast as they can, on both sides of it.
    pub(super) fn clients_hurry(&mut self) {
        if !self.plan.hurry || self.now < self.hurry_until || self.dice.chance(500_000) {
            return;
        }
        self.watch.counters.hit(Sometimes::ClientsHurried);
        self.hurry_until = self.now + HURRY_US;
        for index in 0..self.plan.clients as usize {
            let wait = self.dice.below(HURRIED_PAUSE_US.1);
            self.after(wait, Happening::ClientWakes(index));
        }
    }

    fn hurries(&self) -> bool {
        self.now < self.hurry_until
    }

    fn thinks(&mut self, index: usize) {
        let delay = match self.hurries() {
            true => self.dice.between(HURRIED_PAUSE_US.0, HURRIED_PAUSE_US.1),
            false => self.dice.wait(SECOND).max(20 * MS),
        };
        if self.hurries() && self.dice.chance(HURRIED_ELSEWHERE) {
            self.clients[index].target = self.dice.below(self.hosts.len() as u64) as usize;
        }
        self.after(delay, Happening::ClientWakes(index));
    }

    pub(super) fn request_arrives(
        &mut self,
        host: usize,
        client: usize,
        number: u64,
        request: Request,
    ) -> Checked {
        let members: Vec<(String, String)> = match &request {
            Request::AddMember { host } => {
                let host = &self.hosts[*host];
                vec![(host.name.clone(), host.address.clone())]
            }
            _ => Vec::new(),
        };
        let Some(process) = &mut self.hosts[host].process else {
            return Ok(());
        };
        process.last_ticket += 1;
        let ticket = Ticket(process.last_ticket);
        process.tickets.insert(ticket, (client, number));
        let command = match request {
            Request::Submit { key } => {
                let Some(submission) = made_up::submission(key, self.plan.load.is_heavy) else {
                    return Ok(());
                };
                let event = leader::Event::Submit {
                    ticket,
                    submission: Box::new(submission),
                    refuse_unless_fits: false,
                };
                return self.feed(host, Input::Lead(event));
            }
            Request::Show { job, .. } => {
                let question = Question::Job(job);
                let event = leader::Event::Ask { ticket, question };
                return self.feed(host, Input::Lead(event));
            }
            Request::Cancel { job, .. } => Command::Cancel { job },
            Request::Label { job, value } => Command::LabelOnce {
                job,
                key: LABEL.to_owned(),
                value: value.to_string(),
                request: made_up::request_key(value),
            },
            Request::RemoveMember { id } => Command::RemoveMember { id },
            Request::AddMember { .. } => {
                let Some((name, address)) = members.into_iter().next() else {
                    return Ok(());
                };
                Command::AddMember { name, address }
            }
        };
        self.feed(host, Input::Lead(leader::Event::Write { ticket, command }))
    }

    pub(super) fn reply(&mut self, host: usize, ticket: Ticket, outcome: Result<Outcome, Denial>) {
        self.responds(host, ticket, Response::Done(outcome));
    }

    pub(super) fn answer(&mut self, host: usize, ticket: Ticket, answer: Result<Answer, Denial>) {
        let response = match answer {
            Ok(Answer::Job(view)) => Response::Answer(Ok(view)),
            Ok(_) => return,
            Err(denial) => Response::Answer(Err(denial)),
        };
        self.responds(host, ticket, response);
    }

    fn responds(&mut self, host: usize, ticket: Ticket, response: Response) {
        let Some(process) = &mut self.hosts[host].process else {
            return;
        };
        let Some((client, number)) = process.tickets.remove(&ticket) else {
            return;
        };
        let (from, to) = (Place::host(host), Place::client(client));
        let [time, _] = self
            .network
            .route(from, to, &mut self.dice, &mut self.watch.counters);
        if let Some(time) = time {
            self.after(time, Happening::Response(client, number, response));
        }
    }

    pub(super) fn response_arrives(
        &mut self,
        index: usize,
        number: u64,
        response: Response,
    ) -> Checked {
        let client = &self.clients[index];
        if client.number != number {
            return Ok(());
        }
        let Some((request, operation)) = client.asking.clone() else {
            return Ok(());
        };
        let denial = match response {
            Response::Done(Ok(outcome)) => {
                return self.is_done(index, &request, operation, outcome);
            }
            Response::Answer(Ok(view)) => {
                self.watch
                    .history
                    .shown(operation, &view, LABEL, self.now)?;
                self.watch.counters.hit(Sometimes::JobShown);
                self.is_content(index);
                return Ok(());
            }
            Response::Done(Err(denial)) | Response::Answer(Err(denial)) => denial,
        };
        self.is_denied(index, &request, denial)
    }

    fn is_content(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.asking = None;
        client.number += 1;
        self.thinks(index);
    }

    fn is_done(
        &mut self,
        index: usize,
        request: &Request,
        operation: usize,
        outcome: Outcome,
    ) -> Checked {
        self.watch.history.done(operation, &outcome, self.now)?;
        match (request, outcome) {
            (Request::Submit { key }, Outcome::Submitted { job, already_known }) => {
                if already_known {
                    self.watch.counters.hit(Sometimes::SubmissionKnown);
                }
                self.watch.jobs.acknowledged(*key, job)?;
                if !self.known_jobs.iter().any(|known| known.job == job) {
                    self.known_jobs.push(KnownJob { key: *key, job });
                }
            }
            (Request::Cancel { .. }, Outcome::Done) => {
                self.watch.counters.hit(Sometimes::JobCancelled);
            }
            (Request::Label { .. }, Outcome::Done) => {
                self.watch.counters.hit(Sometimes::Labelled);
            }
            (
                Request::Cancel { job, .. },
                Outcome::Refused {
                    code: ErrorCode::NotFound,
                    message,
                },
            ) => {
                let what = format!("job {job} is acknowledged and unknown: {message}");
                return Err(Violation::new("jobs", what));
            }
            (Request::AddMember { .. }, Outcome::MemberAdded { .. }) => {}
            (Request::RemoveMember { .. }, Outcome::Done) => {
                self.watch.counters.hit(Sometimes::MemberRemoved);
            }
            _ => {}
        }
        self.is_content(index);
        Ok(())
    }

    /// A coordinator does not serve the client.
    fn is_denied(&mut self, index: usize, request: &Request, denial: Denial) -> Checked {
        let hosts = self.hosts.len();
        match denial {
            Denial::NotLeader(hint) => {
                self.watch.counters.hit(Sometimes::ClientSentElsewhere);
                if self.clients[index].has_copies {
                    // Another copy may still be carried out.
                    self.gives_up(index);
                    return Ok(());
                }
                let named = hint.and_then(|hint| self.host_at(&hint.address));
                let client = &mut self.clients[index];
                client.target = named.unwrap_or((client.target + 1) % hosts.max(1));
                // Nothing was done: the same request goes elsewhere, as if it had not been sent.
                client.number += 1;
                let (request, operation) = match client.asking.take() {
                    Some(asking) => asking,
                    None => return Ok(()),
                };
                self.watch.history.failed(operation);
                self.retry_later(index, request);
                Ok(())
            }
            Denial::Error(error) => self.is_refused(index, request, &error),
        }
    }

    /// Asks the same again a little later, as a new operation.
    fn retry_later(&mut self, index: usize, request: Request) {
        self.clients[index].tasks.push_front(request);
        let delay = self.dice.between(20 * MS, 200 * MS);
        self.after(delay, Happening::ClientWakes(index));
    }

    fn is_refused(&mut self, index: usize, request: &Request, error: &RemoteError) -> Checked {
        match (request, error.code) {
            (Request::Show { job, .. }, ErrorCode::NotFound) => {
                let what = format!("job {job} is acknowledged and unknown: {error}");
                return Err(Violation::new("jobs", what));
            }
            (Request::Label { .. }, ErrorCode::NotReady) if error.message.contains("upgrade") => {
                self.watch.counters.hit(Sometimes::LabelTooNew);
            }
            _ => {}
        }
        self.gives_up(index);
        Ok(())
    }
}
