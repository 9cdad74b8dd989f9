"""main: does this machine's service say that it is ready? `python -m service.check` exits 0 or 1 with one line, for a container's health.

It runs every few seconds beside the service, so it imports nothing heavy.
"""

import http.client
import ipaddress
import sys

from catdog.errors import BadSettings
from catdog.settings import Settings

PATIENCE_SECONDS = 5.0


def main() -> int:
    """Ask once, print one line and return the exit status."""
    try:
        settings = Settings.load()
        headers = settings.authorization
    except BadSettings as error:
        return _answer(1, f"{error.message} {error.remedy}")
    connection = http.client.HTTPConnection(_host(settings), settings.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", "/health/ready", headers=headers)
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return _answer(1, f"Expected the service at port {settings.port}. Received: {type(error).__name__}: {error}.")
    finally:
        connection.close()
    return _answer(0 if response.status == 200 else 1, f"{response.status} {' '.join(body.split())[:500]}")


def _host(settings: Settings) -> str:
    """Where this machine reaches what is bound to `host`."""
    try:
        everywhere = ipaddress.ip_address(settings.host).is_unspecified
    except ValueError:
        everywhere = False
    return "127.0.0.1" if everywhere else settings.host


def _answer(status: int, line: str) -> int:
    sys.stdout.write(f"{line}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
