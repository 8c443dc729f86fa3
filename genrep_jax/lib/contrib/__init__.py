"""Readers of formats whose released files were never seen here."""
