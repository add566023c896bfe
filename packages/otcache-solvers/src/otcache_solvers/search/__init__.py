"""Solvers that run the pipeline on what they try.

``anchor`` searches by ``tpe_search`` and ends with the climb of ``refine``, as ``simulated_annealing`` does;
``trial_book`` keeps their trials. ``state_dp`` plans step by step; ``gauss_newton`` moves weights.
"""
