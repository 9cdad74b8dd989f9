"""ROUTERS: every resource of the HTTP surface, a file each."""

from fastapi import APIRouter

from service.routes import datasets, discovery, health, jobs, models, predict, problems, system

ROUTERS: list[APIRouter] = [
    discovery.router, health.router, system.router, datasets.router, jobs.router, models.router, predict.router, problems.router,
]
