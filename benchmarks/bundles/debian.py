"""What Debian's archive holds, fetched into the cache and unpacked there, never installed."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

from lss_rs.demo import sha256

__all__ = ["apt_get", "fetch", "read_text"]


def apt_get(*arguments: str, cwd: Path) -> None:
    """Run apt-get in a folder.

    Raises
    ------
    RuntimeError
        If there is no apt-get, or it fails.
    """
    if not shutil.which("apt-get"):
        raise RuntimeError("the data comes out of Debian's archive: this needs apt-get and dpkg-deb")
    # apt's own sandbox user may not write to a private cache, and says so.
    command = ["apt-get", *arguments, "-q", "-o", "APT::Sandbox::User=root"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed\n{done.stderr or done.stdout}")


def fetch(package: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """Unpack a package below `folder`, fetching it the first time; its files, and what was read."""
    folder.mkdir(parents=True, exist_ok=True)
    debs = sorted(folder.glob(f"{package}_*.deb"))
    if not debs:
        try:
            apt_get("download", package, cwd=folder)
        except RuntimeError:  # mirrors drop a package's older version: the lists may still name it
            apt_get("update", cwd=folder)
            apt_get("download", package, cwd=folder)
        debs = sorted(folder.glob(f"{package}_*.deb"))
    deb = debs[-1]
    root = folder / deb.stem
    if not root.is_dir():
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as part:
            subprocess.run(["dpkg-deb", "-x", deb, part], check=True)
            try:
                Path(part).rename(root)
            except OSError:
                if not root.is_dir():  # else another process was quicker
                    raise
    return root, {"package": package, "file": deb.name, "sha256": sha256(deb)}


def read_text(path: Path) -> str:
    """Text of a file, plain or compressed (.gz, and dictd's .dz, which is gzip)."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix in {".gz", ".dz"} else data).decode(errors="replace")
