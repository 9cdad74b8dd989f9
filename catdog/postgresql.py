"""Impatient: a connection to PostgreSQL that does not wait for ever for a server that has stopped answering."""

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus


class Impatient(psycopg.Connection[Any]):
    """The server's own time limit (statement_timeout) is none when the server is gone."""

    seconds: float | None = None
    """What the server has for a statement; None while the connection is made, for which libpq has a limit of its own."""

    def wait(self, *args: Any, **options: Any) -> Any:
        """Let the server answer, within its limit and a second."""
        try:
            return super().wait(*args, **{**options, "timeout": self.seconds and self.seconds + 1})
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # what it answers later is nobody's
                self.pgconn.finish()
            raise
