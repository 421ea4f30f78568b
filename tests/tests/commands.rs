//! Claim: what a user looks at while a job runs and afterwards shows what really happened: `logs`,
//! `plot`, `completions`, the metrics.
//!
//! Method: the real binaries and small jobs; what is shown is compared with the events and with the
//! artifacts. How pictures and tables look is tested in `cli`.

use evoring_protocol::event::{Event, EventKind};
use evoring_tests::binaries;
use evoring_tests::cluster::{Cluster, RepeatableBytes, alone};
use evoring_tests::images;
use evoring_tests::job::PruneJob;
use evoring_tests::process::http_body;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Every command of docs/cli.md beside `completions`.
const COMMANDS: [&str; 12] = [
    "run", "local", "submit", "jobs", "show", "explain", "logs", "cancel", "fetch", "plot",
    "events", "workers",
];

/// The output of a command that succeeded.
fn told(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn json(file: &Path) -> Value {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Submits the small job on images of its own.
fn submit(cluster: &Cluster) -> u64 {
    let place = cluster.scratch().join("images");
    images::write(&place);
    cluster.submit(&images::job(&place))
}

/// What the workers say of the rosters in the events: worker and line.
fn starts_of_ranks(events: &[Event]) -> BTreeSet<(String, String)> {
    let rosters = events.iter().filter_map(|event| match &event.kind {
        EventKind::RosterCommitted {
            stage,
            members,
            resume_step,
            ..
        } => Some((stage, members, resume_step)),
        _ => None,
    });
    rosters
        .flat_map(|(stage, members, step)| {
            let size = members.len();
            members.iter().enumerate().map(move |(rank, (worker, _))| {
                let line = format!("{stage}: rank {rank} of {size} starts at step {step}");
                (worker.to_string(), line)
            })
        })
        .collect()
}

/// Claim: `logs` shows what each worker said, under its name, beside what the coordinator did, as
/// text and as JSON; with `-f` it tells the same and ends with the job.
/// Method: a job with gangs on two workers; the events say which rank started where.
#[test]
fn logs_show_what_each_worker_said() {
    let _alone = alone();
    let cluster = Cluster::start(2);
    let job = submit(&cluster);
    let followed = told(&cluster.run(&["logs", "latest", "-f"]));
    let view = cluster.job(job).expect("a view");
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());

    let number = job.to_string();
    let printed = told(&cluster.run(&["logs", &number]));
    assert_eq!(followed, printed, "-f misses nothing and repeats nothing");
    let lines: Vec<Value> = told(&cluster.run(&["logs", &number, "--json"]))
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let field = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let as_text = |line: &Value| {
        let [time, worker, text] = ["time", "worker", "text"].map(|name| field(line, name));
        format!("{time} {worker:<4} {text}\n")
    };
    assert_eq!(printed, lines.iter().map(as_text).collect::<String>());

    let (of_workers, of_coordinator): (Vec<&Value>, Vec<&Value>) =
        lines.iter().partition(|line| line["worker"].is_string());
    let said: BTreeSet<_> = of_workers
        .iter()
        .map(|line| (field(line, "worker"), field(line, "text")))
        .collect();
    let expected = starts_of_ranks(&cluster.events().expect("events"));
    let workers: BTreeSet<&str> = expected.iter().map(|(worker, _)| worker.as_str()).collect();
    assert_eq!(workers, BTreeSet::from(["w1", "w2"]), "{expected:?}");
    assert!(said.is_superset(&expected), "{said:?} lacks {expected:?}");
    let done: Vec<String> = of_coordinator
        .iter()
        .map(|line| field(line, "text"))
        .filter(|text| text.starts_with("stage ") || text == "finished")
        .collect();
    let stages = ["train", "search", "finetune", "evaluate"];
    let mut story: Vec<String> = stages
        .iter()
        .flat_map(|stage| ["begins", "is complete"].map(|what| format!("stage {stage} {what}")))
        .collect();
    story.push("finished".to_owned());
    assert_eq!(done, story);
}

/// Claim: `plot` draws what the job made, the same from the cluster and from its fetched folder; of a
/// job that has nothing to show yet it says so.
/// Method: a small job; numbers in the pictures against `population.json`, `report.json` and
/// `model.json`. A second job that waits for workers that never come.
#[test]
fn plots_show_the_results() {
    let _alone = alone();
    let cluster = Cluster::start(1);
    let job = submit(&cluster);
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let job = job.to_string();
    let fetched = cluster.scratch().join("fetched");
    told(&cluster.run(&["fetch", &job, text(&fetched)]));
    let model = json(&fetched.join("model.json"));
    let report = json(&fetched.join("report.json"));
    let population = json(&fetched.join("population.json"));
    let generations = population["generations"].as_array().expect("generations");
    let expected = [
        (
            "fitness",
            vec![
                "tiny: fitness".to_owned(),
                format!("; {} generations, ", generations.len()),
                "best of the generation".to_owned(),
            ],
        ),
        (
            "front",
            vec![
                "tiny: size and accuracy".to_owned(),
                format!(
                    "{} parameters, ",
                    thousands(&report["result"]["winner"]["parameters"])
                ),
                "Pareto front".to_owned(),
            ],
        ),
        (
            "filters",
            vec![
                "tiny: filters".to_owned(),
                format!(
                    "lenet: {} of {} parameters are left",
                    thousands(&model["parameters"]),
                    thousands(&model["full_parameters"])
                ),
                format!("convolution: {} of 20 filters kept", kept(&model)),
            ],
        ),
    ];
    for (what, texts) in expected {
        let [of_job, of_folder] = [job.as_str(), text(&fetched)].map(|source| {
            let file = cluster.scratch().join("picture.svg");
            let arguments = ["plot", source, "--what", what, "-o", text(&file), "--json"];
            let reply = told(&cluster.run(&arguments));
            let reply: Value = serde_json::from_str(&reply).expect("JSON");
            assert_eq!(reply["file"], text(&file));
            std::fs::read_to_string(&file).expect("a picture")
        });
        let name = format!("{what}.svg");
        let made = std::fs::read_to_string(fetched.join(&name)).expect("a picture");
        assert!(of_job == of_folder && of_job == made, "{what} differs");
        assert!(
            of_job.starts_with("<svg") && of_job.trim_end().ends_with("</svg>"),
            "{what} is no whole picture"
        );
        for text in texts {
            assert!(of_job.contains(&text), "{what} lacks {text:?}:\n{of_job}");
        }
        // Without --what, the name of the file decides.
        let file = cluster.scratch().join(&name);
        told(&cluster.run(&["plot", "latest", "-o", text(&file)]));
        assert_eq!(std::fs::read_to_string(&file).expect("a picture"), made);
    }

    let large = PruneJob {
        ranks: "4",
        ..PruneJob::default()
    };
    let queued = cluster.submit(&large.text()).to_string();
    let file = cluster.scratch().join("none.svg");
    let refused = cluster.run(&["plot", &queued, "-o", text(&file)]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(
        said.contains("no generation has been evaluated yet"),
        "{said}"
    );
    assert!(!file.exists(), "an empty picture");
}

/// Filters that are left in the first convolution.
fn kept(model: &Value) -> usize {
    let layers = model["layers"].as_array().expect("layers");
    let first = layers.iter().find_map(|layer| layer["kept"].as_array());
    first.expect("a layer with filters").len()
}

/// A count as people read it.
fn thousands(count: &Value) -> String {
    let mut text = count.as_u64().expect("a count").to_string();
    let mut at = text.len();
    while at > 3 {
        at -= 3;
        text.insert(at, ',');
    }
    text
}

/// Claim: the script of every shell knows every command, and bash completes commands and options
/// with its one.
/// Method: the scripts as text; bash loads its script and is asked as its line editor asks.
#[test]
fn completions_complete() {
    let script = |shell: &str| {
        let mut command = Command::new(binaries::binary("evoring"));
        command.args(["completions", shell]).stdin(Stdio::null());
        told(&command.output().expect("evoring starts"))
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = script(shell);
        for word in COMMANDS.iter().chain(&["completions"]) {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let bash = script("bash");
    let completed = |words: &[&str]| -> BTreeSet<String> {
        let ask = "eval \"$EVORING_SCRIPT\"\n\
            COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))\n\
            function=$(complete -p evoring | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
            \"$function\" evoring \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"\n\
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", ask, "bash"]).args(words);
        let output = command.env("EVORING_SCRIPT", &bash).output();
        let printed = told(&output.expect("bash starts"));
        printed.lines().map(str::to_owned).collect()
    };
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let commands = completed(&["evoring", ""]);
    assert!(commands.is_superset(&set(&COMMANDS)), "{commands:?}");
    assert_eq!(completed(&["evoring", "can"]), set(&["cancel"]));
    assert_eq!(
        completed(&["evoring", "local", "--work"]),
        set(&["--workers"])
    );
    assert_eq!(
        completed(&["evoring", "plot", "1", "--what", "f"]),
        set(&["fitness", "front", "filters"])
    );
}

/// Claim: coordinator and agents serve the metrics of docs/metrics.md, each of the kind that is
/// written there, and no other; what counts has counted.
/// Method: after a job, names and kinds of both pages against the tables.
#[test]
fn metrics_are_those_documented() {
    let _alone = alone();
    let cluster = Cluster::start(2);
    let job = submit(&cluster);
    let view = cluster.wait_for_end(job);
    assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(document).expect("docs/metrics.md");
    let documented: BTreeSet<(&str, &str)> = document
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `evoring_")?.split_once('`')?;
            let kind = rest.strip_prefix(" | ")?.split(' ').next()?;
            Some((name.split('{').next()?, kind))
        })
        .collect();
    let announced = json(&cluster.folder().join("coordinator.json"));
    let workers = cluster.workers().expect("workers");
    let field = |value: &Value| value.as_str().expect("an address").to_owned();
    let pages_of = workers.iter().map(|worker| {
        let address = field(&worker["metrics"]);
        let address = address.trim_start_matches("http://");
        http_body(address.trim_end_matches("/metrics"), "/metrics")
    });
    let mut pages = vec![http_body(&field(&announced["http"]), "/metrics")];
    pages.extend(pages_of);
    let served: BTreeSet<(&str, &str)> = pages
        .iter()
        .flat_map(|page| page.lines())
        .filter_map(|line| line.strip_prefix("# TYPE evoring_")?.split_once(' '))
        .collect();
    assert_eq!(served, documented);
    let value = |page: &str, name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        let text = line.unwrap_or_else(|| panic!("{name} in {page}"));
        text.trim().parse().expect("a number")
    };
    let ended = "evoring_coordinator_jobs_ended_total{how=\"finished\"}";
    assert_eq!(value(&pages[0], ended), 1.0);
    for name in [
        "evoring_coordinator_items_granted_total",
        "evoring_coordinator_rosters_committed_total",
    ] {
        assert!(value(&pages[0], name) > 0.0, "{name}");
    }
    // Which worker got them is the scheduler's choice.
    for name in ["evoring_worker_items_total", "evoring_worker_ranks_total"] {
        let sum: f64 = pages[1..].iter().map(|page| value(page, name)).sum();
        assert!(sum > 0.0, "{name}");
    }
}

/// Claim: `run` with three coordinators makes one group of them, which runs the job to the same bytes
/// as one alone.
/// Method: the small job both ways, in folders that stay; the event files say who knew of the job.
#[test]
fn run_with_several_coordinators() {
    let _alone = alone();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let place = folder.path().join("images");
    images::write(&place);
    let job = folder.path().join("job.toml");
    std::fs::write(&job, images::job(&place)).expect("a job file");
    let made = |coordinators: &str| {
        let [cluster, out] = ["cluster", "out"].map(|what| {
            let name = format!("{what}-{coordinators}");
            folder.path().join(name)
        });
        let run = Command::new(binaries::binary("evoring"))
            .args(["run", text(&job), "--coordinators", coordinators])
            .args(["--workers", "2", "--dir", text(&cluster)])
            .args(["--out", text(&out)])
            .current_dir(folder.path())
            .env("XDG_STATE_HOME", folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("evoring starts");
        told(&run);
        (cluster, RepeatableBytes::read(&out))
    };
    let (cluster, of_three) = made("3");
    let knew = ["c1", "c2", "c3"].map(|name| {
        let file = cluster.join(name).join("events");
        let lines = std::fs::read_to_string(&file);
        let lines = lines.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        // The last line may be half there.
        let mut events = lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        events.any(|event: Event| matches!(event.kind, EventKind::JobSubmitted { .. }))
    });
    assert_eq!(knew, [true; 3], "each coordinator has the job in its log");
    let (cluster, of_one) = made("1");
    assert!(!cluster.join("c1").exists(), "one stands alone");
    of_three.assert_equals(&of_one, "three coordinators");
}
