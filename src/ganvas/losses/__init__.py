"""Objectives that several systems share. They know torch and nothing else of Ganvas."""
