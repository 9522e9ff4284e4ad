//! What the budget cannot pay for is not retried, and nobody above is invited to retry it either.

use super::always;
use crate::case::{Case, Outcome, Scene};
use crate::level::Level;
use crate::support::client::Request;
use crate::support::upstream::{Step, answer};

pub fn cases() -> Vec<Case> {
    vec![
        Case::under("scarce", "budget_error")
            .upstream(always(answer(503, &[], "sorry")))
            .visit(|scene| two_requests(scene, "sorry"))
            .then(
                Outcome::new("-/503*3", "URX/503 -/503", "error*3")
                    .alone("error*2")
                    .budget("granted denied*2")
                    .at(Level::UNGUARDED)
                    .seen(&[3]),
            )
            .then(
                Outcome::new("-/503*3", "-/503*2", "error*3").budget("granted denied*2").at(&[Level::Guard]).seen(&[3]),
            ),
        Case::under("scarce", "budget_reset")
            .upstream(always(vec![Step::Rst]))
            .visit(|scene| two_requests(scene, ""))
            .then(
                Outcome::new("UC/-*3", "UC,URX/503 UC/503", "reset*3")
                    .alone("reset*2")
                    .budget("granted denied*2")
                    .at(Level::UNGUARDED)
                    .seen(&[3]),
            )
            // There is no answer to give but Weir's own. By the second request, retries are known not to help.
            .then(
                Outcome::new("UC/-*3 -/-", "-/503 UC/503", "reset*3 local")
                    .budget("granted denied*2")
                    .at(&[Level::Guard])
                    .seen(&[3]),
            ),
    ]
}

/// On one connection, so by one worker. The second is denied what is left to wish for.
fn two_requests(scene: &Scene<'_>, body: &str) -> anyhow::Result<()> {
    let mut connection = scene.connect()?;
    let request = Request::get(&scene.case.path());
    connection.exchange(&request)?;
    let response = connection.exchange(&request)?;
    anyhow::ensure!(response.header("x-envoy-ratelimited").is_some(), "an invitation to retry: {response:?}");
    anyhow::ensure!(response.text().contains(body), "not the upstream's: {response:?}");
    Ok(())
}
