//! Which data a job is about.

use super::*;

/// Claim: once a training has read the data, every call names their content, so that neither other
/// files nor answers from the cache about other files can get into the job; the result names it
/// too. Rows on different test images are no result.
#[test]
fn calls_name_the_content_of_the_data() {
    let record = run(JOB, Order::First, None);
    assert_eq!(record.named[0], None);
    let calls = record.gangs.len() + record.asked.len() + 1;
    assert_eq!(record.named.len(), calls);
    assert!(
        record.named[1..]
            .iter()
            .all(|name| *name == Some(TRAIN_DATA))
    );
    let result = record.json("result.json");
    assert_eq!(result["job"]["data"]["digest"], TRAIN_DATA.to_string());
    assert_eq!(result["test_digest"], Digest([2; 32]).to_string());

    let torn = run(&JOB.replace("simulated", "torn"), Order::First, None);
    let failure = torn.failure.unwrap();
    assert!(
        failure.contains("expected the same images for all nets"),
        "{failure}"
    );
}
