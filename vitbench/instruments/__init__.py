"""Instruments: each measures one thing about a callable or a module. None knows of Case."""
