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
  next_run_at DOUBLE PRECISION NOT NULL,
  created TEXT NOT NULL,
  started TEXT,
  finished TEXT,
  updated TEXT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(resumed_from) REFERENCES jobs (id),
  UNIQUE (idempotency_key)
);

CREATE INDEX jobs_by_state ON jobs (state, id);

COMMENT ON COLUMN jobs.losses IS 'attempts lost in a row without getting further';

COMMENT ON COLUMN jobs.furthest_phase IS 'index into progress.PHASES, over all attempts';

COMMENT ON COLUMN jobs.furthest_step IS 'step of the newest checkpoint, over all attempts';

COMMENT ON COLUMN jobs.next_run_at IS 'seconds since the epoch; only the back-off compares it';

CREATE TABLE catdog_schema (
  number SERIAL NOT NULL,
  PRIMARY KEY (number)
);

CREATE TABLE events (
  seq BIGSERIAL NOT NULL,
  job_id TEXT NOT NULL,
  fence BIGINT NOT NULL,
  kind TEXT NOT NULL,
  data JSON NOT NULL,
  created TEXT NOT NULL,
  PRIMARY KEY (seq),
  FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE INDEX events_by_job ON events (job_id, seq);

CREATE TABLE models (
  version BIGSERIAL NOT NULL,
  job_id TEXT NOT NULL,
  digest TEXT NOT NULL,
  labels JSON NOT NULL,
  metrics JSON NOT NULL,
  created TEXT NOT NULL,
  PRIMARY KEY (version),
  UNIQUE (job_id),
  FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE TABLE aliases (
  seq BIGSERIAL NOT NULL,
  alias TEXT NOT NULL,
  version BIGINT NOT NULL,
  reason TEXT NOT NULL,
  created TEXT NOT NULL,
  PRIMARY KEY (seq),
  FOREIGN KEY(version) REFERENCES models (version)
);

CREATE INDEX aliases_by_name ON aliases (alias, seq);

CREATE FUNCTION jobs_finished() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a finished job never changes' USING ERRCODE = 'integrity_constraint_violation'; END $$;

CREATE TRIGGER jobs_finished BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.state IN ('succeeded', 'failed', 'cancelled')) EXECUTE FUNCTION jobs_finished();
