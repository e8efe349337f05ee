"""Steering inside other tools."""
