//! The files of `envoy/docker-compose.yaml` fit the others. `tests/compose/run.sh` runs it.

use anyhow::{Result, ensure};

/// It is a file of its own, for readers; what matters in it must not fall behind.
#[test]
fn its_envoy_differs_from_the_shipped_one_only_where_it_must() -> Result<()> {
    let (plain, composed) = (crate::yaml("envoy.yaml")?, crate::yaml("compose/envoy.yaml")?);
    ensure!(plain["stats_config"] == composed["stats_config"], "the labels differ");
    for part in ["connect_timeout", "circuit_breakers", "load_balancing_policy", "typed_extension_protocol_options"] {
        let part_of = |file: &serde_json::Value| file["static_resources"]["clusters"][0][part].clone();
        ensure!(part_of(&plain) == part_of(&composed), "{part} differs: {}", part_of(&composed));
    }
    Ok(())
}
