//! The budget by itself: bodies made by hand, calls that are answered when told.

use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::*;

const UNARY: &str = "/unary";
const STREAM: &str = "/stream";
const LARGE: usize = 100 << 10;

/// Frames that have come; more never do, unless they end.
#[derive(Debug)]
struct Frames {
    come: VecDeque<Bytes>,
    ends: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        match self.come.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

fn message(length: usize) -> Bytes {
    let prefix = u32::try_from(length).unwrap().to_be_bytes();
    // A field that goes on for ever in a field that does: it counts as two.
    let endless = [0x0a, 0xff, 0xff, 0xff, 0x7f];
    let content = [&endless[..], &endless, &vec![7; length]].concat();
    [&[0], &prefix[..], &content[..length]].concat().into()
}

/// A body with these messages in frames of this size.
fn frames(messages: &[usize], frame: usize) -> Frames {
    let bytes: Vec<u8> = messages.iter().flat_map(|&it| message(it)).collect();
    let come = bytes.chunks(frame).map(Bytes::copy_from_slice).collect();
    Frames { come, ends: true }
}

fn open(mut frames: Frames) -> Frames {
    frames.ends = false;
    frames
}

/// A budget with room for one large message.
fn budget() -> RequestBudget {
    let limits = RequestLimits {
        message_bytes_max: LARGE + 10,
        message_fields_max: 10,
        request_bytes_max: LARGE + 10,
        message_timeout: Duration::from_secs(60),
    };
    RequestBudget::new(limits, HashSet::from([STREAM[1..].to_owned()]))
}

/// The next piece of a body; `None` at its end.
async fn piece(body: &mut Weighed<Frames>) -> std::result::Result<Option<Bytes>, Status> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
    frame
        .transpose()
        .map(|frame| frame.map(|frame| frame.into_data().unwrap()))
}

/// Calls with this body. The answer is the body, once all of it was read and `answer` was given.
async fn call(
    budget: &RequestBudget,
    body: Frames,
    answer: oneshot::Receiver<()>,
) -> std::result::Result<Vec<Bytes>, Status> {
    let answer = Arc::new(Mutex::new(Some(answer)));
    let service = tower::service_fn(move |request: Request<Weighed<Frames>>| {
        let answer = answer.lock().unwrap().take().unwrap();
        async move {
            let mut body = request.into_body();
            let mut pieces = Vec::new();
            while let Some(piece) = piece(&mut body).await? {
                pieces.push(piece);
            }
            drop(body);
            answer.await.ok();
            Ok::<_, Status>(Response::new(pieces))
        }
    });
    let request = Request::post(UNARY).body(body).unwrap();
    let response = budget.layer(service).call(request).await?;
    Ok(response.into_body())
}

fn weighed(budget: &RequestBudget, body: Frames, path: &str) -> (Held, Weighed<Frames>) {
    let held = Held::default();
    let streams = budget.0.is_stream(path);
    let body = Weighed::new(body, Arc::clone(&budget.0), Arc::clone(&held), streams);
    (held, body)
}

#[tokio::test]
async fn a_body_is_handed_on_whole_however_it_is_cut() {
    let messages = [3, 0, 1000, 0, 6, 20_000, 1];
    let expected: Vec<u8> = messages.iter().flat_map(|&it| message(it)).collect();
    for frame in [1, 4, 5, 6, 7, 1000, 16_384, usize::MAX] {
        let budget = budget();
        let (_, mut body) = weighed(&budget, frames(&messages, frame), STREAM);
        let mut came = Vec::new();
        while let Some(piece) = piece(&mut body).await.unwrap() {
            came.extend(piece);
        }
        assert!(came == expected, "frames of {frame}");
    }
}

#[tokio::test]
async fn a_unary_call_keeps_its_place_until_it_is_answered() {
    let budget = budget();
    let (answer, answered) = oneshot::channel();
    let (first, second) = (frames(&[LARGE], 16_384), frames(&[LARGE], 16_384));
    let mut first = std::pin::pin!(call(&budget, first, answered));
    let mut second = std::pin::pin!(call(&budget, second, oneshot::channel().1));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert_eq!(budget.0.large.available_permits(), 10);
    assert!(futures_util::poll!(&mut second).is_pending());
    // Small ones pass meanwhile.
    let small = call(&budget, frames(&[1000], 10), oneshot::channel().1);
    assert_eq!(small.await.unwrap().concat().len(), 1005);

    answer.send(()).unwrap();
    first.await.unwrap();
    assert_eq!(second.await.unwrap().concat().len(), LARGE + 5);
    assert_eq!(budget.0.large.available_permits(), LARGE + 10);
    assert_eq!(
        budget.0.waiters.available_permits(),
        limits::REQUEST_WAITERS_MAX
    );
}

#[tokio::test]
async fn a_stream_gives_its_place_back_when_it_asks_for_more() {
    let budget = budget();
    let free = || budget.0.large.available_permits();
    let messages = open(frames(&[LARGE, LARGE], usize::MAX));
    let (held, mut body) = weighed(&budget, messages, STREAM);
    for _ in 0..2 {
        let came = piece(&mut body).await.unwrap().unwrap();
        assert_eq!(
            (came.len(), free()),
            (LARGE + 5, 10),
            "one message at a time"
        );
    }
    assert!(futures_util::poll!(std::pin::pin!(piece(&mut body))).is_pending());
    assert_eq!(free(), LARGE + 10, "while it is silent it holds nothing");
    drop((held, body));
}

#[tokio::test]
async fn a_call_that_is_dropped_frees_its_place() {
    let budget = budget();
    let body = open(frames(&[LARGE], LARGE / 2));
    let mut call = Box::pin(call(&budget, body, oneshot::channel().1));
    assert!(futures_util::poll!(&mut call).is_pending());
    assert_eq!(budget.0.large.available_permits(), 10);
    drop(call);
    assert_eq!(budget.0.large.available_permits(), LARGE + 10);
}

#[tokio::test]
async fn who_waits_too_long_for_a_place_is_told_to_come_back() {
    let mut budget = budget();
    Arc::get_mut(&mut budget.0).unwrap().patience = Duration::from_millis(20);
    let (held, mut first) = weighed(&budget, open(frames(&[LARGE], 16_384)), UNARY);
    piece(&mut first).await.unwrap().unwrap();
    let refused = call(&budget, frames(&[LARGE], 16_384), oneshot::channel().1);
    let status = refused.await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    drop((held, first));
}

#[tokio::test]
async fn a_message_of_countless_fields_is_refused_as_soon_as_they_are_counted() {
    let budget = budget();
    let bytes: Vec<u8> = [&[0, 0, 0, 0, 200][..], &[0x22, 0].repeat(100)].concat();
    let come = bytes.chunks(15).map(Bytes::copy_from_slice).collect();
    let (_, mut body) = weighed(&budget, Frames { come, ends: true }, UNARY);
    assert!(piece(&mut body).await.is_ok(), "five fields");
    let status = piece(&mut body).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(
        piece(&mut body).await.unwrap().is_none(),
        "nothing follows an error"
    );
}
