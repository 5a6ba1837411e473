"""Labelled videos that are drawn here."""
