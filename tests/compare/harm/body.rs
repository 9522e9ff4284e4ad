//! A body that comes in parts, some time apart.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use super::super::host::Reset;

pub struct Drip {
    left: u64,
    /// Parts to go before it breaks off.
    cut: Option<u64>,
    apart: Duration,
    part: Bytes,
    trailers: Option<HeaderMap>,
    /// Until the next part.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Drip {
    /// The first part comes at once.
    pub fn new(parts: u64, apart: Duration, part: Bytes) -> Self {
        Self { left: parts, cut: None, apart, part, trailers: None, pause: None }
    }

    /// It breaks off after so many parts.
    pub fn cut_after(mut self, parts: u64) -> Self {
        self.cut = Some(parts);
        self
    }

    pub fn trailer(mut self, name: &'static str, value: u64) -> Self {
        let trailers = self.trailers.get_or_insert_default();
        trailers.insert(HeaderName::from_static(name), HeaderValue::from(value));
        self
    }
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Reset;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        if self.cut == Some(0) {
            return Poll::Ready(Some(Err(Reset)));
        }
        if self.left == 0 {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        self.left -= 1;
        self.cut = self.cut.map(|parts| parts - 1);
        if !self.apart.is_zero() {
            self.pause = Some(Box::pin(sleep(self.apart)));
        }
        Poll::Ready(Some(Ok(Frame::data(self.part.clone()))))
    }
}
