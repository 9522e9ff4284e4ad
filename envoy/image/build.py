"""Packs the module as an OCI image: python build.py MODULE IMAGE.tar [NAME:TAG [LABEL=VALUE...]]

FROM scratch, one layer, in it plugin.wasm and nothing else: the "compat" variant of the Wasm image specification, which
Istio and Envoy Gateway read. The file is an OCI layout, for skopeo, crane or oras, and `docker load` takes it as well. The
same module gives the same image, to the byte. Labels are annotations, too. Needs nothing but Python.

    skopeo copy oci-archive:target/weir-image.tar docker://registry.example.com/weir:0.1.0
    docker load -i target/weir-image.tar && docker tag … && docker push …
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile


def archive(files):
    """A tar of (name, bytes), the same for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def main(module, image, name="weir:latest", *labels):
    with open(module, "rb") as file:
        wasm = file.read()
    if not wasm.startswith(b"\0asm"):
        sys.exit(f"{module} is no WebAssembly module")
    labels = {
        "org.opencontainers.image.title": "Weir",
        "org.opencontainers.image.licenses": "Apache-2.0",
        **dict(label.split("=", 1) for label in labels),
    }
    blobs = {}

    def put(content, media_type):
        blobs[digest(content)] = content
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    def put_json(value, media_type):
        return put(json.dumps(value, indent=1).encode(), media_type)

    layer = archive([("plugin.wasm", wasm)])
    packed = put(gzip.compress(layer, 9, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    config = put_json(
        {
            # Docker wants an architecture; a module has none.
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        },
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = put_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [packed],
            "annotations": {"module.wasm.image/variant": "compat", **labels},
        },
        "application/vnd.oci.image.manifest.v1+json",
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    path = lambda description: "blobs/sha256/" + description["digest"].removeprefix("sha256:")
    loadable = [{"Config": path(config), "RepoTags": [name], "Layers": [path(packed)]}]
    files = [
        ("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode()),
        ("index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()),
        ("manifest.json", json.dumps(loadable).encode()),
    ]
    files += [("blobs/sha256/" + name.removeprefix("sha256:"), blob) for name, blob in blobs.items()]
    with open(image, "wb") as file:
        file.write(archive(files))
    print(f"{name} {manifest['digest']}")


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all("=" in label for label in sys.argv[4:]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
