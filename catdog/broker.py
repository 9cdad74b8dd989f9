"""OPTIONS, QUEUE, TASK: how Celery and Redis carry "look at job X", each option with its reason.

The message body is {"job_id": ...} and nothing else. Everything that matters is in the job record; losing all of Redis
loses no job. No result backend, no revoke, no ETA, no retry, no canvas.
"""

from typing import Any

QUEUE = "train"
TASK = "catdog.run"
KEY_PREFIX = "catdog:"

OPTIONS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "broker_connection_retry": True,
    "broker_connection_max_retries": None,  # the default of 100 ends the worker
    "broker_connection_timeout": 4,
    "broker_channel_error_retry": True,
    "broker_transport_options": {
        "visibility_timeout": 3600,
        "global_keyprefix": KEY_PREFIX,
        "client_name": "catdog",
        "socket_connect_timeout": 3,
        "socket_timeout": 15,  # more than the 1 s of a blocking pop; redis-py 8 would take 5
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": True,
        "unacked_restore_interval": 10,  # kombu >= 5.7 sweeps each 10 s instead of about 100
        "unacked_restore_throttle": 1,
    },
    "result_backend": None,
    "task_ignore_result": True,
    "accept_content": ["json"],  # no pickle, ever
    "result_accept_content": ["json"],
    "task_serializer": "json",
    "task_default_queue": QUEUE,
    "task_acks_late": False,  # the lease in the job record recovers a lost run, not the broker
    "task_reject_on_worker_lost": False,
    "task_track_started": False,
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
    "worker_pool": "prefork",
    "worker_concurrency": 1,  # one run a worker: it is a supervisor, the arithmetic is in the run's own process
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,  # nothing is reserved behind a run of six hours
    "worker_max_tasks_per_child": 50,  # whatever leaks in the supervisor ends with it
    "worker_proc_alive_timeout": 30,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_soft_shutdown_timeout": 0.0,
    "worker_enable_remote_control": False,  # no revoke: cancelling is a flag in the job record
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
}
