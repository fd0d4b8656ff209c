"""``python -m vla_algos``: the command line, as ``vla-rl``."""

from vla_algos.cli.main import main

if __name__ == "__main__":
    main()
