"""Runs pip, and ends with the process that started it, which holds our standard input open."""

import os
import runpy
import sys
import threading


def follow_parent():
    # Not sys.stdin: its lock would be held when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(1)


try:
    import pip  # noqa: F401
except ImportError:
    sys.exit("xtask: no pip")

threading.Thread(target=follow_parent, daemon=True).start()
sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
