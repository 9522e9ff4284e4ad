"""Writes which crates are in a build, as CycloneDX: cargo metadata … --filter-platform TARGET | python sbom.py Cargo.lock NAME

The same dependencies give the same file, to the byte: it has no serial number, and no time. Crates that serve the tests or build scripts
alone are left out.
"""

import json
import re
import sys


def checksums(lock):
    found = {}
    for package in re.split(r"^\[\[package\]\]$", lock, flags=re.M):
        fields = dict(re.findall(r'^(name|version|checksum) = "(.*)"$', package, flags=re.M))
        if "checksum" in fields:
            found[fields["name"], fields["version"]] = fields["checksum"]
    return found


def used(nodes, root):
    """The ids of the crates that end up in the build, and on which each depends."""
    edges, todo = {}, [root]
    while todo:
        name = todo.pop()
        if name not in edges:
            normal = [dep["pkg"] for dep in nodes[name]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
            edges[name] = sorted(set(normal))
            todo += normal
    return edges


def component(package, checksums, kind):
    name, version = package["name"], package["version"]
    made = {"type": kind, "bom-ref": package["id"], "name": name, "version": version}
    if package.get("license"):
        # Old manifests separate licences with a slash.
        made["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package.get("source"):
        made["purl"] = f"pkg:cargo/{name}@{version}"
    if (name, version) in checksums:
        made["hashes"] = [{"alg": "SHA-256", "content": checksums[name, version]}]
    return made


def main(lock, name):
    metadata = json.load(sys.stdin)
    packages = {package["id"]: package for package in metadata["packages"]}
    root = metadata["resolve"]["root"]
    edges = used({node["id"]: node for node in metadata["resolve"]["nodes"]}, root)
    with open(lock, encoding="utf-8") as file:
        sums = checksums(file.read())
    itself = component(packages[root], sums, "application") | {"bom-ref": name}
    # The folder of the clone is in the id that cargo gives the crate.
    ref = lambda id: name if id == root else id
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": itself | {"name": name}},
        "components": [component(packages[id], sums, "library") for id in sorted(edges) if id != root],
        "dependencies": [{"ref": ref(id), "dependsOn": edges[id]} for id in sorted(edges, key=ref)],
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
