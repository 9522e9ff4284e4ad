//! A registry with one image in it, a module as `./build.sh image` packs it; and one that never answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::{envoy, runtime};

/// What it answers, by the end of the path, and of what type that is.
type Content = HashMap<String, (String, Bytes)>;

/// Serves the module that is tested at this address, as version 0.1.0 of whatever image. The image's digest.
pub fn serve(address: SocketAddr) -> Result<String> {
    serve_module(address, &envoy::module())
}

/// Takes connections at this address, and says nothing. How many there were.
pub fn hang(address: SocketAddr) -> Result<Arc<AtomicUsize>> {
    let listener = runtime().block_on(TcpListener::bind(address))?;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    runtime().spawn(async move {
        let mut connections = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.push(stream);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(count)
}

/// Writes a module that does what the module does, and is another one: it has a custom section more.
pub fn write_another_module(path: &Path) -> Result<()> {
    Ok(std::fs::write(path, [std::fs::read(envoy::module())?.as_slice(), b"\0\x02\x01n"].concat())?)
}

/// Serves this file as the module. The image's digest.
pub fn serve_module(address: SocketAddr, module: &Path) -> Result<String> {
    let (content, digest) = content(module)?;
    let content = Arc::new(content);
    let listener = runtime().block_on(TcpListener::bind(address))?;
    runtime().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let content = Arc::clone(&content);
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let end = request.uri().path().rsplit('/').next().unwrap_or_default();
                let found = content.get(end).map(|(kind, bytes)| (kind.clone(), bytes.clone()));
                async move {
                    let response = http::Response::builder();
                    let response = match found {
                        Some((kind, bytes)) => response.header("content-type", kind).body(Full::new(bytes)),
                        None => response.status(404).body(Full::default()),
                    };
                    Ok::<_, Infallible>(response.unwrap_or_default())
                }
            });
            tokio::spawn(async move {
                drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await);
            });
        }
    });
    Ok(digest)
}

fn content(module: &Path) -> Result<(Content, String)> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/image/build.py");
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    run(Command::new("python3").arg(script).arg(module).arg(&image).arg("registry.test/weir:0.1.0"))?;
    run(Command::new("tar").arg("-C").arg(folder.path()).arg("-xf").arg(&image))?;
    let index: Value = serde_json::from_slice(&std::fs::read(folder.path().join("index.json"))?)?;
    let manifest = &index["manifests"][0];
    let mut content = Content::from([(String::new(), ("application/json".to_owned(), Bytes::from_static(b"{}")))]);
    for blob in std::fs::read_dir(folder.path().join("blobs/sha256"))? {
        let blob = blob?;
        let (digest, bytes) = (format!("sha256:{}", blob.file_name().display()), std::fs::read(blob.path())?);
        content.insert(digest, ("application/octet-stream".to_owned(), bytes.into()));
    }
    let digest = manifest["digest"].as_str().context("no digest")?.to_owned();
    let bytes = content.get(&digest).context("no manifest")?.1.clone();
    let kind = manifest["mediaType"].as_str().context("no type")?.to_owned();
    content.insert("0.1.0".to_owned(), (kind.clone(), bytes.clone()));
    content.insert(digest.clone(), (kind, bytes));
    Ok((content, digest))
}
