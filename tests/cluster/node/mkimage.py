#!/usr/bin/env python3
"""Make an image archive of one layer out of a folder: mkimage.py FOLDER NAME:TAG OUT.tar --entrypoint '["/pause"]'."""

import argparse
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--entrypoint", type=json.loads, default=None)
    parser.add_argument("--cmd", type=json.loads, default=None)
    arguments = parser.parse_args()
    draft = arguments.out.with_suffix(".new")
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as scratch:
        write_image(arguments, Path(scratch), draft)
    os.replace(draft, arguments.out)


def write_image(arguments: argparse.Namespace, scratch: Path, out: Path) -> None:
    plain, packed = scratch / "layer.tar", scratch / "layer.tar.gz"
    tar = ["tar", "-C", arguments.folder, "--numeric-owner", "--sort=name", "-cf", plain, "."]
    subprocess.run(tar, check=True, timeout=300)
    with plain.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
        while block := source.read(1 << 20):
            target.write(block)
    config = {
        "architecture": machine(),
        "os": "linux",
        "config": {
            "Entrypoint": arguments.entrypoint,
            "Cmd": arguments.cmd,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(plain)]},
        "history": [{"created_by": "mkimage.py"}],
    }
    media = "application/vnd.oci.image"
    with tarfile.open(out, "w") as archive:
        described = add_blob(archive, config, f"{media}.config.v1+json")
        layer = {
            "mediaType": f"{media}.layer.v1.tar+gzip",
            "digest": digest(packed),
            "size": packed.stat().st_size,
        }
        archive.add(packed, f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}")
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": described,
            "layers": [layer],
        }
        entry = add_blob(archive, manifest, f"{media}.manifest.v1+json")
        tag = arguments.name.rpartition(":")[2]
        entry["annotations"] = {
            "io.containerd.image.name": arguments.name,
            "org.opencontainers.image.ref.name": tag,
        }
        index = {"schemaVersion": 2, "mediaType": f"{media}.index.v1+json", "manifests": [entry]}
        add_file(archive, "index.json", json.dumps(index).encode())
        add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')


def machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def add_blob(archive: tarfile.TarFile, document: dict, media_type: str) -> dict:
    content = json.dumps(document).encode()
    name = hashlib.sha256(content).hexdigest()
    add_file(archive, f"blobs/sha256/{name}", content)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content)}


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    main()
