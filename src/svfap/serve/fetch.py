"""Files from http and https addresses that callers name, never from this machine's own network."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from socket import gaierror, getaddrinfo
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpcore

from svfap.data.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES
from svfap.errors import UserError, first_line

MAX_REDIRECTS = 5
LONGEST_NAME = 100  # bytes
LONGEST_ADDRESS = 4000  # characters
HEADERS = [("User-Agent", "svfap"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
PORTS = {"http": 80, "https": 443}
GLOBAL_UNICAST = IPv6Network("2000::/3")
TO_IPV4 = IPv6Network("2002::/16")  # 6to4


class PublicNetwork(httpcore.SyncBackend):
    """Connects to public addresses only.

    A name is resolved once, and the connection goes to the address that was checked, so a name server cannot answer
    otherwise the second time.
    """

    def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        """Raises `UserError` if any address of the host is not public."""
        return super().connect_tcp(check_public(host, port), port, *args, **kwargs)

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        raise UserError("sockets of this machine are no addresses")


def check_public(host: str, port: int = 443) -> str:
    """An IP address of a host. Raises `UserError` if there is none, or if any of them is not public."""
    try:
        found = [str(entry[4][0]) for entry in getaddrinfo(host, port)]
    except (gaierror, UnicodeError):
        raise UserError(f"{host}: no such host") from None
    if private := [address for address in found if not is_public(address)]:
        raise UserError(f"{host}: is {private[0]}, which is no public address")
    return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the whole internet; of those of IPv6 that stand for one of IPv4, only `::ffff:…` can be."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is None and (ip not in GLOBAL_UNICAST or ip in TO_IPV4):
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast


def check_address(address: str) -> None:
    """Raise `UserError` unless this is an http or https address without a password."""
    if len(address) > LONGEST_ADDRESS:
        raise UserError(f"address: has more than {LONGEST_ADDRESS} characters")
    if re.search(r"[^\x21-\x7e]|\\", address):
        raise UserError(
            "address: write spaces and characters beyond ASCII encoded, such as %20, and names of hosts as xn--…"
        )
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - raises for what is no number
    except ValueError as error:
        raise UserError(f"address: {first_line(error)}") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise UserError("address: must begin with http:// or https://, and name a host")
    if parts.username is not None or parts.password is not None:
        raise UserError("address: must not hold a user name or a password")


def name_of(address: str) -> str:
    """The name of the file at an address, as `safe_name` makes it."""
    return safe_name(unquote(urlsplit(address).path).rpartition("/")[2])


def safe_name(name: str) -> str:
    """A file name that a caller gave, without folders; what some file system or FFmpeg does not take as it is becomes `_`.

    Raises `UserError` if its suffix is that of no video or picture.
    """
    stem, dot, suffix = re.split(r"[\\/]", name)[-1].rpartition(".")
    suffix = (dot + suffix).lower()
    if suffix not in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES):
        known = ", ".join((*VIDEO_SUFFIXES, *PICTURE_SUFFIXES))
        raise UserError(f"{name[:LONGEST_NAME]!r}: is neither a video nor a picture by its suffix; known are {known}")
    plain = re.sub(
        r'(?:%22|[\x00-\x1f\x7f-\x9f\ud800-\udfff<>:"|?*%])+', "_", stem
    )  # %22: a quote, as browsers send it
    return (plain.encode()[:LONGEST_NAME].decode(errors="ignore").strip(" .-") or "video") + suffix


def fetch(
    address: str,
    target: Path,
    max_bytes: int,
    timeout_s: float,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Download a file. wanted: asked now and then; False stops the download.

    Raises `UserError`: the address is not public, does not answer with a file, sends too much, or nothing for `timeout_s`
    seconds, or less than a kilobyte per second on average.
    """
    began = time.monotonic()
    with httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=PublicNetwork()) as pool:
        for _ in range(MAX_REDIRECTS + 1):
            check_address(address)
            try:
                with pool.stream(
                    "GET",
                    httpcore.URL(address.partition("#")[0]),
                    headers=[("Host", urlsplit(address).netloc), *HEADERS],
                    extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)},
                ) as answer:
                    headers = {name.decode().lower(): value.decode("latin-1") for name, value in answer.headers}
                    if answer.status in (301, 302, 303, 307, 308) and "location" in headers:
                        address = urljoin(address, headers["location"])
                        continue
                    if answer.status != 200:
                        raise UserError(f"the address answers with status {answer.status}")
                    stated = headers.get("content-length", "")
                    if stated.isdecimal() and int(stated) > max_bytes:
                        raise UserError(
                            f"the file has {int(stated) / 1e6:.0f} MB, and at most {max_bytes / 1e6:.0f} are taken"
                        )
                    _write(answer.iter_stream(), target, max_bytes, began, timeout_s, wanted)
                    return
            except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, ValueError) as error:
                raise UserError(f"the address cannot be read ({type(error).__name__}: {first_line(error)})") from None
    raise UserError(f"the address leads to more than {MAX_REDIRECTS} others")


def _write(
    parts: Iterable[bytes], target: Path, max_bytes: int, began: float, timeout_s: float, wanted: Callable[[], bool]
) -> None:
    count = 0
    with target.open("wb") as file:
        for part in parts:
            count += len(part)
            if count > max_bytes:
                raise UserError(f"the file has more than {max_bytes / 1e6:.0f} MB, which is the most that is taken")
            if time.monotonic() - began > timeout_s + count / 1000:
                raise UserError("the address sends less than a kilobyte per second")
            if not wanted():
                raise UserError("is not wanted any more")
            file.write(part)
