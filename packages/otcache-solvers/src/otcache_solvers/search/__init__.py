"""Solvers that measure what they try: a space, a book of trials, a climb."""
