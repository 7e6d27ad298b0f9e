"""Settings of `svfap serve` and `svfap app`."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from svfap.errors import UserError
from svfap.settings import DeviceSettings, require, require_model, require_positive

TOKEN_LENGTH = 16  # characters of a given token, at least
MEGA = 10**6
GIGA = 10**9


@dataclass(frozen=True, kw_only=True)
class ServeConfig(DeviceSettings):
    """How videos are taken, predicted and kept.

    Raises `UserError` for values that cannot be used.
    """

    host: str = "127.0.0.1"
    """Address to listen on. The default is reachable from this machine alone; 0.0.0.0 from everywhere: put a proxy that
    speaks TLS before it."""
    port: int = 8000
    """Port to listen on; 0: any free one."""
    token: str | None = None
    """Secret that every caller must send, of at least 16 characters. Default: the one in FOLDER/token, drawn at the first
    start."""
    folder: Path = Path("svfap_jobs")
    """Folder for uploads, results and the list of jobs. A restarted server continues from there."""
    models: list[str] = field(default_factory=lambda: ["movement"])
    """Models that callers may choose from; the first is the default."""
    num_workers: int = 1
    """Videos that are predicted at a time, each in a process with a model of its own."""
    max_upload_mb: float = 2000.0
    """Largest file, in megabytes."""
    max_length_s: float = 7200.0
    """Longest video, in seconds."""
    max_megapixels: float = 40.0
    """Largest picture, in millions of pixels."""
    max_jobs: int = 1000
    """Jobs that wait, at most; further ones are refused until some have ended."""
    max_uploads: int = 20
    """Uploads and downloads at a time."""
    max_disk_gb: float = 50.0
    """Room that uploads and results may take."""
    upload_timeout_s: float = 30.0
    """An upload ends when this many seconds bring no data, or on average less than a kilobyte per second."""
    job_timeout_s: float | None = None
    """Longest time for one video; default: none."""
    keep_uploads_h: float | None = 24.0
    """Uploads are deleted this many hours after their job has ended; null: with the job."""
    keep_results_h: float | None = None
    """Jobs are deleted with their results this many hours after they have ended; default: never."""
    addresses: bool = True
    """Whether callers may name an http or https address in place of a file. Addresses in this machine's own network are
    refused in any case."""

    def __post_init__(self) -> None:
        DeviceSettings.__post_init__(self)
        require(self, 1, "num_workers", "max_jobs", "max_uploads")
        require(self, 0, "port", "keep_uploads_h", "keep_results_h")
        require_positive(self, "max_upload_mb", "max_length_s", "max_megapixels", "max_disk_gb")
        require_positive(self, "upload_timeout_s", "job_timeout_s")
        if self.max_upload_mb * MEGA > self.max_disk_gb * GIGA:
            raise UserError(
                f"max_upload_mb={self.max_upload_mb:g}: is more than max_disk_gb={self.max_disk_gb:g} has room for"
            )
        if self.port > 65535:
            raise UserError(f"port={self.port}: must be at most 65535")
        if self.token is not None and (len(self.token) < TOKEN_LENGTH or not self.token.isascii()):
            raise UserError(f"token: must have at least {TOKEN_LENGTH} characters, all of them ASCII")
        if not self.models:
            raise UserError("models=[]: name at least one model")
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"folder={self.folder}: is a file; give the name of a folder")
        for model in self.models:
            require_model(model, "models")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, kw_only=True)
class AppConfig(ServeConfig):
    """As `ServeConfig`, for one person at this machine: videos are kept as long as their results."""

    port: int = 8765
    """Port to listen on; 0: any free one."""
    keep_uploads_h: float | None = None
    """Videos are deleted this many hours after their job has ended; default: with the job, so that they can be played beside
    their timelines."""
    open_browser: bool = True
    """Open the page in a browser."""
