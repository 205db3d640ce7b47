"""`gpucnn check` before anything is timed on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

from gpucnn.core.device import Device


def check_first(device: Device, *arguments: str) -> tuple[bool, str]:
    """Run `gpucnn check` on the device in a process of its own: whether it passed, and all that it
    printed.

    Each launch is waited for there, so that a failure names its kernel; and a GPU that a kernel
    left in an error state is left so for that process alone.
    """
    command = [sys.executable, "-m", "gpucnn", "check", "--device", str(device), *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, "GPUCNN_SYNC": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout.strip()
