"""``python -m rtmo_deploy`` is the command line."""

from rtmo_deploy.cli import main

if __name__ == "__main__":
    main()
