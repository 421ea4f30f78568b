//! Commands that print a stream: `logs` and `events`.

use super::signals::Signals;
use super::{Context, resolve};
use crate::args::{EventsArgs, FollowJobArgs};
use crate::client::{Client, LONG_PATIENCE, Setback};
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use crate::output::json::LogLineJson;
use crate::output::time::rfc3339;
use crate::output::{print, print_json};
use evoring_protocol::JobId;
use evoring_protocol::client::{ClientReply, ClientRequest, EventsPlace, LogLine};
use evoring_protocol::event::Event;
use std::time::Instant;

/// `evoring events`.
pub(super) async fn events(context: &Context, arguments: EventsArgs) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    // The next number, and whose numbers these are.
    let mut place: (u64, Option<EventsPlace>) = (arguments.from, None);
    let end = if arguments.follow {
        End::Never
    } else {
        End::First
    };
    let work = pump(
        &mut client,
        end,
        &mut place,
        |(from, of)| ClientRequest::Events {
            from: *from,
            follow: arguments.follow,
            of: of.clone(),
        },
        |(from, of), reply| match reply {
            ClientReply::Events {
                coordinator,
                events,
            } => {
                let is_same = of.as_ref().is_none_or(|of| of.coordinator == coordinator);
                for event in &events {
                    if is_same && event.number < *from {
                        continue;
                    }
                    if context.style.json {
                        print_json(event)?
                    } else {
                        print(&event_line(event))?
                    }
                }
                let known = of.take().map_or(0, |of| of.after);
                let newest = events.iter().filter_map(|event| event.entry).max();
                let after = newest.unwrap_or(0).max(known);
                *of = Some(EventsPlace { coordinator, after });
                *from = events.last().map_or(*from, |last| last.number + 1);
                Ok(())
            }
            other => Err(unexpected("Events", &other)),
        },
    );
    until_signal(work).await
}

/// One event for people: its fields in the order of the JSON form.
fn event_line(event: &Event) -> String {
    let fields = match serde_json::to_value(&event.kind) {
        Ok(serde_json::Value::Object(kinds)) => {
            let texts = kinds.into_iter().map(|(kind, fields)| {
                let fields = fields.as_object().map(|fields| {
                    fields
                        .iter()
                        .map(|(name, value)| format!("{name}={value}"))
                        .collect::<Vec<_>>()
                });
                format!("{kind} {}", fields.unwrap_or_default().join(" "))
            });
            texts.collect::<Vec<_>>().join(" ")
        }
        Ok(serde_json::Value::String(kind)) => kind,
        _ => format!("{:?}", event.kind),
    };
    format!("{:>6} {} {fields}\n", event.number, rfc3339(event.time_ms))
}

/// Which lines of a log were printed, so that a second sending prints the rest only.
#[derive(Debug, Default)]
struct Printed {
    time_ms: u64,
    at_that_time: Vec<LogLine>,
}

impl Printed {
    /// Whether the line is new; notes it if so.
    fn is_new(&mut self, line: &LogLine) -> bool {
        if line.time_ms < self.time_ms || self.at_that_time.contains(line) {
            return false;
        }
        if line.time_ms > self.time_ms {
            self.time_ms = line.time_ms;
            self.at_that_time.clear();
        }
        self.at_that_time.push(line.clone());
        true
    }
}

/// `evoring logs`.
pub(super) async fn logs(context: &Context, arguments: FollowJobArgs) -> Result<Exit, Failure> {
    let mut client = context.client()?;
    let job = resolve(&mut client, arguments.job).await?;
    // Before the first loss nothing comes twice, and equal lines are all wanted.
    let mut printed = (Printed::default(), false);
    let end = if arguments.follow {
        End::OfJob(job)
    } else {
        End::First
    };
    let work = pump(
        &mut client,
        end,
        &mut printed,
        |printed| {
            printed.1 = printed.0.time_ms > 0;
            ClientRequest::Logs {
                job,
                follow: arguments.follow,
            }
        },
        |(printed, is_repeated), reply| match reply {
            ClientReply::LogLines(lines) => {
                for line in &lines {
                    if !printed.is_new(line) && *is_repeated {
                        continue;
                    }
                    if context.style.json {
                        print_json(&LogLineJson::from(line))?;
                    } else {
                        let worker = line.worker.as_ref().map_or("-", |worker| worker.as_str());
                        print(&format!(
                            "{} {worker:<4} {}\n",
                            rfc3339(line.time_ms),
                            line.text
                        ))?;
                    }
                }
                Ok(())
            }
            other => Err(unexpected("Logs", &other)),
        },
    );
    until_signal(work).await
}

/// What the end of a stream means; a coordinator that stops ends streams, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All is told.
    First,
    /// All is told if the job has ended.
    OfJob(JobId),
    /// There is always more.
    Never,
}

/// Hands every reply of a stream to `take`, and opens the stream again where `request` says after
/// a loss.
async fn pump<S>(
    client: &mut Client,
    end: End,
    state: &mut S,
    mut request: impl FnMut(&mut S) -> ClientRequest,
    mut take: impl FnMut(&mut S, ClientReply) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let mut silence_began = None;
    loop {
        let mut replies = client.open(&request(state)).await?;
        if end != End::First {
            client.set_patience(LONG_PATIENCE);
        }
        let setback = loop {
            match replies.next().await {
                Ok(Some(reply)) => {
                    silence_began = None;
                    take(state, reply)?;
                }
                Ok(None) if is_end(client, end).await? => return Ok(Exit::Ok),
                Ok(None) => {
                    break Setback::Temporary(Failure::new(
                        Exit::Unreachable,
                        "the coordinator stopped telling",
                    ));
                }
                Err(setback) => break setback,
            }
        };
        client
            .wait_or_fail(setback, *silence_began.get_or_insert_with(Instant::now))
            .await?;
    }
}

async fn is_end(client: &mut Client, end: End) -> Result<bool, Failure> {
    match end {
        End::First => Ok(true),
        End::Never => Ok(false),
        End::OfJob(job) => match client.ask(&ClientRequest::Show { job }).await? {
            ClientReply::Job(view) => Ok(view.status.is_final()),
            other => Err(unexpected("Show", &other)),
        },
    }
}

/// Ctrl-C is how a person ends a stream.
async fn until_signal(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    tokio::select! {
        biased;
        exit = signals.next() => Ok(exit),
        result = work => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: after a loss, lines that were printed are not printed again, and equal lines of one
    // moment do not hide later ones. Method: a log sent twice, longer the second time.
    #[test]
    fn repeated_lines_are_skipped() {
        let line = |time_ms, text: &str| LogLine {
            time_ms,
            worker: None,
            text: text.to_owned(),
        };
        let mut printed = Printed::default();
        let first = [line(1, "a"), line(2, "b"), line(2, "c")];
        assert!(first.iter().all(|line| printed.is_new(line)));
        let second = [
            line(1, "a"),
            line(2, "b"),
            line(2, "c"),
            line(2, "d"),
            line(3, "e"),
        ];
        let new: Vec<&str> = second
            .iter()
            .filter(|line| printed.is_new(line))
            .map(|line| line.text.as_str())
            .collect();
        assert_eq!(new, ["d", "e"]);
    }
}
