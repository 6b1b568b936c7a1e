//! What is wrong is refused, with a code, a reason and the field at fault; nothing changes by it, and
//! the server serves on.

use sooner::wire::{
    CreateBatchRequest, ItemSpec, Payload, RetryPolicy, SubmitBatchRequest, payload::Body,
};
use tonic::{Code, Status};

use crate::harness::client::{fields, reason};
use crate::harness::{Client, ServerSetup, all, item, within};

/// A server with limits that are easily broken.
const SMALL: &str = r#"
[limits]
submit_items = 5
input_bytes = "1KiB"
message_bytes = "64KiB"

[queues.default]
handler = { echo = {} }
"#;

type Spoil = Box<dyn Fn(&mut SubmitBatchRequest)>;

/// What is done to a sound request, and the reason and field of its refusal.
struct Case(&'static str, &'static str, Spoil);

fn case(
    reason: &'static str,
    field: &'static str,
    spoil: impl Fn(&mut SubmitBatchRequest) + 'static,
) -> Case {
    Case(reason, field, Box::new(spoil))
}

/// Where most refusals have the same reason.
fn invalid(field: &'static str, spoil: impl Fn(&mut SubmitBatchRequest) + 'static) -> Case {
    case("INVALID_FIELD", field, spoil)
}

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

const YEAR: i64 = 366 * 24 * 3600;

fn absurd_durations() -> [prost_types::Duration; 7] {
    [
        duration(-1, 0),
        duration(0, -1),
        duration(0, 1_000_000_000),
        duration(11 * YEAR, 0),
        duration(i64::MAX, i32::MAX),
        duration(i64::MIN, i32::MIN),
        duration(1, -1),
    ]
}

fn about_the_batch() -> Vec<Case> {
    let mut cases = vec![
        invalid("items", |it| it.items.clear()),
        case("TOO_MANY_ITEMS", "items", |it| {
            it.items = vec![item("x"); 6];
        }),
        invalid("request_id", |it| it.request_id = "x".repeat(129)),
        invalid("queue", |it| it.queue = "a b".into()),
        invalid("queue", |it| it.queue = "x".repeat(65)),
        invalid("options.labels", |it| {
            let labels = &mut it.options.get_or_insert_default().labels;
            labels.extend((0..65).map(|i| (format!("label-{i}"), String::new())));
        }),
        invalid("options.labels[\"a b\"]", |it| {
            it.options
                .get_or_insert_default()
                .labels
                .insert("a b".into(), String::new());
        }),
        invalid("options.labels[\"a\"]", |it| {
            it.options
                .get_or_insert_default()
                .labels
                .insert("a".into(), "x".repeat(257));
        }),
        invalid("options.item_timeout", |it| {
            it.options.get_or_insert_default().item_timeout = Some(duration(0, 999_999));
        }),
    ];
    let long = "x".repeat(129);
    for id in [
        ".a",
        "-a",
        "a:b",
        "a b",
        "a/b",
        "ä",
        "a\n",
        "a\0",
        long.as_str(),
    ] {
        let id = id.to_owned();
        cases.push(invalid("batch_id", move |it| it.batch_id.clone_from(&id)));
    }
    for key in ["a b", "ä", "a\n", "\u{7f}"] {
        cases.push(invalid("request_id", move |it| it.request_id = key.into()));
    }
    for absurd in absurd_durations() {
        cases.push(invalid("options.item_timeout", move |it| {
            it.options.get_or_insert_default().item_timeout = Some(absurd);
        }));
        cases.push(invalid("options.retention", move |it| {
            it.options.get_or_insert_default().retention = Some(absurd);
        }));
    }
    for brief in [duration(0, 0), duration(0, 999_999_999)] {
        cases.push(invalid("options.retention", move |it| {
            it.options.get_or_insert_default().retention = Some(brief);
        }));
    }
    cases
}

fn about_items() -> Vec<Case> {
    let mut cases = vec![
        case("DUPLICATE_ITEM_ID", "items[2].item_id", |it| {
            name(it, &["a", "b", "a"]);
        }),
        invalid("items[1].item_id", |it| name(it, &["a", "", "c"])),
        case("INPUT_TOO_LARGE", "items[1].input", |it| {
            it.items[1] = item("x".repeat(1025));
        }),
        invalid("items[0].timeout", |it| {
            it.items[0].timeout = Some(duration(0, 0));
        }),
        invalid("items[0].start_by", |it| {
            it.items[0].start_by = Some(time(-1));
        }),
        invalid("items[1].finish_by", |it| {
            it.items[1].finish_by = Some(time(32_503_680_000));
        }),
        invalid("items[0].attributes", |it| {
            let attributes = (0..17).map(|i| (format!("name-{i}"), String::new()));
            it.items[0].attributes.extend(attributes);
        }),
        invalid("items[0].attributes[\"a b\"]", |it| {
            it.items[0].attributes.insert("a b".into(), String::new());
        }),
        invalid("items[0].attributes[\"a\"]", |it| {
            it.items[0].attributes.insert("a".into(), "x".repeat(1025));
        }),
    ];
    let long = "ä".repeat(128) + "x";
    for id in ["a\nb", "\0", "\u{85}", "\u{7f}", long.as_str()] {
        let id = id.to_owned();
        cases.push(invalid("items[1].item_id", move |it| {
            name(it, &["a", &id, "c"]);
        }));
    }
    for text in ["", "{", "{\"a\":1}x", "{'a':1}", "[1,]", "NaN", "01"] {
        for content_type in ["application/json", "Application/JSON; charset=utf-8"] {
            cases.push(invalid("items[1].input", move |it| {
                it.items[1] = typed(text, content_type);
            }));
        }
    }
    let long = "x".repeat(257);
    for content_type in ["a\n", "ä", long.as_str()] {
        let content_type = content_type.to_owned();
        cases.push(invalid("items[1].input", move |it| {
            it.items[1] = typed("x", &content_type);
        }));
    }
    for absurd in absurd_durations() {
        cases.push(invalid("items[2].timeout", move |it| {
            it.items[2].timeout = Some(absurd);
        }));
    }
    cases
}

