"""Measured landscapes shipped with Flowscout; `README.md` beside this file names their sources."""
