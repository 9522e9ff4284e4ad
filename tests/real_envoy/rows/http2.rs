//! Streams that an HTTP/2 upstream resets, and connections that it says goodbye to.

use h2::Reason;

use super::visit_gate;
use crate::case::{Case, Outcome};
use crate::level::Version;
use crate::support::upstream::{Frame, Reply, frames, http2};

pub fn rows() -> Vec<Case> {
    let reset_details = "remote_reset";
    vec![
        reset("h2_refused_stream", Reason::REFUSED_STREAM)
            .then(Outcome::new("UR/-", "UR/503", "refused").details("remote_refused_stream_reset").seen(&[1])),
        reset("h2_internal_error", Reason::INTERNAL_ERROR)
            .then(Outcome::new("UR/-", "UR/503", "reset").details(reset_details).seen(&[1])),
        reset("h2_cancel", Reason::CANCEL)
            .then(Outcome::new("UR/-", "UR/503", "reset").details(reset_details).seen(&[1])),
        reset("h2_enhance_your_calm", Reason::ENHANCE_YOUR_CALM)
            .then(Outcome::new("UR/-", "UR/503", "reset").details(reset_details).seen(&[1])),
        reset("h2_no_error", Reason::NO_ERROR)
            .then(Outcome::new("UR/-", "UR/503", "reset").details(reset_details).seen(&[1])),
        // Some version after 1.36 began to tell it apart.
        reset("h2_protocol_error", Reason::PROTOCOL_ERROR)
            .then(
                Outcome::new("UPE/-", "UPE/502", "reset")
                    .details("protocol_error")
                    .with(|version| version > Version(1, 36)),
            )
            .then(
                Outcome::new("UR/-", "UR/503", "reset").details(reset_details).with(|version| version < Version(1, 40)),
            ),
        goaway("h2_goaway_excluding", &[Frame::GoAwayExcluding])
            .then(Outcome::new("UR/-", "UR/503", "refused").details("remote_refused_stream_reset").seen(&[1])),
        goaway("h2_goaway_including", &[Frame::GoAwayIncluding, Frame::Close])
            .then(Outcome::new("UC/-", "UC/503", "reset").details("connection_termination").seen(&[1])),
        goaway("h2_goaway_then_answer", &[Frame::GoAwayIncluding, Frame::Answer])
            .then(Outcome::new("-/200", "-/200", "answered").details("via_upstream").seen(&[1])),
        reset_in_body("h2_reset_in_body", Reason::INTERNAL_ERROR),
        reset_in_body("h2_refused_stream_in_body", Reason::REFUSED_STREAM),
    ]
}

fn reset(name: &'static str, reason: Reason) -> Case {
    Case::once(name)
        .http2()
        .upstream(move || http2(move |_| Reply::reset(reason)))
        .visit(|scene| scene.post().map(drop))
}

fn goaway(name: &'static str, script: &'static [Frame]) -> Case {
    Case::once(name).http2().upstream(move || frames(move |_| script.to_vec()))
}

fn reset_in_body(name: &'static str, reason: Reason) -> Case {
    Case::once(name)
        .http2()
        .upstream(move || http2(move |_| Reply::status(200).body("part").gate().then_reset(reason)))
        .visit(visit_gate)
        .then(Outcome::new("UR/200", "UR/200", "truncated").details("after_response_started").seen(&[1]))
}
