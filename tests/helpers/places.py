"""Commands in a namespace of mounts of their own, where folders are small or cannot be written."""

import shutil
import subprocess
from pathlib import Path

import pytest

READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro /; cd /'
"""Nothing can be written but the folder and shared memory, as in a container with a read-only root."""
SMALL = 'mount -t tmpfs -o size=8m tmpfs "$1"'
"""The folder is a disk of 8 MiB."""


def mounted(script: str, folder: Path) -> list[str]:
    """The beginning of a command that runs after READ_ONLY or SMALL for a folder; skips where the system has none."""
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'set -e; {script}; shift; exec "$@"', "sh"]
    command = [*enter, str(folder)]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount in a namespace")
    return command
