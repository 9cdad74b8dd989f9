CREATE TABLE jobs (
  id TEXT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL,
  config JSON NOT NULL,
  resumed_from TEXT,
  idempotency_key TEXT,
  request_sha256 TEXT NOT NULL,
  phase TEXT,
  progress JSON,
  device JSON,
  error JSON,
  result JSON,
  cancel_requested BOOLEAN NOT NULL,
  attempt INTEGER NOT NULL,
  fence BIGINT NOT NULL,
  heartbeat BIGINT NOT NULL,
  owner JSON,
  losses INTEGER NOT NULL,
  furthest_phase INTEGER NOT NULL,
  furthest_step BIGINT NOT NULL,
  next_run_at DOUBLE NOT NULL,
  created TEXT NOT NULL,
  started TEXT,
  finished TEXT,
  updated TEXT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(resumed_from) REFERENCES jobs (id),
  UNIQUE (idempotency_key)
);

CREATE INDEX jobs_by_state ON jobs (state, id);

CREATE TABLE catdog_schema (
  number INTEGER NOT NULL,
  PRIMARY KEY (number)
);

CREATE TABLE events (
  seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL,
  fence BIGINT NOT NULL,
  kind TEXT NOT NULL,
  data JSON NOT NULL,
  created TEXT NOT NULL,
  FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE INDEX events_by_job ON events (job_id, seq);

CREATE TABLE models (
  version INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL,
  digest TEXT NOT NULL,
  labels JSON NOT NULL,
  metrics JSON NOT NULL,
  created TEXT NOT NULL,
  UNIQUE (job_id),
  FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE TABLE aliases (
  seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  alias TEXT NOT NULL,
  version INTEGER NOT NULL,
  reason TEXT NOT NULL,
  created TEXT NOT NULL,
  FOREIGN KEY(version) REFERENCES models (version)
);

CREATE INDEX aliases_by_name ON aliases (alias, seq);

CREATE TRIGGER jobs_finished BEFORE UPDATE ON jobs WHEN OLD.state IN ('succeeded', 'failed', 'cancelled') BEGIN SELECT RAISE(ABORT, 'a finished job never changes'); END;