fn time(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

fn name(request: &mut SubmitBatchRequest, ids: &[&str]) {
    for (item, id) in request.items.iter_mut().zip(ids) {
        item.item_id = (*id).into();
    }
}

fn typed(text: &str, content_type: &str) -> ItemSpec {
    let (body, content_type) = (Some(Body::Text(text.into())), content_type.into());
    ItemSpec {
        input: Some(Payload { body, content_type }),
        ..ItemSpec::default()
    }
}

type Policies = Vec<(&'static str, RetryPolicy)>;

/// Settings out of their bounds, by field.
fn wrong_numbers() -> Policies {
    let mut wrong = Policies::new();
    let mut add = |field, set: &dyn Fn(&mut RetryPolicy)| {
        let mut policy = RetryPolicy::default();
        set(&mut policy);
        wrong.push((field, policy));
    };
    for number in [0, 1001, u32::MAX] {
        add("max_attempts", &|it| it.max_attempts = Some(number));
    }
    for number in [0, 101] {
        add("max_crashes", &|it| it.max_crashes = Some(number));
    }
    for number in [0.0, 0.99, 100.1, -2.0, f64::NAN, f64::INFINITY] {
        add("multiplier", &|it| it.multiplier = Some(number));
    }
    for number in [-0.1, 1.1, f64::NAN, f64::NEG_INFINITY] {
        add("jitter", &|it| it.jitter = Some(number));
    }
    for absurd in absurd_durations() {
        add("initial_backoff", &|it| it.initial_backoff = Some(absurd));
        add("max_backoff", &|it| it.max_backoff = Some(absurd));
    }
    wrong
}

/// Reasons that are none, by field.
fn wrong_reasons() -> Policies {
    let policy = |reasons: Vec<String>| RetryPolicy {
        non_retryable_reasons: reasons,
        ..RetryPolicy::default()
    };
    let long = "X".repeat(64);
    let wrong = ["", "lower", "A B", "Ä", long.as_str()];
    let mut policies: Policies = wrong
        .map(|reason| vec!["FINE".into(), reason.into()])
        .map(|reasons| ("non_retryable_reasons[1]", policy(reasons)))
        .into();
    policies.push(("non_retryable_reasons[64]", policy(vec!["X".into(); 65])));
    policies
}

fn about_retries() -> Vec<Case> {
    let mut cases = Vec::new();
    for (field, policy) in wrong_numbers().into_iter().chain(wrong_reasons()) {
        let of_batch: &str = format!("options.retry_policy.{field}").leak();
        let of_item: &str = format!("items[1].retry_policy.{field}").leak();
        let again = policy.clone();
        cases.push(invalid(of_batch, move |it| {
            it.options.get_or_insert_default().retry_policy = Some(policy.clone());
        }));
        cases.push(invalid(of_item, move |it| {
            it.items[1].retry_policy = Some(again.clone());
        }));
    }
    cases
}

/// Settings that only a submit with a stream has.
fn about_streams() -> Vec<Case> {
    let mut cases = vec![
        invalid("on_disconnect", |it| it.on_disconnect = 99),
        invalid("on_disconnect", |it| it.on_disconnect = -1),
        invalid("progress_interval", |it| {
            it.progress_interval = Some(duration(0, 999_999_999));
        }),
    ];
    for absurd in absurd_durations() {
        cases.push(invalid("progress_interval", move |it| {
            it.progress_interval = Some(absurd);
        }));
    }
    cases
}

/// Three sound items under keys of their own.
fn sound(number: usize) -> SubmitBatchRequest {
    SubmitBatchRequest {
        batch_id: format!("batch-{number}"),
        request_id: format!("key-{number}"),
        items: ["x", "y", "z"].map(item).into(),
        ..SubmitBatchRequest::default()
    }
}

/// The same request for the call that has no stream.
fn without_stream(request: SubmitBatchRequest) -> CreateBatchRequest {
    CreateBatchRequest {
        batch_id: request.batch_id,
        request_id: request.request_id,
        queue: request.queue,
        items: request.items,
        options: request.options,
    }
}

fn assert_refused(status: &Status, reason_and_field: (&str, &str)) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(reason(status), reason_and_field.0, "{status:?}");
    assert_eq!(fields(status), [reason_and_field.1], "{status:?}");
    assert!(
        status.message().starts_with(reason_and_field.1),
        "{status:?}"
    );
}

/// Submits each case's request, sees it refused, and sees that its keys are still free.
async fn all_are_refused(cases: Vec<Case>, also_without_stream: bool) {
    let setup = ServerSetup::new(SMALL);
    let server = setup.start();
    let mut client = server.client().await;
    for (number, Case(reason, field, spoil)) in cases.into_iter().enumerate() {
        let mut request = sound(number);
        spoil(&mut request);
        let status = client
            .submit_request(request.clone())
            .await
            .map(|_| ())
            .unwrap_err();
        assert_refused(&status, (reason, field));
        if also_without_stream {
            let status = create(&mut client, without_stream(request))
                .await
                .unwrap_err();
            assert_refused(&status, (reason, field));
        }
        is_unchanged(&mut client, number).await;
    }
}

async fn create(client: &mut Client, request: CreateBatchRequest) -> Result<bool, Status> {
    let created = within(client.stub.create_batch(request)).await?;
    Ok(created.into_inner().created)
}

/// Both keys of a refused request are free, and the server computes.
async fn is_unchanged(client: &mut Client, number: usize) {
    let missing = client.batch(&sound(number).batch_id).await.unwrap_err();
    assert_eq!(reason(&missing), "BATCH_NOT_FOUND");
    let (accepted, mut results) = client.submit_request(sound(number)).await.unwrap();
    assert!(accepted.created);
    assert_eq!(all(&mut results).await.len(), 3);
}

#[tokio::test]
async fn a_wrong_batch_is_refused() {
    all_are_refused(about_the_batch(), true).await;
}

#[tokio::test]
async fn a_wrong_item_is_refused() {
    all_are_refused(about_items(), true).await;
}

#[tokio::test]
async fn wrong_retry_settings_are_refused() {
    all_are_refused(about_retries(), true).await;
}

#[tokio::test]
async fn wrong_settings_of_a_stream_are_refused() {
    all_are_refused(about_streams(), false).await;
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let setup = ServerSetup::new(SMALL);
    let server = setup.start();
    let mut client = server.client().await;
    let mut request = sound(0);
    request.queue = "a b".into();
    name(&mut request, &["a", "a", "\n"]);
    let status = client
        .submit_request(request)
        .await
        .map(|_| ())
        .unwrap_err();
    let mut wrong = fields(&status);
    wrong.sort_unstable();
    assert_eq!(wrong, ["items[1].item_id", "items[2].item_id", "queue"]);
    is_unchanged(&mut client, 0).await;
}

#[tokio::test]
async fn an_error_about_very_much_still_fits_into_its_headers() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    let mut request = sound(0);
    // Five thousand wrong items, each with an id that is long in the message too.
    request.items = vec![item("x"); 5000];
    for item in &mut request.items {
        item.item_id = "\u{1}".repeat(256);
    }
    let status = client
        .submit_request(request)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(
        (1..=50).contains(&fields(&status).len()),
        "{}",
        fields(&status).len()
    );
    assert!(
        status.details().len() < 8 << 10,
        "{} bytes",
        status.details().len()
    );
    is_unchanged(&mut client, 0).await;
}

