//! Claim: the number of workers does not change a byte of what a job leaves behind, whichever row
//! of the final table it is about.
//!
//! Method: the same job (`ranks = "1..4"`, `shards = 4`, every baseline on) on clusters of 1, 2 and
//! 4 one-slot workers; `population.json`, `model.safetensors` and `report.json`'s `result` are
//! compared.

use evoring_protocol::event::EventKind;
use evoring_tests::cluster::Cluster;
use evoring_tests::job::{PruneJob, ROWS};
use serde_json::Value;

#[test]
fn one_two_and_four_workers_give_equal_bytes() {
    let job = PruneJob {
        generations: 2,
        every_row: true,
        ..PruneJob::default()
    };
    let runs = [1, 2, 4].map(|workers| {
        let cluster = Cluster::start(workers);
        let number = cluster.submit(&job.text());
        let view = cluster.wait_for_end(number);
        assert_eq!(view["status"], "finished", "{view}\n{}", cluster.logs());
        let events = cluster.events().expect("events of a living coordinator");
        let ranks = events.iter().find_map(|e| match &e.kind {
            EventKind::RosterCommitted { stage, members, .. } if stage == "train" => {
                Some(members.len())
            }
            _ => None,
        });
        assert_eq!(
            ranks,
            Some(workers),
            "the gang uses every slot, or the comparison says little"
        );
        cluster.repeatable_bytes(number)
    });
    let result: Value = serde_json::from_slice(&runs[0].result).expect("the result is JSON");
    let rows = result["rows"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ROWS, "a row that is absent is not compared");
    runs[1].assert_equals(&runs[0], "2 workers against 1");
    runs[2].assert_equals(&runs[0], "4 workers against 1");
}
