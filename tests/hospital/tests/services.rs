//! The services on a real PostgreSQL: what is acknowledged, what is refused, and with which words.

mod support;

use std::time::{Duration, Instant};

use holdfast_hospital::Service;
use serde_json::json;
use support::{Database, Hospital, get, start};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

#[tokio::test]
async fn a_retry_gives_the_same_record_and_another_patient_is_refused() {
    let database = Database::start().await;
    let hospital = Hospital::open(&database).await;

    let patient = json!({ "client_id": Uuid::new_v4() });
    let (status, first) = hospital.post(Service::Registration, &patient).await;
    let (_, again) = hospital.post(Service::Registration, &patient).await;
    assert_eq!(status, 201);
    assert_eq!(first["mrn"], again["mrn"]);
    let (_, other) = hospital.post(Service::Registration, &json!({ "client_id": Uuid::new_v4() })).await;
    assert_ne!(first["mrn"], other["mrn"]);

    let client_id = Uuid::new_v4();
    let invoice = json!({ "client_id": client_id, "mrn": first["mrn"] });
    let (status, stored) = hospital.post(Service::Billing, &invoice).await;
    assert_eq!((status, &stored["mrn"]), (201, &first["mrn"]));
    let (status, again) = hospital.post(Service::Billing, &invoice).await;
    assert_eq!((status, &again["id"]), (201, &stored["id"]));

    let elsewhere = json!({ "client_id": client_id, "mrn": other["mrn"] });
    let (status, refusal) = hospital.post(Service::Billing, &elsewhere).await;
    assert_eq!((status, refusal["code"].as_str()), (409, Some("other_content")));

    let (status, listed) = get(&hospital.site.url(Service::Billing, "records?after=0&limit=10")).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let expected = json!({ "records": [{ "id": stored["id"], "client_id": client_id, "mrn": first["mrn"] }] });
    assert_eq!((status, listed), (200, expected));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_nothing_is_written() {
    let database = Database::start().await;
    let hospital = Hospital::open(&database).await;
    let client_id = Uuid::new_v4();
    for (service, body, status, code) in [
        (Service::Lab, json!({ "client_id": client_id, "mrn": 4711 }), 422, "unknown_patient"),
        (Service::Lab, json!({ "client_id": client_id }), 422, "bad_request"),
        (Service::Lab, json!({ "client_id": "no uuid", "mrn": 1 }), 422, "bad_request"),
        (Service::Registration, json!({ "client_id": client_id, "name": "Eve" }), 422, "bad_request"),
        (Service::Registration, json!({ "client_id": "x".repeat(5000) }), 413, "bad_request"),
    ] {
        let (answered, refusal) = hospital.post(service, &body).await;
        assert_eq!((answered, refusal["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(refusal["outcome"], "not_done");
    }
    assert_eq!(get(&hospital.site.url(Service::Registration, "patients/4711")).await.0, 404);
    let count = "SELECT (SELECT count(*) FROM patients) + (SELECT count(*) FROM results)";
    assert_eq!(database.number(count).await, 0);
}

#[tokio::test]
async fn billing_is_ready_only_while_registration_is() {
    let database = Database::start().await;
    let stop = CancellationToken::new();
    let registration_stop = CancellationToken::new();
    let registration = start(Service::Registration, &database.config(), None, &registration_stop).await;
    let billing = start(Service::Billing, &database.config(), Some(&registration), &stop).await;

    let ready = format!("{billing}readyz");
    wait_for(&ready, 200, "ready").await;
    registration_stop.cancel();
    wait_for(&ready, 503, "registration").await;
    assert_eq!(get(&format!("{billing}healthz")).await.0, 200);

    let invoice = json!({ "client_id": Uuid::new_v4(), "mrn": 1 });
    let answer = reqwest::Client::new().post(format!("{billing}invoices")).json(&invoice).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 503);
    let refusal: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!((refusal["code"].as_str(), refusal["outcome"].as_str()), (Some("registration"), Some("not_done")));
    stop.cancel();
}

#[tokio::test]
async fn a_database_that_is_read_only_or_missing_is_waited_for() {
    let database = Database::start().await;
    database.set("default_transaction_read_only", "on").await;
    let hospital = Hospital::begin(database.config()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (status, why) = hospital.readiness(Service::Registration).await;
    assert_eq!(status, 503, "{why}");

    database.set("default_transaction_read_only", "off").await;
    hospital.wait_ready(Service::Lab).await;

    // As a fenced primary: it still answers, and says so.
    database.set("default_transaction_read_only", "on").await;
    let (status, why) = hospital.readiness(Service::Registration).await;
    assert!(status == 503 && why.contains("read-only"), "{status} {why}");
    let (status, refusal) = hospital.post(Service::Registration, &json!({ "client_id": Uuid::new_v4() })).await;
    assert_eq!((status, refusal["outcome"].as_str()), (503, Some("not_done")));

    let mut nowhere = database.config();
    nowhere.port = 1;
    let hospital = Hospital::begin(nowhere).await;
    let (status, why) = hospital.readiness(Service::Registration).await;
    assert!(status == 503 && why.contains("starting"), "{status} {why}");
}

#[tokio::test]
async fn a_commit_that_hangs_is_answered_unknown_in_time_and_bounded() {
    let database = Database::start().await;
    let hospital = Hospital::open(&database).await;
    database.set("synchronous_standby_names", "nobody").await;

    let client_id = Uuid::new_v4();
    let patient = json!({ "client_id": client_id });
    let started = Instant::now();
    let (status, refusal) = hospital.post(Service::Registration, &patient).await;
    assert_eq!((status, refusal["outcome"].as_str()), (503, Some("unknown")));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());

    // Many more hang; the connections they hold stay bounded, and reading goes on.
    let crowd =
        (0..12).map(|_| async { hospital.post(Service::Registration, &json!({"client_id": Uuid::new_v4()})).await });
    let answers = futures::future::join_all(crowd).await;
    assert!(answers.iter().all(|(status, _)| *status == 503));
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hospital' AND state = 'active'
                AND query = 'COMMIT'";
    assert_eq!(database.number(busy).await, 4);
    assert_eq!(hospital.readiness(Service::Registration).await.0, 200);

    // The standby is back: what was begun is there, and the retry finds it.
    database.set("synchronous_standby_names", "").await;
    let (status, stored) = hospital.post(Service::Registration, &patient).await;
    assert_eq!(status, 201, "{stored}");
    let same = format!("SELECT count(*) FROM patients WHERE client_id = '{client_id}' AND id = {}", stored["mrn"]);
    assert_eq!(database.number(&same).await, 1);
}

#[tokio::test]
async fn a_cancelled_wait_for_the_standby_is_not_acknowledged() {
    let database = Database::start().await;
    let hospital = Hospital::open(&database).await;
    database.set("synchronous_standby_names", "nobody").await;
    let patient = json!({ "client_id": Uuid::new_v4() });
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let waiting = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query = 'COMMIT'
                       AND state = 'active'";
        assert_eq!(database.number(waiting).await, 1);
    };
    let (answer, ()) = futures::join!(hospital.post(Service::Registration, &patient), cancel);
    // PostgreSQL has said COMMIT, and a warning.
    assert_eq!((answer.0, answer.1["outcome"].as_str()), (503, Some("unknown")));
    assert_eq!(database.number("SELECT count(*) FROM patients").await, 1);
    assert!(answer.1["message"].as_str().is_some_and(|text| text.contains("warned")), "{}", answer.1);

    // The row can be seen, but its retry has to wait for the standby as well.
    let (status, refusal) = hospital.post(Service::Registration, &patient).await;
    assert_eq!((status, refusal["outcome"].as_str()), (503, Some("unknown")));
}

async fn wait_for(url: &str, status: u16, text: &str) {
    let url = Url::parse(url).expect("a URL");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (answered, body) = get(url.as_str()).await;
        if answered == status && body.contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "{url} answers {answered} {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
