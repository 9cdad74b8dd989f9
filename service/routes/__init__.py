"""ROUTERS: every resource of the HTTP surface, a file each."""

from fastapi import APIRouter

from service.routes import (
    batch,
    bulk,
    datasets,
    discovery,
    doctor,
    epochs,
    health,
    jobs,
    metrics,
    models,
    predict,
    problems,
    successors,
    system,
    v2,
    verify,
)

ROUTERS: list[APIRouter] = [
    predict.router, discovery.router, health.router, metrics.router, system.router, datasets.router, jobs.router, successors.router,
    epochs.router, doctor.router, models.router, verify.router, batch.router, bulk.router, v2.router, problems.router,
]
