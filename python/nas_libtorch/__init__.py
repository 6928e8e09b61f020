"""Neural architecture search: the programs `nas-segment`, `nas-classify`, `nas-detect`, and a reader of their runs.

`load_run(folder)` reads a run, `call(program, *arguments)` runs a program. Neither imports torch; `Run.module` does.
"""

from .launcher import PROGRAMS, LaunchError, call
from .reader import Run, RunError, load_run

__all__ = ["PROGRAMS", "LaunchError", "Run", "RunError", "call", "load_run"]
