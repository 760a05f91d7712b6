"""Where a ready worker can be reached: what the lifecycle hands to the data plane."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready worker's address. `api_key` is never shown, and random for each start of a worker of ours; `version` is
    Infinity's."""

    model: str
    host: str
    port: int
    api_key: str = field(repr=False)
    capabilities: frozenset[str] = frozenset()
    version: str | None = None

    @property
    def authority(self) -> str:
        """Host and port as a URL and the Host header have them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The URL that paths are appended to, without a trailing slash."""
        return f"http://{self.authority}"
