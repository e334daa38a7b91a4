"""Solvers of ``H x = v``. Each is a value, and says how the solve went.

A solver asks of an operator only ``operator @ block`` for NumPy arrays ``[p]`` or ``[p, k]``;
``Exact`` uses ``operator.dense()`` where there is one, and ``Lissa`` asks for ``num_examples`` and
``operator.on(rows) @ h``, the curvature of those rows. Damping is the operator's business
(``hessian + 0.01``), so it is the same true ridge ``(H + δI)⁻¹`` for all of them.
"""
