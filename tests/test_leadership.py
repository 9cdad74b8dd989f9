"""leadership.py: one at a time, and the next one when it is gone; on a file and on a real PostgreSQL."""

import signal
import subprocess
import sys

from sqlalchemy import Engine

from catdog.database import create_engine
from catdog.leadership import Leadership
from tests.living import until
from tests.postgres import Postgres

HOLD = """
import sys
from catdog.database import create_engine
from catdog.leadership import Leadership
leader = Leadership(create_engine(sys.argv[1]), "cats")
print(leader.held(), flush=True)
sys.stdin.read()
"""


def test_of_several_one_leads_until_it_lets_go(engine: Engine) -> None:
    first, second, other = (Leadership(engine, name) for name in ("cats", "cats", "dogs"))
    assert [first.held(), second.held(), other.held()] == [True, False, True]
    assert [first.held(), second.held()] == [True, False]
    first.release()
    assert [second.held(), first.held()] == [True, False]
    for each in (first, second, other):
        each.release()


def test_a_dead_leader_leads_no_more(database_url: str, engine: Engine) -> None:
    leader = subprocess.Popen([sys.executable, "-c", HOLD, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert leader.stdout is not None and leader.stdout.readline() == b"True\n"
    successor = Leadership(engine, "cats")
    assert not successor.held()
    leader.send_signal(signal.SIGKILL)
    leader.communicate()
    until(successor.held, "the lock to be free")
    successor.release()


def cut_off(postgres: Postgres, *, but: str = "") -> None:
    """End every session that holds or asks for a lock."""
    postgres.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND pid::text <> %s", but)


def test_who_is_cut_off_leads_no_more_if_another_one_took_over(postgres: Postgres, postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    first, second = Leadership(engine, "cats"), Leadership(engine, "cats")
    assert first.held()
    cut_off(postgres)
    assert second.held()
    assert not first.held()
    cut_off(postgres)
    assert first.held() and not second.held()
    cut_off(postgres)
    assert first.held(), "nobody else came"
    postgres.restart()
    assert first.held()
    for each in (first, second):
        each.release()
    engine.dispose()


def test_without_a_database_nobody_leads_and_nobody_waits(postgres: Postgres, postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    leader = Leadership(engine, "cats")
    assert leader.held()
    postgres.stop()
    assert not leader.held()
    postgres.start()
    postgres.restart()
    assert leader.held()
    leader.release()
    engine.dispose()


def test_it_takes_no_place_in_the_pool_and_leaves_no_session_behind(postgres: Postgres, postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    leaders = [Leadership(engine, f"cats {number}") for number in range(20)]
    assert all(leader.held() for leader in leaders)
    for leader in leaders:
        leader.release()
    database = postgresql_url.partition("@/")[2].partition("?")[0]
    until(lambda: postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", database) == [(0,)], "the sessions to end")
    engine.dispose()
