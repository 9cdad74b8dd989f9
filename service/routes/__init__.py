"""ROUTERS: every resource of the HTTP surface, a file each."""

from fastapi import APIRouter

from service.routes import datasets, discovery, doctor, epochs, health, jobs, metrics, models, predict, problems, successors, system

ROUTERS: list[APIRouter] = [
    predict.router, discovery.router, health.router, metrics.router, system.router, datasets.router, jobs.router, successors.router,
    epochs.router, doctor.router, models.router, problems.router,
]
