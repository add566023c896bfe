"""Run the command line as ``python -m otcache``, where its script is not on the path."""

from otcache.cli import main

if __name__ == "__main__":
    main()