/// A refusal travels in headers, and those of a client are small.
#[tokio::test]
async fn a_wrong_value_may_be_as_long_as_a_message() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = server.client().await;
    is_unchanged(&mut client, 0).await;
    let long = ".".repeat(1 << 20);
    let mut by_batch_id = sound(1);
    by_batch_id.batch_id.clone_from(&long);
    let mut by_queue = sound(1);
    by_queue.queue.clone_from(&long);
    let mut by_label = sound(1);
    let labels = &mut by_label.options.get_or_insert_default().labels;
    labels.insert(long.clone() + ":", String::new());
    let mut by_attribute = sound(1);
    by_attribute.items[0]
        .attributes
        .insert(long.clone() + ":", String::new());
    for (request, field) in [
        (by_batch_id, "batch_id"),
        (by_queue, "queue"),
        (by_label, "options.labels"),
        (by_attribute, "items[0].attributes"),
    ] {
        let status = client
            .submit_request(request)
            .await
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "about {field}: {status:?}"
        );
        assert!(fields(&status)[0].starts_with(field), "{status:?}");
    }
    for (status, expected) in [
        (
            client.batch(&long).await.unwrap_err(),
            Code::InvalidArgument,
        ),
        (
            client.item("batch-0", &long).await.unwrap_err(),
            Code::NotFound,
        ),
        (
            client.cancel("batch-0", &[&long]).await.unwrap_err(),
            Code::NotFound,
        ),
    ] {
        let told = status.code();
        assert!(
            told == expected || told == Code::InvalidArgument,
            "{status:?}"
        );
    }
    is_unchanged(&mut client, 1).await;
}
