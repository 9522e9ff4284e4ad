//! The Helm chart, as its page says how to install it.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster;
use crate::guide;

const PAGE: &str = "envoy/helm/README.md";

/// The chart in a folder, as a release has it, and values.
pub struct Chart {
    /// The command of the page.
    pub install: String,
    _folder: TempDir,
}

impl Chart {
    /// With the values of a section of the page, changed.
    pub fn stage(section: &str, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let stage = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/helm/stage.sh");
        let module = std::path::absolute(crate::support::envoy::module())?;
        cluster::shell(&format!("'{}' '{}' 0.1.0 '{}'", stage.display(), module.display(), folder.path().display()))?;
        let mut values: Value = serde_yaml_ng::from_str(&guide::block(PAGE, section, "yaml")?)?;
        change(&mut values)?;
        std::fs::write(at("values.yaml"), values.to_string())?;
        let install = guide::block(PAGE, "Istio", "sh")?;
        let install = install.trim().replace("target/chart", &at("weir")).replace("values.yaml", &at("values.yaml"));
        Ok(Self { install, _folder: folder })
    }
}
