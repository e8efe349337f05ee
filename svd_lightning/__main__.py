"""`python -m svd_lightning` is `svd-lightning`."""

from svd_lightning.cli import main

if __name__ == "__main__":
    main()
