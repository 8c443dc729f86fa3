"""Conversions of released files that were never seen here."""
