"""`python -m worker` starts one worker."""

from worker.app import main

main()
