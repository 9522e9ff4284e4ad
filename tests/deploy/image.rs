//! The OCI image of the module: what Istio and Envoy Gateway look for in it. That Docker loads it, `tests/compose/run.sh`
//! tries.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::support::envoy;

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn digest(content: &[u8]) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), content)?;
    let line = run(Command::new("sha256sum").arg(file.path()))?;
    let hex = String::from_utf8(line)?;
    Ok(format!("sha256:{}", hex.split(' ').next().unwrap_or_default()))
}

/// The files of a tar archive.
fn unpack(archive: &[u8], packed: bool) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("archive");
    std::fs::write(&file, archive)?;
    let flags = if packed { "-xzf" } else { "-xf" };
    run(Command::new("tar").arg("-C").arg(folder.path()).arg(flags).arg(&file))?;
    let names = run(Command::new("tar").arg(flags.replace('x', "t")).arg(&file))?;
    let names = String::from_utf8(names)?;
    names.lines().map(|name| Ok((name.to_owned(), std::fs::read(folder.path().join(name))?))).collect()
}

#[test]
fn one_layer_with_the_module_and_nothing_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let module = envoy::module();
    let label = "org.opencontainers.image.revision=a=b";
    let build = |name: &str| {
        let image = folder.path().join(name);
        let script = crate::shipped("image/build.py");
        run(Command::new("python3").arg(script).arg(&module).arg(&image).args(["registry.test/weir:1", label]))?;
        Ok::<_, anyhow::Error>(std::fs::read(image)?)
    };
    let image = build("one.tar")?;
    ensure!(image == build("two.tar")?, "the same module gave two images");

    let files = unpack(&image, false)?;
    let json =
        |name: &str| Ok::<Value, anyhow::Error>(serde_json::from_slice(files.get(name).context("no such file")?)?);
    // Whatever is named by its digest has that digest and size.
    let blob = |description: &Value| {
        let name = description["digest"].as_str().context("no digest")?;
        let content = files.get(&name.replace("sha256:", "blobs/sha256/")).with_context(|| format!("no {name}"))?;
        ensure!(digest(content)? == name && description["size"] == content.len(), "{description}");
        Ok(content)
    };
    ensure!(json("oci-layout")? == json!({"imageLayoutVersion": "1.0.0"}));
    let index = json("index.json")?;
    ensure!(index["manifests"].as_array().is_some_and(|list| list.len() == 1), "{index}");
    let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])?)?;
    ensure!(manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json", "{manifest}");
    ensure!(manifest["annotations"]["module.wasm.image/variant"] == "compat", "{manifest}");
    let [layer] = manifest["layers"].as_array().map_or(&[][..], Vec::as_slice) else { anyhow::bail!("{manifest}") };
    ensure!(layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip", "{layer}");
    let inside = unpack(blob(layer)?, true)?;
    ensure!(inside == BTreeMap::from([("plugin.wasm".to_owned(), std::fs::read(&module)?)]), "other files");
    let config: Value = serde_json::from_slice(blob(&manifest["config"])?)?;
    ensure!(config["rootfs"]["diff_ids"].as_array().is_some_and(|list| list.len() == 1), "{config}");
    for labels in [&manifest["annotations"], &config["config"]["Labels"]] {
        ensure!(labels["org.opencontainers.image.licenses"] == "Apache-2.0", "{labels}");
        ensure!(labels["org.opencontainers.image.revision"] == "a=b", "{labels}");
    }
    let loadable = json("manifest.json")?;
    ensure!(loadable[0]["RepoTags"] == json!(["registry.test/weir:1"]), "{loadable}");
    Ok(())
}
