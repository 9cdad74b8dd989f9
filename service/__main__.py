"""python -m service. Imports nothing here: the decoding processes import this file anew, under another name."""

if __name__ == "__main__":
    import sys

    from service.server import main

    sys.exit(main())
