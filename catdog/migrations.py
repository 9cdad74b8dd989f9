"""STEPS: how an older database becomes the present one. The n-th step leads from schema number n to n + 1.

A change of a table in database.py adds a step. A step never changes: it says in its own words what the tables were then.
"""

from collections.abc import Callable

from sqlalchemy import Connection

Step = Callable[[Connection], None]


def _gate(connection: Connection) -> None:
    """Comparisons, and how each move of an alias came about; of the moves so far nobody knows."""
    counted, number = {
        "sqlite": ("INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "INTEGER"), "postgresql": ("BIGSERIAL PRIMARY KEY", "BIGINT"),
    }[connection.dialect.name]
    for statement in (
        f"CREATE TABLE comparisons (seq {counted}, job_id TEXT NOT NULL REFERENCES jobs (id), "
        f"challenger {number} NOT NULL REFERENCES models (version), champion {number} NOT NULL REFERENCES models (version), "
        "evidence JSON NOT NULL)",
        "CREATE INDEX comparisons_by_versions ON comparisons (challenger, champion, seq)",
        "ALTER TABLE aliases ADD COLUMN how TEXT NOT NULL DEFAULT 'unchecked'",
        f"ALTER TABLE aliases ADD COLUMN comparison {number} REFERENCES comparisons (seq)",
    ):
        connection.exec_driver_sql(statement)


STEPS: tuple[Step, ...] = (_gate,)
