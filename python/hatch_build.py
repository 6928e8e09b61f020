"""Names the platform of a wheel that holds programs; `cargo xtask dist` says it in NAS_PLATFORM."""

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PlatformHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        platform = os.environ.get("NAS_PLATFORM")
        if platform:
            # Any Python: the programs are started, not imported. Beside torch, whose folder is that of compiled packages.
            build_data["tag"] = f"py3-none-{platform}"
            build_data["pure_python"] = False
            build_data["shared_data"]["share"] = "share"
