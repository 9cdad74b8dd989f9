"""python -m service."""

if __name__ == "__main__":
    import gc
    import sys

    # What is imported stays for good: collecting between imports takes a tenth of the time until the service is ready, and looking
    # through all of it later would hold up requests.
    gc.disable()
    from service.server import main

    gc.freeze()
    gc.enable()
    sys.exit(main())
