"""worker: Celery <-> library words. Receives "look at job X", supervises its run. Never imports torch."""
