"""RECEIVE, DECODE, QUEUE, INFER, INSIDE, REFUSED, REQUESTS: what GET /metrics tells Prometheus; seconds and counts of this process."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGES = Histogram("catdog_predict_stage_seconds", "Seconds that pictures to predict spent in a stage.", ["stage"], buckets=_SECONDS)

RECEIVE = _STAGES.labels("receive")
"""From the head of a request to the last byte of its pictures: once for each request."""
DECODE = _STAGES.labels("decode")
"""In a decoder."""
QUEUE = _STAGES.labels("queue")
"""Waiting: for a decoder, and once more for a thread that computes; pixels of /v2 need no decoder."""
INFER = _STAGES.labels("infer")
"""One call of a network, of one picture or of those that waited together."""

INSIDE = Gauge("catdog_predict_inside", "Pictures that are admitted and not yet answered.")
REFUSED = Counter("catdog_predict_refused_total", "Pictures and requests that were not answered.", ["reason"])
"""By reason: full (a request that is not listened to, or one picture of several), slow (a body that does not come in time), disk (none
is left for a form), deadline (a picture), client_left (a request whose connection ended)."""
REQUESTS = Histogram("catdog_http_request_seconds", "Seconds until the answer is sent.", ["method", "route", "status"], buckets=_SECONDS)
