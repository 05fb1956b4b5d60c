"""`python -m charm_hf_cli`, for launchers that start modules instead of commands."""

from . import main


if __name__ == "__main__":
    main()
